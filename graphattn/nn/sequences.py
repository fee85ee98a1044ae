"""Sequences as graphs: complete, causal, and the part of a graph that looks back."""

from functools import lru_cache
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from graphattn.graph import CSRGraph

_earlier: WeakKeyDictionary[CSRGraph, CSRGraph] = WeakKeyDictionary()


def sequence_graph(length: int, causal: bool, device: torch.device | str = "cpu") -> CSRGraph:
    """Every position attends to all, or to itself and those before; kept for the last lengths."""
    return _sequence_graph(length, causal, torch.device(device))


@lru_cache(maxsize=16)
def _sequence_graph(length: int, causal: bool, device: torch.device) -> CSRGraph:
    with torch.inference_mode(False):
        nodes = torch.arange(length, device=device)
        counts = nodes + 1 if causal else torch.full_like(nodes, length)
        indptr = torch.cat([nodes.new_zeros(1), counts.cumsum(0)])
        row = nodes.repeat_interleave(counts)
        column = torch.arange(row.numel(), device=device) - indptr[row]
        return CSRGraph(indptr, column.to(torch.int32), length)


def causal_part(graph: CSRGraph) -> CSRGraph:
    """The edges of ``graph`` to the node itself and to earlier ones; kept as long as it lives."""
    if graph not in _earlier:
        with torch.inference_mode(False):
            source, target = graph.edge_index()
            _earlier[graph] = graph.filter(source <= target)
    return _earlier[graph]


def rotate(x: Tensor, base: float = 10000.0) -> Tensor:
    """Rotary position embedding of ``[..., N, H, d]`` by node number, d even (Su et al., 2021)."""
    half = x.shape[-1] // 2
    speed = base ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = torch.arange(x.shape[-3], device=x.device)[:, None, None] * speed
    sine, cosine = angle.sin().to(x.dtype), angle.cos().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


def reads_positions(model: nn.Module) -> bool:
    """Whether a layer reads the numbers of its nodes, which no part of a graph keeps.

    Such a layer has an attribute ``reads_positions``.
    """
    return any(getattr(part, "reads_positions", False) for part in model.modules())
