"""message_aggregate: reduce non-linear messages of every node's neighbours in one pass."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graphattn.graph import CSRGraph, as_graph
from graphattn.kernels.reference import message as reference
from graphattn.kernels.reference.aggregate import REDUCTIONS
from graphattn.ops._dispatch import resolve
from graphattn.ops.checks import check_edge_attr, check_weights
from graphattn.ops.dims import check_float_tensor
from graphattn.ops.fused import check_reverse_mode, flat, may_train
from graphattn.ops.message_op import reduce_bent
from graphattn.ops.messages import edge_factor, find_heads, folded, names_of, split_shape


def message_aggregate(
    a: Tensor,
    b: Tensor,
    graph: Any,
    weight: Tensor | None = None,
    reduce: str | Sequence[str] = "sum",
    *,
    activation: str = "identity",
    slope: float = 0.01,
    edge_attr: Tensor | None = None,
    edge_proj: Tensor | None = None,
    heads: bool | None = None,
    impl: str = "auto",
) -> Any:
    r"""Reduce the messages :math:`m_{ij} = w_{ij}\, \varphi(a_i + b_j + P e_{ij})` of every row.

    .. math::
        o_i = \bigoplus_{j \in N(i)} w_{ij}\, \varphi(a_i + b_j + P e_{ij})

    Args:
        a: The rows' part, ``[..., rows, D]`` or ``[..., rows, H, D]``.
        b: The columns' part, ``[..., cols, D]`` or ``[..., cols, H, D]``, with a's dtype.
        graph: A :class:`CSRGraph` or whatever :func:`as_graph` takes.
        weight: Factor of each message, in the caller's edge order: ``[E]``, ``[..., E]``, or with
            heads ``[E, H]`` or ``[..., E, H]``.
        reduce: As in :func:`graphattn.aggregate`: one of ``"sum"``, ``"mean"``, ``"min"``,
            ``"max"``, ``"var"``, ``"std"``, or a list of them, which costs one pass in all.
        activation: ``"identity"``, ``"relu"``, ``"leaky_relu"``, ``"gelu"`` (with erf),
            ``"silu"``, ``"tanh"`` or ``"square"``.
        slope: Of ``"leaky_relu"``.
        edge_attr: Edge features ``[E, F]`` in the caller's edge order, shared by a batch.
        edge_proj: Their projection ``P``, ``[D, F]`` or ``[H, D, F]``; for F up to about D.
        heads: Whether a and b have a head dimension; ``None`` finds out from the shapes, and asks
            where they fit both ways.
        impl: ``"auto"``, ``"reference"``, ``"cpu"`` (Numba) or ``"triton"``; never changes the
            meaning.

    Returns:
        ``[..., rows, D]`` or ``[..., rows, H, D]`` in a's dtype; a list of them, in the order of
        ``reduce``, when that is a list. Rows without edges give 0 and take no gradient.

    Raises:
        ValueError: shapes, devices or names do not fit; the message says which.
        TypeError: a tensor is not floating point, or a and b differ in dtype.
        BackendUnavailable: ``impl`` cannot run here.

    Differentiable in every tensor, twice. Ties, NaN, rounding and determinism are those of
    :func:`graphattn.aggregate`; a leaky slope of relu at 0 is the left one, as in torch.

    Memory O(N H D + E): no tensor of size E x D; phi is computed anew in the backward pass. Kept
    for it: the inputs, and two numbers per row and channel for each of var or std, max, min.
    ``torch.vmap`` maps a, b and weight. Papers: SIR-GCN and SINC-GCN (Lim, 2024 and 2025);
    GATv2's score (Brody et al., 2022); Corso et al., 2020.
    """
    graph = as_graph(graph)
    names = names_of(reduce)
    check_activation(activation, slope)
    check_float_tensor("a", a, graph, 2)
    check_float_tensor("b", b, graph, 2)
    split = find_heads("b", b, graph, weight, heads)
    lead, tail = split_shape(b, split)
    _check_rows(a, b, graph, (*lead, graph.num_rows, *tail))
    per_edge, per_head = edge_factor(weight, graph, b, lead, tail[0] if split else None)
    attr, proj = check_edge_features(edge_attr, edge_proj, graph, tail)
    form, batch = folded(tail, per_head), math.prod(lead)
    given = (
        a.reshape(batch, graph.num_rows, *form),
        b.reshape(batch, graph.num_cols, *form),
        per_edge,
        attr,
        None if proj is None else proj.to(a.dtype).reshape(*form, -1),
    )
    unique = tuple(name for name in REDUCTIONS if name in names)
    out = _run(resolve(impl, a.device), given, graph, activation, float(slope), unique)
    out = out.reshape(len(unique), *a.shape)
    if isinstance(reduce, str):
        return out.squeeze(0)
    found = dict(zip(unique, out.unbind(0), strict=True))
    return [found[name] for name in names]


def _run(
    impl: str,
    given: tuple[Any, Any, Any, Any, Any],
    graph: CSRGraph,
    activation: str,
    slope: float,
    names: tuple[str, ...],
) -> Tensor:
    """Call the reference with plain autograd, or the fused operator."""
    rows = graph.rows_layout(impl)
    if impl == "reference":
        return reference.message_forward(
            *given, rows, activation=activation, slope=slope, reduce=names
        )[0]
    check_reverse_mode(impl)
    cols = flat(graph.t().rows_layout(impl)) if may_train(*given) else []
    options = activation, slope, ",".join(names), impl
    out: Tensor = reduce_bent(*given, flat(rows), cols, *options)[0]
    return out


def check_activation(activation: str, slope: float) -> None:
    """Check the name of phi, and that its slope is a number."""
    if activation not in reference.ACTIVATIONS:
        known = ", ".join(reference.ACTIVATIONS)
        raise ValueError(f"activation must be one of {known}, got {activation!r}")
    if isinstance(slope, Tensor):
        raise TypeError("slope must be a number, got a tensor; learned slopes are not supported")
    if not math.isfinite(slope):
        raise ValueError(f"slope must be finite, got {slope}; GATv2 has 0.2")


def _check_rows(a: Tensor, b: Tensor, graph: CSRGraph, shape: tuple[int, ...]) -> None:
    if a.dtype != b.dtype:
        raise TypeError(f"a and b must share a dtype, got {a.dtype} and {b.dtype}; cast one")
    if tuple(a.shape) != shape:
        raise ValueError(
            f"a must have shape {list(shape)}: b is {list(b.shape)} and the graph has "
            f"{graph.num_rows} rows; got {list(a.shape)}"
        )


def check_edge_features(
    edge_attr: Tensor | None, edge_proj: Tensor | None, graph: CSRGraph, tail: torch.Size
) -> tuple[Tensor | None, Tensor | None]:
    """Check edge features [E, F] and their projection [*tail, F], which go together."""
    if (edge_attr is None) != (edge_proj is None):
        raise ValueError("edge_attr and edge_proj go together: pass both or neither")
    if edge_attr is None or edge_proj is None:
        return None, None
    check_edge_attr(edge_attr, graph)
    check_weights("edge_proj", edge_proj, "[..., F]", (*tail, edge_attr.shape[1]), graph)
    return edge_attr, edge_proj
