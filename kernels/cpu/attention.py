"""CPU attention: torch tensors in, torch tensors out.

The definition is kernels/reference/attention.py; the passes are forward.py, backward_rows.py and
backward_columns.py. Machine code is made per (dtype, padded widths, heads per group, options), at
the first use of each; that of the backward only when a gradient is first asked for.
"""

import torch
from torch import Tensor

from graphattn.kernels.cpu.backward_columns import backward_columns
from graphattn.kernels.cpu.backward_rows import backward_rows
from graphattn.kernels.cpu.forward import forward
from graphattn.kernels.cpu.launch import address, cut, prepare
from graphattn.kernels.layout import Layout

FORWARD_BLOCK, BACKWARD_BLOCK = 32, 16


def attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: Layout,
    *,
    scale: float,
    clamp: float | None = None,
    bias: Tensor | None = None,
    gate: Tensor | None = None,
    edge_attr: Tensor | None = None,
    edge_query: Tensor | None = None,
    dropout_p: float = 0.0,
    streams: Tensor | None = None,
    return_gated: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Softmax attention of every CSR row over its neighbours.

    query [B, R, H, Dk], key [B, C, H, Dk], value [B, C, H, Dv] -> out [B, R, H, Dv],
    lse [B, R, H], edge_out [B, R, H, F] or None, gated [B, E, H, Dk] or None. Edge tensors are in
    the caller's order. A finite bias is never taken for a mask: a row of nothing but ``finfo.min``
    has equal weights. Without a bias, float32 logits must stay below 2.3e38. Memory: the outputs,
    and copies of node tensors whose widths need padding.
    """
    call = prepare(
        query, key, value, FORWARD_BLOCK, scale=scale, clamp=clamp, bias=bias, gate=gate,
        edge_attr=edge_attr, edge_query=edge_query, dropout_p=dropout_p, streams=streams,
    )  # fmt: skip
    (batch, count, heads, _), edges = query.shape, rows.indices.shape[0]
    out = call.empty(count, call.shape.value)
    lse = call.query.new_empty((batch, count, call.heads))
    edge_out = None if edge_attr is None else call.empty(count, call.shape.feature)
    gated = None
    if return_gated:
        gated = call.query.new_empty((batch, edges, heads, query.shape[3]))
    bias, gate, edge_attr, padded_query = call.edge
    call.run(
        forward, rows, key.shape[1], *map(address, (call.query, call.key, call.value, out, lse)),
        *call.terms, *map(address, (bias, gate, gated, edge_attr, padded_query, edge_out)),
        *call.dropout,
    )  # fmt: skip
    if edge_out is not None and edge_query is not None:
        edge_out = cut(edge_out, edge_query).to(query.dtype)
    lse = lse[:, :, :heads].contiguous()
    out = out[:, :, :heads, : value.shape[3]].to(value.dtype).contiguous()
    return out, lse, edge_out, gated if gated is None else gated.to(query.dtype)


def attention_backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    grad_edge_out: Tensor | None,
    grad_gated: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    edge_out: Tensor | None,
    rows: Layout,
    cols: Layout,
    *,
    scale: float,
    clamp: float | None = None,
    bias: Tensor | None = None,
    gate: Tensor | None = None,
    edge_attr: Tensor | None = None,
    edge_query: Tensor | None = None,
    dropout_p: float = 0.0,
    streams: Tensor | None = None,
    return_gated: bool = False,
    needs: tuple[bool, bool, bool, bool] = (False, False, False, False),
) -> tuple[Tensor | None, ...]:
    """Gradients of ``attention_forward``.

    ``needs``: whether the gradients of (bias, gate, edge_attr, edge_query) are wanted. Returns
    (grad_query, grad_key, grad_value, grad_bias, grad_gate, grad_edge_attr, grad_edge_query),
    those of edge tensors in the caller's order and summed over the batch, or None.

    Weights are recomputed as exp(logit - lse), so they inherit the rounding of ``lse``, 6e-8 of it
    in float32: beyond |lse| = 1e7 it cannot hold the log n of n equal logits, and their weights
    here come out as up to 1 instead of 1 / n. A mask of -inf has no such limit, one of
    ``finfo.min`` has it where it masks a whole row. Memory: the gradients, two numbers per row and
    head, and copies of node tensors whose widths need padding.
    """
    call = prepare(
        query, key, value, BACKWARD_BLOCK, scale=scale, clamp=clamp, bias=bias, gate=gate,
        edge_attr=edge_attr, edge_query=edge_query, dropout_p=dropout_p, streams=streams,
    )  # fmt: skip
    pull, done = (call.padded(t, call.shape.value) for t in (grad_out, out))
    if grad_gated is not None:
        grad_gated = grad_gated.to(call.dtype).contiguous()
    if grad_edge_out is not None and edge_out is not None:
        grad_edge_out = call.padded(grad_edge_out, call.shape.feature)
        edge_out = call.padded(edge_out, call.shape.feature)
    level, grad_level = call.padded_heads(lse), call.padded_heads(grad_lse)
    stats = call.empty(query.shape[1], 2)
    found = [torch.empty_like(t) for t in (call.query, call.key, call.value)]
    # With no batch entry or no head, no pass writes the edges' gradients.
    blank = torch.empty_like if query.shape[0] * query.shape[2] else torch.zeros_like
    wanted = [
        blank(t) if need and t is not None else None
        for need, t in zip(needs, call.edge, strict=True)
    ]
    edge = [*map(address, call.edge)]
    call.run(
        backward_rows, rows, key.shape[1],
        *map(address, (call.query, call.key, call.value, done, level, pull, grad_level)),
        *map(address, (found[0], stats)), *call.terms, *edge[:2], address(grad_gated), *edge[2:],
        *map(address, (edge_out, grad_edge_out)), *call.dropout, *map(address, wanted),
    )  # fmt: skip
    call.run(
        backward_columns, cols, query.shape[1],
        *map(address, (call.query, call.key, call.value, pull, stats, found[1], found[2])),
        *call.terms, *edge[:2], address(grad_gated), *edge[2:], address(grad_edge_out),
        *call.dropout,
    )  # fmt: skip
    if wanted[3] is not None and edge_query is not None:
        wanted[3] = cut(wanted[3], edge_query)
    nodes = [cut(grad, like) for grad, like in zip(found, (query, key, value), strict=True)]
    plain = zip(wanted, (bias, gate, edge_attr, edge_query), strict=True)
    return (*nodes, *(w if w is None else w.to(t.dtype) for w, t in plain))
