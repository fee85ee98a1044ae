"""Attention against PyG's TransformerConv, eager and compiled, on generated graphs."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
from bounds import Problem
from timing import Times, interleave, no_grad, training
from torch import Tensor
from torch_geometric.nn import TransformerConv
from tqdm import tqdm

import graphattn as ga
from graphattn.datasets.generated import power_law

# name: nodes, edges, heads, head width
WORKLOADS = {
    "PL(20k, 200k) H4 D16": (20_000, 200_000, 4, 16),
    "PL(100k, 1.6M) H8 D16": (100_000, 1_600_000, 8, 16),
    "PL(100k, 1.6M) H4 D32": (100_000, 1_600_000, 4, 32),
    "PL(100k, 1.6M) H1 D64": (100_000, 1_600_000, 1, 64),
    "PL(100k, 1.6M) H8 D8": (100_000, 1_600_000, 8, 8),
}
# name in the SNAP folder: heads, head width
REAL = {"ego-twitter-undirected": (8, 16), "email-enron": (8, 16)}
TOLERANCE = 1e-3


def workloads() -> Iterator[tuple[str, Tensor, int, int, int]]:
    """Name, edges, nodes, heads and head width of every workload."""
    for name, (nodes, edges, heads, width) in WORKLOADS.items():
        yield name, power_law(nodes, edges, 0.8, 0.0), nodes, heads, width
    for name, (heads, width) in REAL.items() if os.environ.get("GRAPHATTN_DATA") else ():
        root = Path(os.environ["GRAPHATTN_DATA"], "snap")
        data = ga.load_dataset(name, root, download=False, undirected=True).data
        yield f"{name} H{heads} D{width}", data.edge_index, data.num_nodes, heads, width


def peers(edge_index: Tensor, nodes: int, compiled: bool) -> dict[str, Callable[..., Tensor]]:
    """PyG's message passing on ready query, key and value: ``propagate`` alone."""

    def eager(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        conv = TransformerConv(q.shape[1] * q.shape[2], q.shape[2], heads=q.shape[1])
        out = conv.propagate(
            edge_index, query=q, key=k, value=v, edge_attr=None, size=(nodes, nodes)
        )
        assert isinstance(out, Tensor)
        return out

    found: dict[str, Callable[..., Tensor]] = {"PyG eager": eager}
    if compiled:
        # Workloads share one code object; beyond a number of compilations torch runs it eagerly.
        torch.compiler.reset()
        found["PyG compiled"] = torch.compile(eager, dynamic=False)
    return found


def run(device: str, repeats: int, compiled: bool = True) -> tuple[list[dict[str, Any]], list[str]]:
    """Time every workload; correctness is checked before anything is timed."""
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    if not os.environ.get("GRAPHATTN_DATA"):
        notes.append("left out: real graphs; set GRAPHATTN_DATA to the folder that holds snap/")
    for name, edge_index, nodes, heads, width in tqdm(workloads(), desc="attention"):
        edge_index = edge_index.to(device)
        graph = ga.as_graph(edge_index, nodes)
        qkv = [torch.randn(nodes, heads, width, device=device) for _ in range(3)]
        leaves = [t.requires_grad_() for t in qkv]
        contestants: dict[str, Callable[..., Tensor]] = {
            "graphattn": lambda q, k, v, graph=graph: ga.attention(q, k, v, graph)
        }
        contestants |= peers(edge_index, nodes, compiled)
        contestants = _agreeing(contestants, qkv, notes, name)
        grad = torch.randn_like(qkv[0])
        forward = {peer: no_grad(call, qkv) for peer, call in contestants.items()}
        both = {peer: training(call, leaves, grad) for peer, call in contestants.items()}
        problem = Problem(nodes, graph.num_edges, heads, width)
        times = interleave(forward, repeats, device), interleave(both, repeats, device)
        rows.append({"workload": name} | _figures(problem, *times))
    return rows, notes


def _agreeing(
    contestants: dict[str, Callable[..., Tensor]], qkv: list[Tensor], notes: list[str], name: str
) -> dict[str, Callable[..., Tensor]]:
    """Keep the peers that run and agree; a peer that fails is named in the notes."""
    with torch.no_grad():
        want = contestants["graphattn"](*qkv)
    kept = {}
    for peer, call in contestants.items():
        try:
            with torch.no_grad():
                error = float((call(*qkv).view_as(want) - want).abs().max())
        except Exception as failure:
            notes.append(f"{name}: {peer} failed: {type(failure).__name__}: {failure}"[:200])
            continue
        if error < TOLERANCE:
            kept[peer] = call
        else:
            notes.append(f"{name}: {peer} differs by {error:.1e} and is left out")
    return kept


def _figures(
    problem: Problem, forward: dict[str, Times], training: dict[str, Times]
) -> dict[str, Any]:
    ours, both = forward["graphattn"], training["graphattn"]
    fwd, bwd = problem.forward(), problem.backward()
    figures: dict[str, Any] = {
        "fwd ms p20/p50/p80": "/".join(f"{1e3 * t:.1f}" for t in (ours.p20, ours.p50, ours.p80)),
        "f+b ms p20/p50/p80": "/".join(f"{1e3 * t:.1f}" for t in (both.p20, both.p50, both.p80)),
    }
    for peer in forward:
        if peer != "graphattn":
            figures[f"÷ {peer} fwd"] = forward[peer].p50 / ours.p50
            figures[f"÷ {peer} f+b"] = training[peer].p50 / both.p50
    figures["fwd GB/s of no-reuse bytes"] = fwd[1] / ours.p50 / 1e9
    figures["f+b GB/s of no-reuse bytes"] = (fwd[1] + bwd[1]) / both.p50 / 1e9
    figures["f+b GB/s of compulsory bytes"] = (fwd[0] + bwd[0]) / both.p50 / 1e9
    return figures
