"""Attention against PyG's TransformerConv, eager and compiled, and dense peers, on graphs."""

import ctypes
import os
from collections.abc import Callable
from typing import Any

import torch
import torch._dynamo
from bounds import Problem
from dense import MOST_NODES, dense_peers
from stages import Peak, anonymous
from timing import Times, interleave, no_grad, training
from torch import Tensor
from torch_geometric.nn import TransformerConv
from tqdm import tqdm
from workloads import Workload, workloads

import graphattn as ga

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Largest |difference| / |result|; peers sum in bfloat16, rows of up to 8,000 edges."""
PEERS = "PyG eager", "PyG compiled", "dense SDPA", "compiled Flex"
MOST_EDGES = 50_000_000
"""Peers write E x H x D numbers several times over: with more edges they do not fit."""


def peers(work: Workload, edge_index: Tensor, compiled: bool) -> dict[str, Callable[..., Tensor]]:
    """PyG's message passing on ready query, key and value: ``propagate`` alone."""
    conv = TransformerConv(work.heads * work.width, work.width, heads=work.heads)
    size = work.nodes, work.nodes

    def eager(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = conv.propagate(edge_index, query=q, key=k, value=v, edge_attr=None, size=size)
        assert isinstance(out, Tensor)
        return out

    found: dict[str, Callable[..., Tensor]] = {PEERS[0]: eager}
    if compiled:
        # Workloads share one code object; beyond a number of compilations torch runs it eagerly.
        torch.compiler.reset()
        found[PEERS[1]] = torch.compile(eager, dynamic=False)
    if work.nodes <= MOST_NODES and compiled:
        found |= dense_peers(edge_index, work.nodes, str(edge_index.device))
    return found


def run(device: str, repeats: int, compiled: bool = True) -> tuple[list[dict[str, Any]], list[str]]:
    """Time every workload; correctness is checked before anything is timed."""
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    if device == "cpu":
        notes.append("torch's FlexAttention has no backward on the CPU")
    if device == "cpu" and not os.environ.get("GRAPHATTN_DATA"):
        notes.append("left out: real graphs; set GRAPHATTN_DATA to the folder that holds snap/")
    for work in tqdm(workloads(device), desc="attention"):
        edge_index = work.edge_index.to(device)
        graph = ga.as_graph(edge_index, work.nodes)
        shape = work.nodes, work.heads, work.width
        leaves = [
            torch.randn(shape, device=device).to(work.dtype).requires_grad_() for _ in range(3)
        ]
        contestants: dict[str, Callable[..., Tensor]] = {
            "graphattn": lambda q, k, v, graph=graph: ga.attention(q, k, v, graph)
        }
        if graph.num_edges <= MOST_EDGES:
            contestants |= peers(work, edge_index, compiled)
            contestants = _agreeing(contestants, leaves, notes, work.name)
        grad = torch.randn_like(leaves[0])
        forward = {peer: no_grad(call, leaves) for peer, call in contestants.items()}
        trained = {p: c for p, c in contestants.items() if (device, p) != ("cpu", PEERS[3])}
        both = {peer: training(call, leaves, grad) for peer, call in trained.items()}
        problem = Problem(*shape[:1], graph.num_edges, *shape[1:], leaves[0].element_size())
        times = interleave(forward, repeats, device), interleave(both, repeats, device)
        row = {"workload": work.name} | _figures(problem, *times)
        row |= _memory(both, leaves, device)
        row |= {
            f"saved MB, {peer}": _saved(contestants[peer], leaves)
            for peer in ("graphattn", PEERS[0])
            if peer in contestants
        }
        rows.append(row)
    notes.append("saved: what a forward pass keeps for the backward pass, inputs included")
    if device == "cpu":
        notes.append("peak memory: anonymous memory beyond the inputs, looked at every 20 ms")
    return rows, notes


def _memory(
    calls: dict[str, Callable[[], object]], leaves: list[Tensor], device: str
) -> dict[str, Any]:
    """Peak memory of a step beyond its inputs, in the size of the inputs; peers over ours."""
    peaks = {name: (_peak if device == "cpu" else _peak_cuda)(call) for name, call in calls.items()}
    inputs = sum(t.numel() * t.element_size() for t in leaves)
    others = {n: p for n, p in peaks.items() if n != "graphattn"}
    ratios = {f"memory of {n} ÷ ours": p / max(peaks["graphattn"], 1) for n, p in others.items()}
    return {"peak memory f+b ÷ inputs": peaks["graphattn"] / inputs} | ratios


def _peak_cuda(call: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return float(torch.cuda.max_memory_allocated() - before)


def _peak(call: Callable[[], object]) -> float:
    # What an earlier call freed and glibc kept would hide what this one takes.
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    before = anonymous()
    with Peak() as peak:
        call()
    return (peak.gib - before) * 2**30


def _saved(call: Callable[..., Tensor], leaves: list[Tensor]) -> float:
    """Megabytes that a forward pass keeps; memory that several tensors share counts once."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call(*leaves)
    return sum(kept.values()) / 1e6


def _agreeing(
    contestants: dict[str, Callable[..., Tensor]], qkv: list[Tensor], notes: list[str], name: str
) -> dict[str, Callable[..., Tensor]]:
    """Keep the peers that run and agree; a peer that fails is named in the notes."""
    with torch.no_grad():
        want = contestants["graphattn"](*qkv).float()
    kept = {}
    for peer, call in contestants.items():
        try:
            with torch.no_grad():
                error = float((call(*qkv).view_as(want) - want).norm() / want.norm())
        except Exception as failure:
            notes.append(f"{name}: {peer} failed: {type(failure).__name__}: {failure}"[:200])
            continue
        if error < TOLERANCE[qkv[0].dtype]:
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
        "fwd ms p20/p50/p80": ours.spread,
        "f+b ms p20/p50/p80": both.spread,
    }
    for peer in PEERS:
        for what, times in (("fwd", forward), ("f+b", training)):
            known = peer in times
            figures[f"÷ {peer} {what}"] = (
                times[peer].p50 / times["graphattn"].p50 if known else None
            )
    figures["fwd GB/s of no-reuse bytes"] = fwd[1] / ours.p50 / 1e9
    figures["fwd GB/s of compulsory bytes"] = fwd[0] / ours.p50 / 1e9
    figures["f+b GB/s of no-reuse bytes"] = (fwd[1] + bwd[1]) / both.p50 / 1e9
    figures["f+b GB/s of compulsory bytes"] = (fwd[0] + bwd[0]) / both.p50 / 1e9
    return figures
