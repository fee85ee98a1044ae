"""attention: softmax attention of every node over its neighbours in a graph."""

import math
from typing import Any, Literal, TypedDict, Unpack, overload

import torch
from torch import Tensor
from torch.autograd import forward_ad

from graphattn.graph import CSRGraph, as_graph
from graphattn.kernels.reference import attention as reference
from graphattn.ops._dispatch import resolve
from graphattn.ops.attention_op import attention_op, flatten
from graphattn.ops.checks import check_edge_tensor, check_numbers, check_qkv, check_same_dtype
from graphattn.ops.merge import add_null_key


class Options(TypedDict, total=False):
    """Keywords of :func:`attention` that do not decide how many results it returns."""

    scale: float | None
    bias: Tensor | None
    gate: Tensor | None
    edge_attr: Tensor | None
    edge_proj: Tensor | None
    clamp: float | None
    eps: float
    null_logit: Tensor | float | None
    dropout_p: float
    impl: str


@overload
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    graph: Any,
    *,
    return_lse: Literal[False] = False,
    return_gated: Literal[False] = False,
    **options: Unpack[Options],
) -> Tensor: ...


@overload
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    graph: Any,
    *,
    return_lse: bool = False,
    return_gated: bool = False,
    **options: Unpack[Options],
) -> Any: ...


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    graph: Any,
    *,
    scale: float | None = None,
    bias: Tensor | None = None,
    gate: Tensor | None = None,
    edge_attr: Tensor | None = None,
    edge_proj: Tensor | None = None,
    clamp: float | None = None,
    eps: float = 0.0,
    null_logit: Tensor | float | None = None,
    dropout_p: float = 0.0,
    return_lse: bool = False,
    return_gated: bool = False,
    impl: str = "auto",
) -> Any:
    r"""Attend from every row of ``graph`` to its neighbours.

    .. math::
        s_{ij} = \mathrm{clamp}\Big(\mathrm{scale} \sum_c q_{ic}\, (k_j + P a_{ij})_c\, g_{ijc}\Big)
                 + b_{ij}, \qquad
        o_i = \frac{\sum_j e^{s_{ij}} (v_j + P a_{ij})}{\varepsilon + \sum_j e^{s_{ij}}}

    Args:
        query: ``[..., rows, H, Dk]``; leading batch dimensions share the graph.
        key: ``[..., cols, Hkv, Dk]``; query head ``h`` reads head ``h // (H / Hkv)``.
        value: ``[..., cols, Hkv, Dv]``.
        graph: A :class:`CSRGraph` or whatever :func:`as_graph` takes. Edge tensors below are in
            the caller's edge order.
        scale: Factor of the dot product; ``None`` means ``Dk ** -0.5``.
        bias: Added to the logits, ``[E]`` or ``[E, H]``; ``-inf`` masks an edge.
        gate: Per-channel factor inside the dot product, ``[E, H, Dk]`` (Dwivedi-Bresson).
        edge_attr: Edge features ``[E, F]``, added to key and value after ``edge_proj``.
        edge_proj: Projection ``P`` of the edge features, ``[H, D, F]``; needs ``Dk == Dv``.
        clamp: Limit ``c`` of the scaled dot product to ``[-c, c]``; the gradient outside is 0.
        eps: Added to the denominator; counts in the LSE.
        null_logit: Logit of one more key with zero value, scalar, ``[H]`` or ``[rows, H]``;
            counts in the LSE.
        dropout_p: Probability of dropping a weight, in [0, 1); the others are scaled up.
        return_lse: Also return the natural log of the denominators ``[..., rows, H]`` in float32
            (float64 for float64); differentiable.
        return_gated: Also return ``scale * q * k * gate`` per edge, ``[..., E, H, Dk]``.
        impl: ``"auto"``, ``"reference"``, ``"cpu"`` (Numba) or ``"triton"``; never changes the
            meaning.

    Returns:
        ``out [..., rows, H, Dv]``; ``(out, lse)``; ``(out, gated)``; ``(out, lse, gated)``.
        A row without neighbours (or fully masked) has output 0 and LSE ``-inf``.

    Raises:
        ValueError: shapes, devices or ranges do not fit; the message says which.
        TypeError: a dtype is not floating point, or dtypes differ.
        BackendUnavailable: ``impl`` cannot run here.

    Memory O(N H D + E): beyond inputs and outputs, only the LSE is kept for backward; no tensor
    of size E x D is made, except copies of half-precision edge tensors, which the CPU reads in
    float32. Deterministic bit for bit, forward and backward. The backward pass recomputes the
    weights (Rabe and Staats, 2021; Dao et al., 2022). Forward-mode differentiation and
    ``torch.func`` transforms need ``impl="reference"``.
    """
    graph = as_graph(graph)
    check_qkv(query, key, value, graph)
    check_numbers(scale, clamp, eps, dropout_p)
    query, key, value = _autocast(query, key, value)
    check_same_dtype(query, key, value)
    check_edge_options(query, value, graph, bias, gate, edge_attr, edge_proj, return_gated)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    lead, heads = query.shape[:-3], query.shape[-2]
    q, k, v = fold_batch(query, heads), fold_batch(key, heads), fold_batch(value, heads)
    impl = resolve(impl, q.device)
    edge_attr, edge_proj, edge_query = project_query(q, edge_attr, edge_proj, scale)
    out, lse, edge_out, gated = _run(
        impl,
        (q, k, v),
        graph,
        bias=None if bias is None else bias.to(accumulate_dtype(q)),
        gate=None if gate is None else gate.to(q.dtype),
        edge_attr=edge_attr,
        edge_query=edge_query,
        streams=_streams(q, dropout_p),
        scale=float(scale),
        clamp=None if clamp is None else float(clamp),
        dropout_p=float(dropout_p),
        return_gated=return_gated,
    )
    if edge_proj is not None and edge_out is not None:
        out = out + torch.einsum("brhf,hdf->brhd", edge_out, edge_proj).to(out.dtype)
    out, lse = add_null_key(out, lse, null_logit, eps)
    asked = (True, return_lse, return_gated)
    found = [t for t, wanted in zip((out, lse, gated), asked, strict=True) if wanted]
    results = [t.reshape(lead + t.shape[1:]) for t in found if t is not None]
    return results[0] if len(results) == 1 else tuple(results)


def _run(
    impl: str, qkv: tuple[Tensor, Tensor, Tensor], graph: CSRGraph, **options: Any
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Call the reference with plain autograd, or the fused operator."""
    if impl == "reference":
        return reference.attention_forward(*qkv, graph.rows_layout(impl), **options)
    if forward_ad._current_level >= 0:  # the fused operator would silently drop the tangents
        raise ValueError(
            f"impl={impl!r} has no forward-mode derivative; pass impl='reference' under "
            "torch.func.jvp and torch.autograd.forward_ad"
        )
    edge = tuple(options.pop(name) for name in ("bias", "gate", "edge_attr", "edge_query"))
    streams = options.pop("streams")
    training = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (*qkv, *edge)
    )
    cols = flatten(graph.t().rows_layout(impl)) if training else []
    rows = flatten(graph.rows_layout(impl))
    fused: tuple[Tensor, Tensor, Tensor, Tensor]
    fused = attention_op(*qkv, rows, cols, *edge, streams, *options.values(), impl)
    return fused


def project_query(
    query: Tensor, edge_attr: Tensor | None, edge_proj: Tensor | None, scale: float
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Edge features and projection in query's dtype, and the scaled query seen by the features.

    q . (k + P a) = q . k + (P^T q) . a, so that no projected edge feature [E, H, D] is needed.
    """
    if edge_attr is None or edge_proj is None:
        return None, None, None
    edge_attr, edge_proj = edge_attr.to(query.dtype), edge_proj.to(query.dtype)
    return edge_attr, edge_proj, torch.einsum("brhd,hdf->brhf", scale * query, edge_proj)


def check_edge_options(
    query: Tensor,
    value: Tensor,
    graph: CSRGraph,
    bias: Tensor | None,
    gate: Tensor | None,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    return_gated: bool,
) -> None:
    """Check the per-edge tensors and which of them may be combined."""
    edges, heads, width = graph.num_edges, query.shape[-2], query.shape[-1]
    if bias is not None:
        check_edge_tensor("bias", bias, graph, (edges,), (edges, heads))
    if gate is not None:
        check_edge_tensor("gate", gate, graph, (edges, heads, width))
    if (edge_attr is None) != (edge_proj is None):
        raise ValueError("edge_attr and edge_proj go together: pass both or neither")
    if edge_attr is None or edge_proj is None:
        return
    if gate is not None or return_gated:
        raise ValueError(
            "edge_attr cannot be combined with gate or return_gated; "
            "project the edge features into the gate instead"
        )
    if edge_attr.dim() != 2 or edge_attr.shape[1] == 0:
        raise ValueError(
            f"edge_attr must have shape [E, F] with F >= 1, got {list(edge_attr.shape)}"
        )
    check_edge_tensor("edge_attr", edge_attr, graph, (edges, edge_attr.shape[1]))
    if not isinstance(edge_proj, Tensor):
        raise TypeError(f"edge_proj must be a tensor [H, D, F], got {type(edge_proj).__name__}")
    wanted = (heads, width, edge_attr.shape[1])
    if tuple(edge_proj.shape) != wanted or value.shape[-1] != width:
        raise ValueError(
            f"edge_proj must have shape [H, D, F] = {list(wanted)} with one width for key and "
            f"value, got {list(edge_proj.shape)} and value width {value.shape[-1]}"
        )


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Cast as scaled_dot_product_attention does: to autocast's dtype where it is on."""
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    return tuple(t if t.dtype == torch.float64 else t.to(dtype) for t in tensors)


def accumulate_dtype(tensor: Tensor) -> torch.dtype:
    """float64 for float64, else float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def fold_batch(tensor: Tensor, heads: int) -> Tensor:
    """Fold the batch dimensions into one and spread grouped heads: [B, nodes, H, D]."""
    flat = tensor.reshape(math.prod(tensor.shape[:-3]), *tensor.shape[-3:])
    groups = heads // max(tensor.shape[-2], 1)
    return flat if groups == 1 else flat.repeat_interleave(groups, dim=2)


def _streams(query: Tensor, dropout_p: float) -> Tensor | None:
    """Two random words per (batch, head) from torch's generator: the seed of the dropout hash."""
    if dropout_p == 0.0:
        return None
    shape = (query.shape[0] * query.shape[2], 2)
    return torch.randint(0, 2**32, shape, dtype=torch.int64, device=query.device)
