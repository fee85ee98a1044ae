"""Layers against their peers: PyG eager and compiled, or the same layer composed in plain torch."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo
import torch.nn.functional as F
from timing import Times, interleave, no_grad, training
from torch import Tensor, nn
from torch_geometric.nn import GATv2Conv
from torch_geometric.nn.aggr import MultiAggregation
from tqdm import tqdm

import graphattn as ga
from graphattn.datasets.generated import power_law
from graphattn.models import GraphTransformer
from graphattn.nn import SINCConv, TopMAttention
from graphattn.nn.blocks import Linear
from graphattn.sparsify import Sparsified

NODES, EDGES = 100_000, 1_600_000
ARXIV_NODES, ARXIV_EDGES = 169_343, 2_484_941  # both directions and self-loops
REDUCE = ["sum", "mean", "max", "min", "std"]
TOLERANCE = 2e-3
KEYS = ("fwd ms", "f+b ms", "÷ eager fwd", "÷ eager f+b", "÷ compiled fwd", "÷ compiled f+b")

Contest = tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor]]


def multi_reduction(device: str) -> Contest:
    """Five reductions of width 128 in one pass against PyG's MultiAggregation."""
    edge_index, graph = _graph(NODES, EDGES, device)
    source, target = edge_index
    aggregation = MultiAggregation(list(REDUCE))

    def ours(x: Tensor) -> Tensor:
        return ga.aggregate(x, graph, reduce=REDUCE, cat=True)

    def theirs(x: Tensor) -> Tensor:
        return aggregation(x[source], target, dim_size=NODES)

    return ours, theirs, [torch.randn(NODES, 128, device=device).requires_grad_()]


def gatv2(device: str) -> Contest:
    """Attention with additive scores, 8 heads of 16, against ``GATv2Conv``'s message passing."""
    edge_index, graph = _graph(NODES, EDGES, device)
    conv = GATv2Conv(128, 16, heads=8, add_self_loops=False).to(device)

    def ours(query: Tensor, key: Tensor, att: Tensor) -> Tensor:
        return ga.additive_attention(query, key, key, att[0], graph)

    def theirs(query: Tensor, key: Tensor, att: Tensor) -> Tensor:
        alpha = conv.edge_updater(edge_index, x=(key, query), edge_attr=None)
        return conv.propagate(edge_index, x=(key, query), alpha=alpha)

    nodes = [torch.randn(NODES, 8, 16, device=device).requires_grad_() for _ in range(2)]
    return ours, theirs, [*nodes, conv.att]


def sinc(device: str) -> Contest:
    """A SINC layer 75 -> 75 on a graph of ogbn-arxiv's size against gather, add, phi, scatter."""
    edge_index, graph = _graph(ARXIV_NODES, ARXIV_EDGES, device)
    conv = SINCConv(75, 75, 75).to(device)
    source, target = edge_index
    degree = torch.bincount(target, minlength=ARXIV_NODES).clamp(min=1).float()
    out_degree = torch.bincount(source, minlength=ARXIV_NODES).clamp(min=1).float()
    norm = (out_degree[source] * degree[target]).rsqrt()[:, None]

    def ours(x: Tensor, *_: Tensor) -> Tensor:
        return conv(x, graph)

    def theirs(x: Tensor, *_: Tensor) -> Tensor:
        near = torch.zeros_like(x).index_add(0, target, x[source] * norm)
        own = conv.lin_query(x) + conv.lin_context(near)
        message = F.leaky_relu(own[target] + conv.lin_key(x)[source], 0.2)
        total = torch.zeros_like(own).index_add(0, target, message) / degree[:, None]
        return conv.lin_out(total)

    x = torch.randn(ARXIV_NODES, 75, device=device).requires_grad_()
    return ours, theirs, [x, *conv.parameters()]


def linear(device: str) -> Contest:
    """A linear map 75 -> 75 of as many nodes, as every layer has, against torch's."""
    ours = Linear(75, 75).to(device)

    def theirs(x: Tensor, *_: Tensor) -> Tensor:
        return F.linear(x, ours.weight, ours.bias)

    x = torch.randn(ARXIV_NODES, 75, device=device).requires_grad_()
    return lambda x, *_: ours(x), theirs, [x, *ours.parameters()]


CONTESTS = {
    "five reductions, PL(100k, 1.6M), d 128": multi_reduction,
    "GATv2 attention, PL(100k, 1.6M), H8 D16": gatv2,
    "SINC 75 -> 75, arxiv's size": sinc,
    "linear map 75 -> 75, arxiv's nodes": linear,
}


def run(device: str, repeats: int, compiled: bool = True) -> tuple[list[dict[str, Any]], list[str]]:
    """Every contest, then what compaction and the choice of m nodes bring."""
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    for name, make in tqdm(CONTESTS.items(), desc="layers"):
        ours, eager, leaves = make(device)
        peers = {"graphattn": ours, "eager": eager}
        if compiled:
            torch.compiler.reset()
            peers["compiled"] = torch.compile(eager, dynamic=False)
        rows.append({"workload": name} | _contest(name, peers, leaves, repeats, device, notes))
    rows.append(_compaction(device, repeats))
    notes += [_top_m_slope(device), _top_m_bytes()]
    return rows, notes


def _graph(nodes: int, edges: int, device: str) -> tuple[Tensor, ga.CSRGraph]:
    edge_index = power_law(nodes, edges, 0.8, 0.0).to(device)
    return edge_index, ga.as_graph(edge_index, nodes)


def _contest(
    name: str,
    peers: dict[str, Callable[..., Tensor]],
    leaves: list[Tensor],
    repeats: int,
    device: str,
    notes: list[str],
) -> dict[str, Any]:
    """Peers that agree in output and gradients, interleaved."""
    want = _results(peers["graphattn"], leaves)
    kept = {}
    for peer, call in peers.items():
        try:
            found = _results(call, leaves)
        except Exception as failure:
            notes.append(f"{name}: {peer} failed: {type(failure).__name__}: {failure}"[:200])
            continue
        error = max(
            float((a - b).norm() / b.norm().clamp(min=1e-9))
            for a, b in zip(found, want, strict=True)
        )
        if error < TOLERANCE:
            kept[peer] = call
        else:
            notes.append(f"{name}: {peer} differs by {error:.1e} and is left out")
    pull = torch.ones_like(want[0])
    forward = interleave({p: no_grad(c, leaves) for p, c in kept.items()}, repeats, device)
    both = interleave({p: training(c, leaves, pull) for p, c in kept.items()}, repeats, device)
    return _figures(forward, both)


def _results(call: Callable[..., Tensor], leaves: list[Tensor]) -> list[Tensor]:
    out = call(*leaves)
    return [out.detach(), *torch.autograd.grad(out.sin().sum(), leaves)]


def _figures(forward: dict[str, Times], both: dict[str, Times]) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(KEYS, "")
    row["fwd ms"], row["f+b ms"] = (1e3 * times["graphattn"].p50 for times in (forward, both))
    for peer in forward:
        if peer != "graphattn":
            row[f"÷ {peer} fwd"] = forward[peer].p50 / forward["graphattn"].p50
            row[f"÷ {peer} f+b"] = both[peer].p50 / both["graphattn"].p50
    return row


def _compaction(device: str, repeats: int) -> dict[str, Any]:
    """Half of the heads and edges of a 4-layer GT, deleted: the whole model is the peer."""
    _, graph = _graph(NODES, EDGES, device)
    x = torch.randn(NODES, 128, device=device)
    model = GraphTransformer(128, 128, 40, 4, 8).to(device).eval()
    pruned = Sparsified(model, 128, heads=0.5, edges=0.5).to(device).eval()
    small, fewer, _ = pruned.compact(x, graph)
    whole = GraphTransformer(128, 128, 40, 4, 8).to(device).eval()

    def training_step(network: nn.Module, over: ga.CSRGraph) -> Callable[[], object]:
        leaves = list(network.parameters())
        return lambda: torch.autograd.grad(network(x, over).square().mean(), leaves)

    pairs = {"graphattn": (small, fewer), "eager": (whole, graph)}
    forward = {n: no_grad(lambda g=g, m=m: m(x, g), []) for n, (m, g) in pairs.items()}
    both = {n: training_step(m, g) for n, (m, g) in pairs.items()}
    times = interleave(forward, repeats, device), interleave(both, repeats, device)
    name = "GT of 4 layers, width 128: half the heads and edges, against the whole"
    return {"workload": name} | _figures(*times)


def _top_m_slope(device: str) -> str:
    """Log-log slope of TopMAttention's time over the number of nodes at m = 20."""
    layer = TopMAttention(64, 4, m=20).to(device).eval()
    sizes, seconds = (10_000, 100_000, 1_000_000), []
    for nodes in sizes:
        x = torch.randn(nodes, 64, device=device)
        calls = {"top m": no_grad(lambda x=x: layer(x), [])}
        seconds.append(interleave(calls, 3, device)["top m"].p50)
    slopes = [
        math.log(seconds[i + 1] / seconds[i]) / math.log(sizes[i + 1] / sizes[i]) for i in range(2)
    ]
    return (
        "TopMAttention, width 64, m 20, forward: "
        + ", ".join(f"{n:,} nodes {1e3 * s:.1f} ms" for n, s in zip(sizes, seconds, strict=True))
        + f"; log-log slope {slopes[0]:.2f} and {slopes[1]:.2f}"
    )


def _top_m_bytes() -> str:
    """Gathered bytes of full attention over those of attention to each row's m best keys."""
    degree = EDGES / NODES
    figures = [f"m {m}: {2 * degree / (degree + m):.2f}x" for m in (1, 2, 4)]
    return (
        f"gathered bytes of full attention over top-m, mean degree {degree:.0f}, counted: "
        + ", ".join(figures)
    )
