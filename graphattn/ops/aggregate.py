"""aggregate: reduce the messages of every node's neighbours, several ways in one pass."""

import math
from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor

from graphattn.graph import CSRGraph, as_graph
from graphattn.kernels.reference import aggregate as reference
from graphattn.ops._dispatch import resolve
from graphattn.ops.aggregate_op import reduce_messages
from graphattn.ops.dims import check_float_tensor
from graphattn.ops.fused import check_reverse_mode, flat, may_train
from graphattn.ops.messages import edge_factor, find_heads, folded, names_of, split_shape


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
    cat: Literal[True],
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
    cat: bool = False,
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
        cat: Of a list: one tensor ``[..., len(reduce) * D]`` with the results of a row side by
            side, as ``torch.cat(results, -1)``; on the CPU they are written there at once.
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
    names = names_of(reduce)
    check_float_tensor("x", x, graph, 2)
    split = find_heads("x", x, graph, weight, heads)
    lead, tail = split_shape(x, split)
    per_edge, per_head = edge_factor(weight, graph, x, lead, tail[0] if split else None)
    nodes = x.reshape(math.prod(lead), graph.num_cols, *folded(tail, per_head))
    unique = tuple(name for name in reference.REDUCTIONS if name in names)
    impl = resolve(impl, x.device)
    # torch.vmap expects the batch in one place.
    mapped = torch._C._are_functorch_transforms_active()
    if cat and impl == "cpu" and len(set(names)) == len(names) and not mapped:
        out = _run(impl, nodes, per_edge, graph, tuple(names), True)
        out = out.reshape(*lead, graph.num_rows, len(names), *tail)
        return (out.transpose(-3, -2) if split else out).flatten(-2)
    out = _run(impl, nodes, per_edge, graph, unique, False)
    out = out.reshape(len(unique), *lead, graph.num_rows, *tail)
    if isinstance(reduce, str):
        return out.squeeze(0)
    found = dict(zip(unique, out.unbind(0), strict=True))
    results = [found[name] for name in names]
    return torch.cat(results, -1) if cat else results


def _run(
    impl: str,
    x: Tensor,
    weight: Tensor | None,
    graph: CSRGraph,
    names: tuple[str, ...],
    side_by_side: bool,
) -> Tensor:
    """Call the reference with plain autograd, or the fused operator."""
    if impl == "reference":
        return reference.aggregate_forward(x, weight, graph.rows_layout(impl), reduce=names)[0]
    check_reverse_mode(impl)
    cols = flat(graph.t().rows_layout(impl)) if may_train(x, weight) else []
    rows = flat(graph.rows_layout(impl))
    out: Tensor = reduce_messages(x, weight, rows, cols, ",".join(names), side_by_side, impl)[0]
    return out
