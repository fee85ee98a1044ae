"""What storage, node order, hubs and threads do to attention, each as a ratio within one run."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timing import interleave, no_grad, training
from torch import Tensor
from tqdm import tqdm

import graphattn as ga
from graphattn import CSRGraph
from graphattn.datasets.generated import power_law

Calls = dict[str, Callable[[], object]]


def run(device: str, repeats: int, compiled: bool = True) -> tuple[list[dict[str, Any]], list[str]]:
    """One row per comparison: time of the first contestant over that of the second."""
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    comparisons: list[Callable[[str], dict[str, Calls]]] = [
        _small,
        _spinning,
        _storage,
        _plan,
        _hubs,
    ]
    if os.environ.get("GRAPHATTN_DATA"):
        comparisons.insert(3, _order)
    else:
        notes.append("left out: node order; set GRAPHATTN_DATA to the folder that holds snap/")
    for compare in tqdm(comparisons, desc="graphs"):
        for name, calls in compare(device).items():
            times = interleave(calls, repeats, device)
            first, second = times
            low, high = times[first], times[second]
            rows.append(
                {
                    "comparison": name,
                    "contestants": f"{first} / {second}",
                    "ms": f"{1e3 * low.p50:.3f} / {1e3 * high.p50:.3f}",
                    "ratio": low.p50 / high.p50,
                }
            )
    return rows, notes


def _both(name: str, contestants: dict[str, tuple[CSRGraph, torch.dtype]]) -> dict[str, Calls]:
    """Forward, and forward + backward, of H8 D16 on each graph."""
    found: dict[str, Calls] = {f"{name} fwd": {}, f"{name} f+b": {}}
    for contestant, (graph, dtype) in contestants.items():
        shape = graph.num_rows, 8, 16
        qkv = [torch.randn(shape, device=graph.device).to(dtype).requires_grad_() for _ in range(3)]

        def call(q: Tensor, k: Tensor, v: Tensor, graph: CSRGraph = graph) -> Tensor:
            out = ga.attention(q, k, v, graph)
            assert isinstance(out, Tensor)
            return out

        found[f"{name} fwd"][contestant] = no_grad(call, qkv)
        found[f"{name} f+b"][contestant] = training(call, qkv, torch.randn_like(qkv[0]))
    return found


def _storage(device: str) -> dict[str, Calls]:
    graph = ga.as_graph(power_law(100_000, 1_600_000, 0.8, 0.0).to(device), 100_000)
    given = {"fp32": (graph, torch.float32), "bf16": (graph, torch.bfloat16)}
    return _both("PL(100k, 1.6M) storage", given)


def _plan(device: str) -> dict[str, Calls]:
    """All that is worked out once per graph, for both passes, against one forward pass."""
    nodes, edge_index = 100_000, power_law(100_000, 1_600_000, 0.8, 0.0).to(device)
    qkv = [torch.randn(nodes, 8, 16, device=device) for _ in range(3)]
    impl = "triton" if device == "cuda" else "cpu"
    ready = ga.as_graph(edge_index, nodes)

    def plan() -> object:
        # A copy: graphs are remembered by the tensor they were made from.
        graph = ga.as_graph(edge_index.clone(), nodes)
        return graph.rows_layout(impl), graph.t().rows_layout(impl)

    def forward() -> object:
        with torch.no_grad():
            return ga.attention(qkv[0], qkv[1], qkv[2], ready)

    return {"PL(100k, 1.6M) sort, transpose and plan": {"plan": plan, "forward": forward}}


def _spinning(device: str) -> dict[str, Calls]:
    """Twenty small attentions and products of matrices, by turns and one kind after the other.

    Right behind a product OpenMP's threads still spin on the core that attention wants, which
    ``GOMP_SPINCOUNT=10000`` in the environment shortens. Else both take equally long.
    """
    grid = ga.GridGraph((64, 64), 7, device=device)
    qkv = [torch.randn(grid.num_rows, 4, 32, device=device) for _ in range(3)]
    square = torch.randn(512, 512, device=device)

    def product() -> None:
        torch.mm(square, square)

    def attention() -> None:
        with torch.no_grad():
            ga.attention(qkv[0], qkv[1], qkv[2], grid)

    def in_turn(*calls: Callable[[], object]) -> Callable[[], object]:
        return lambda: [call() for call in calls]

    apart = in_turn(*[product] * 20, *[attention] * 20)
    by_turns = in_turn(*[product, attention] * 20)

    return {"64^2 grid, k 7, by turns with products": {"by turns": by_turns, "apart": apart}}


def _order(device: str) -> dict[str, Calls]:
    root = Path(os.environ["GRAPHATTN_DATA"], "snap")
    data = ga.load_dataset("ego-twitter-undirected", root, download=False).data
    graph = ga.as_graph(data.edge_index, data.num_nodes).to_undirected()
    mixed, _ = graph.reorder(torch.randperm(graph.num_rows, generator=torch.manual_seed(0)))
    sorted_, _ = mixed.reorder("rcm")
    given = {"random order": (mixed, torch.float32), "rcm": (sorted_, torch.float32)}
    return _both("ego-twitter order", {n: (g.to(device), d) for n, (g, d) in given.items()})


def _hubs(device: str) -> dict[str, Calls]:
    """One row and one column of 10^6 edges among 10^7, against none."""
    nodes, edges, hub = 1_000_000, 10_000_000, 1_000_000
    generator = torch.Generator().manual_seed(0)
    uniform = torch.randint(0, nodes, (2, edges), generator=generator)
    uneven = uniform.clone()
    uneven[1, :hub], uneven[0, hub : 2 * hub] = 3, 5
    given = {
        name: (ga.as_graph(edge_index, nodes).to(device), torch.float32)
        for name, edge_index in (("two hubs", uneven), ("uniform", uniform))
    }
    return _both("10^7 edges", given)


def _small(device: str) -> dict[str, Calls]:
    """Ten nodes: what a call costs beside the work, against one torch operator."""
    graph = ga.as_graph(torch.randint(0, 10, (2, 40)).to(device), 10)
    qkv = [torch.randn(10, 4, 8, device=device) for _ in range(3)]

    def attention() -> object:
        with torch.no_grad():
            for _ in range(100):
                ga.attention(qkv[0], qkv[1], qkv[2], graph)
        return None

    def yardstick() -> object:
        with torch.no_grad():
            for _ in range(100):
                torch.softmax(qkv[0], -1)
        return None

    return {"10 nodes, 40 edges, 100 calls fwd": {"attention": attention, "softmax": yardstick}}
