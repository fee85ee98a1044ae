"""aggregate: reduce the messages of every node's neighbours, several ways in one pass."""

import math
from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor

from graphattn.graph import CSRGraph, as_graph
from graphattn.kernels.reference import aggregate as reference
from graphattn.kernels.reference.edges import accumulate_dtype
from graphattn.ops._dispatch import resolve
from graphattn.ops.aggregate_op import reduce_messages
from graphattn.ops.checks import check_edge_tensor
from graphattn.ops.dims import check_float_tensor, has_heads
from graphattn.ops.fused import check_reverse_mode, flatten, may_train


@overload
def aggregate(
    x: Tensor,
    graph: Any,
    weight: Tensor | None = None,
    reduce: str = "sum",
    *,
    heads: bool | None = None,
    impl: str = "auto",
) -> Tensor: ...


@overload
def aggregate(
    x: Tensor,
    graph: Any,
    weight: Tensor | None = None,
    reduce: Sequence[str] = ...,
    *,
    heads: bool | None = None,
    impl: str = "auto",
) -> list[Tensor]: ...


def aggregate(
    x: Tensor,
    graph: Any,
    weight: Tensor | None = None,
    reduce: str | Sequence[str] = "sum",
    *,
    heads: bool | None = None,
    impl: str = "auto",
) -> Tensor | list[Tensor]:
    r"""Reduce the messages :math:`m_{ij} = w_{ij} x_j` of every row's neighbours.

    .. math::
        o_i = \bigoplus_{j \in N(i)} w_{ij}\, x_j, \qquad
        \mathrm{var}_i = \frac{1}{|N(i)|} \sum_j (m_{ij} - \bar m_i)^2

    Args:
        x: ``[..., cols, D]`` or ``[..., cols, H, D]``; leading batch dimensions share the graph.
        graph: A :class:`CSRGraph` or whatever :func:`as_graph` takes.
        weight: Factor of each edge, in the caller's edge order: ``[E]``, ``[..., E]``, or with
            heads ``[E, H]`` or ``[..., E, H]``.
        reduce: ``"sum"``, ``"mean"`` (divides by the number of edges, not by the weights),
            ``"min"``, ``"max"``, ``"var"`` (biased), ``"std"`` (its root, and 0 up to a variance
            of 1e-5, as in PyG), or a list of them, which costs one pass over the edges in all.
        heads: Whether x has a head dimension; ``None`` finds out from the shapes, and asks where
            they fit both ways.
        impl: ``"auto"``, ``"reference"``, ``"cpu"`` (Numba) or ``"triton"``; never changes the
            meaning.

    Returns:
        ``[..., rows, D]`` or ``[..., rows, H, D]`` in x's dtype; a list of them, in the order of
        ``reduce``, when that is a list. Rows without edges give 0 and take no gradient.

    Raises:
        ValueError: shapes, devices or names of reductions do not fit; the message says which.
        TypeError: x or weight is not a floating point tensor.
        BackendUnavailable: ``impl`` cannot run here.

    Differentiable in x and weight. The gradient of min and max is shared evenly among ties, as in
    ``torch.amax``; that of std is 0 where std is 0. A NaN message makes every reduction of its row
    NaN. Sums and moments are taken in float32 (float64 for float64), var and std by shifted
    sums merged block by block (Chan et al., 1983), which do not cancel. Deterministic bit for bit.

    Memory O(N H D + E): no tensor of size E x D. Kept for backward: the inputs (sum and mean
    without weights: nothing) and two numbers per row and channel for each of var or std, max, min.
    ``torch.vmap`` works; forward-mode differentiation and the other ``torch.func`` transforms need
    ``impl="reference"``.
    Several reductions of one neighbourhood: Corso et al., "Principal Neighbourhood Aggregation for
    Graph Nets", 2020.
    """
    graph = as_graph(graph)
    names = [reduce] if isinstance(reduce, str) else list(reduce)
    _check_names(names)
    check_float_tensor("x", x, graph, 2)
    split = _find_heads(x, graph, weight, heads)
    lead, tail = _split_shape(x, split)
    per_edge, per_head = _edge_factor(weight, graph, x, lead, tail[0] if split else None)
    nodes = x.reshape(math.prod(lead), graph.num_cols, *_folded(tail, per_head))
    unique = tuple(name for name in reference.REDUCTIONS if name in names)
    out = _run(resolve(impl, x.device), nodes, per_edge, graph, unique)
    out = out.reshape(len(unique), *lead, graph.num_rows, *tail)
    if isinstance(reduce, str):
        return out.squeeze(0)
    found = dict(zip(unique, out.unbind(0), strict=True))
    return [found[name] for name in names]


def _run(
    impl: str, x: Tensor, weight: Tensor | None, graph: CSRGraph, names: tuple[str, ...]
) -> Tensor:
    """Call the reference with plain autograd, or the fused operator."""
    if impl == "reference":
        return reference.aggregate_forward(x, weight, graph.rows_layout(impl), reduce=names)[0]
    check_reverse_mode(impl)
    cols = flatten(graph.t().rows_layout(impl)) if may_train(x, weight) else []
    rows = flatten(graph.rows_layout(impl))
    out: Tensor = reduce_messages(x, weight, rows, cols, ",".join(names), impl)[0]
    return out


def _check_names(names: list[str]) -> None:
    known = ", ".join(reference.REDUCTIONS)
    if not names:
        raise ValueError(f"reduce must name at least one of {known}, got an empty list")
    for name in names:
        if name not in reference.REDUCTIONS:
            raise ValueError(f"reduce must be one of {known} or a list of them, got {name!r}")


def _find_heads(x: Tensor, graph: CSRGraph, weight: Tensor | None, heads: bool | None) -> bool:
    """Whether x has heads; a weight for each edge and head says so by its shape."""
    if heads is None and isinstance(weight, Tensor) and weight.dim() > 1 and x.dim() > 2:
        per_head = graph.num_cols, graph.num_edges, x.shape[-2]
        heads = True if (x.shape[-3], *weight.shape[-2:]) == per_head else None
    return has_heads("x", x, graph.num_cols, "columns", 1, heads)


def _split_shape(x: Tensor, split: bool) -> tuple[torch.Size, torch.Size]:
    """Dimensions before and after the nodes."""
    node = x.dim() - (3 if split else 2)
    return x.shape[:node], x.shape[node + 1 :]


def _folded(tail: torch.Size, per_head: bool) -> tuple[int, int]:
    """Heads and width as the kernels see them: one head unless the weights differ by head."""
    return (tail[0], tail[1]) if per_head else (1, math.prod(tail))


def _edge_factor(
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
