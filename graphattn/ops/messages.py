"""What reductions of messages share: names, heads, and the edge factor in the kernels' form."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from graphattn.graph import CSRGraph
from graphattn.kernels.reference import aggregate as reference
from graphattn.kernels.reference.edges import accumulate_dtype
from graphattn.ops.checks import check_edge_tensor
from graphattn.ops.dims import has_heads


def names_of(reduce: str | Sequence[str]) -> list[str]:
    """The names of reductions, checked."""
    known = ", ".join(reference.REDUCTIONS)
    if not isinstance(reduce, Sequence):
        raise TypeError(f"reduce must be one of {known} or a list of them, got {reduce!r}")
    names = [reduce] if isinstance(reduce, str) else list(reduce)
    if not names:
        raise ValueError(f"reduce must name at least one of {known}, got an empty list")
    for name in names:
        if name not in reference.REDUCTIONS:
            raise ValueError(f"reduce must be one of {known} or a list of them, got {name!r}")
    return names


def find_heads(
    name: str, x: Tensor, graph: CSRGraph, weight: Tensor | None, heads: bool | None
) -> bool:
    """Whether x has heads; a weight for each edge and head says so by its shape."""
    if heads is None and isinstance(weight, Tensor) and weight.dim() > 1 and x.dim() > 2:
        per_head = graph.num_cols, graph.num_edges, x.shape[-2]
        heads = True if (x.shape[-3], *weight.shape[-2:]) == per_head else None
    return has_heads(name, x, graph.num_cols, "columns", 1, heads)


def split_shape(x: Tensor, split: bool) -> tuple[torch.Size, torch.Size]:
    """Dimensions before and after the nodes."""
    node = x.dim() - (3 if split else 2)
    return x.shape[:node], x.shape[node + 1 :]


def folded(tail: torch.Size, per_head: bool) -> tuple[int, int]:
    """Heads and width as the kernels see them: one head unless the weights differ by head."""
    return (tail[0], tail[1]) if per_head else (1, math.prod(tail))


def edge_factor(
    weight: Tensor | None, graph: CSRGraph, x: Tensor, lead: torch.Size, heads: int | None
) -> tuple[Tensor | None, bool]:
    """The weight as [1 or B, E, H or 1] in the accumulation dtype, and whether it is per head."""
    if weight is None:
        return None, False
    edges = graph.num_edges
    leads = [(), tuple(lead)] if lead else [()]
    per_edge = [(*first, edges) for first in leads]
    with_heads = [] if heads is None else [(*first, edges, heads) for first in leads]
    check_edge_tensor("weight", weight, graph, *per_edge, *with_heads)
    per_head = tuple(weight.shape) in with_heads
    batched = weight.dim() > (2 if per_head else 1)
    shape = math.prod(lead) if batched else 1, edges, weight.shape[-1] if per_head else 1
    return weight.to(accumulate_dtype(x)).reshape(shape), per_head
