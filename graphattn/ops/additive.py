"""additive_attention and additive_scores: GATv2's score a . phi(q_i + k_j), fused."""

from typing import Any

import torch
from torch import Tensor

from graphattn.graph import CSRGraph, as_graph
from graphattn.kernels.reference import message as reference
from graphattn.ops._dispatch import resolve
from graphattn.ops.additive_op import attend_additively, attend_by_reference
from graphattn.ops.additive_scores_op import score_edges
from graphattn.ops.checks import check_normaliser, check_qkv, check_same_dtype, check_weights
from graphattn.ops.fused import check_reverse_mode, flat, may_train
from graphattn.ops.inputs import autocast, fold_batch, unfold_batch
from graphattn.ops.message_aggregate import check_activation, check_edge_features


def additive_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    att: Tensor,
    graph: Any,
    *,
    activation: str = "leaky_relu",
    slope: float = 0.2,
    edge_attr: Tensor | None = None,
    edge_proj: Tensor | None = None,
    dropout_p: float = 0.0,
    return_lse: bool = False,
    impl: str = "auto",
) -> Any:
    r"""Attend from every row to its neighbours with additive scores.

    .. math::
        s_{ij} = \sum_c a_c\, \varphi(q_i + k_j + P e_{ij})_c, \qquad
        o_i = \sum_j \mathrm{softmax}_j(s_{ij})\, v_j

    Args:
        query: ``[..., rows, H, D]``; leading batch dimensions share the graph.
        key: ``[..., cols, H, D]``.
        value: ``[..., cols, H, Dv]``.
        att: The score's vector ``a``, ``[H, D]``.
        graph: A :class:`CSRGraph` or whatever :func:`as_graph` takes.
        activation: ``phi``: a name that :func:`graphattn.message_aggregate` knows.
        slope: Of ``"leaky_relu"``; GATv2 has 0.2.
        edge_attr: Edge features ``[E, F]`` in the caller's edge order.
        edge_proj: Their projection ``P``, ``[H, D, F]``.
        dropout_p: Probability of dropping a weight, in [0, 1); the others are scaled up.
        return_lse: Also return the natural log of the denominators ``[..., rows, H]``.
        impl: ``"auto"``, ``"reference"``, ``"cpu"`` (Numba) or ``"triton"``; never changes the
            meaning.

    Returns:
        ``out [..., rows, H, Dv]`` or ``(out, lse)``. A row without neighbours has output 0 and
        LSE ``-inf``.

    Raises:
        ValueError: shapes, devices or ranges do not fit; the message says which.
        TypeError: a dtype is not floating point, or dtypes differ.
        BackendUnavailable: ``impl`` cannot run here.

    Memory O(N H D): no tensor of size E x D. On the CPU without edge features there is nothing per
    edge; elsewhere the scores [E, H] live as long as a call, and the backward pass computes them
    anew. Deterministic bit for bit; twice differentiable.
    Paper: Brody et al., 2022, https://arxiv.org/abs/2105.14491.
    """
    check_normaliser(0.0, dropout_p, None)
    graph = as_graph(graph)
    query, key, value, edge, lead = _prepare(
        query, key, value, att, graph, activation, slope, edge_attr, edge_proj
    )
    streams = None
    if dropout_p > 0.0:
        shape = (query.shape[0] * query.shape[2], 2)
        streams = torch.randint(0, 2**32, shape, dtype=torch.int64, device=query.device)
    impl = resolve(impl, query.device)
    rows, given = flat(graph.rows_layout(impl)), (query, key, value, *edge, streams)
    options = activation, float(slope), float(dropout_p)
    if impl == "reference":
        out, lse = attend_by_reference(given, rows, *options)
    else:
        check_reverse_mode(impl)
        cols = flat(graph.t().rows_layout(impl)) if may_train(*given) else []
        out, lse = attend_additively(*given, rows, cols, *options, impl)
    out = unfold_batch(out, lead)
    return (out, unfold_batch(lse, lead)) if return_lse else out


def additive_scores(
    query: Tensor,
    key: Tensor,
    att: Tensor,
    graph: Any,
    *,
    activation: str = "leaky_relu",
    slope: float = 0.2,
    edge_attr: Tensor | None = None,
    edge_proj: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """The logits of :func:`additive_attention`, ``[..., E, H]`` in the caller's edge order.

    float32 (float64 for float64), whatever the storage; differentiable. Arguments and errors are
    those of :func:`additive_attention`.
    """
    graph = as_graph(graph)
    query, key, _, given, lead = _prepare(
        query, key, None, att, graph, activation, slope, edge_attr, edge_proj
    )
    impl = resolve(impl, query.device)
    layout, slope = graph.rows_layout(impl), float(slope)
    if impl == "reference":
        found = reference.additive_scores(
            query, key, *given, layout, activation=activation, slope=slope
        )
        return unfold_batch(found, lead)
    check_reverse_mode(impl)
    cols = flat(graph.t().rows_layout(impl)) if may_train(query, key, *given) else []
    scores: Tensor = score_edges(query, key, *given, flat(layout), cols, activation, slope, impl)
    return unfold_batch(scores, lead)


def _prepare(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    att: Tensor,
    graph: CSRGraph,
    activation: str,
    slope: float,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
) -> tuple[Tensor, Tensor, Any, tuple[Any, Any, Any], torch.Size]:
    """Checked and in kernel form: query, key, value, (att, edge_attr, edge_proj), lead."""
    check_qkv(query, key, key if value is None else value, graph)
    check_activation(activation, slope)
    nodes = (query, key) if value is None else (query, key, value)
    query, key, *rest = autocast(*nodes)
    check_same_dtype(query, key, *rest)
    form = query.shape[-2:]
    check_weights("att", att, "[H, D]", tuple(form), graph)
    attr, proj = check_edge_features(edge_attr, edge_proj, graph, form)
    heads, lead = query.shape[-2], query.shape[:-3]
    folded = [fold_batch(t, heads) for t in (query, key, *rest)]
    edge = att.to(query.dtype), attr, None if proj is None else proj.to(query.dtype)
    return folded[0], folded[1], folded[2] if rest else None, edge, lead
