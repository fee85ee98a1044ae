"""Sparse attention by edge lists: the definition that every kernel is held against.

Readable, differentiable (twice) torch; allocates per-edge vectors and is not meant to be fast.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from graphattn.kernels.layout import Layout
from graphattn.kernels.reference.dropout import keep_mask


class Edges(NamedTuple):
    """Row, column and caller's id of every CSR position, each [E] int64."""

    row: Tensor
    col: Tensor
    id: Tensor


def edge_list(rows: Layout) -> Edges:
    """Spell out a layout as an edge list."""
    count = rows.indices.shape[0]
    nodes = torch.arange(rows.indptr.shape[0] - 1, device=rows.indptr.device)
    row = torch.repeat_interleave(nodes, rows.indptr.diff(), output_size=count)
    position = torch.arange(count, device=row.device)
    identity = rows.edges.shape[0] != count or count == 0
    return Edges(row, rows.indices.to(torch.int64), position if identity else rows.edges)


def edge_scores(
    query: Tensor,
    key: Tensor,
    edges: Edges,
    *,
    scale: float,
    clamp: float | None = None,
    bias: Tensor | None = None,
    gate: Tensor | None = None,
    edge_attr: Tensor | None = None,
    edge_query: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits [B, E, H] and the gated products [B, E, H, Dk], both in CSR order.

    query [B, R, H, Dk], key [B, C, H, Dk]; edge tensors in the caller's order.
    logit = clamp(scale * sum_c q_c k_c gate_c + sum_f edge_query_f edge_attr_f) + bias.
    """
    gated = scale * query[:, edges.row] * key[:, edges.col]
    if gate is not None:
        gated = gated * gate[edges.id]
    logit = gated.sum(-1)
    if edge_attr is not None and edge_query is not None:
        logit = logit + (edge_query[:, edges.row] * edge_attr[edges.id, None]).sum(-1)
    if clamp is not None:
        logit = logit.clamp(-clamp, clamp)
    if bias is not None:
        logit = logit + (bias[edges.id, None] if bias.dim() == 1 else bias[edges.id])
    return logit, gated


def row_softmax(logit: Tensor, row: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """Weights [B, E, H] and LSE [B, R, H] of logits [B, E, H]; -inf where a row is empty.

    The weights divide by the sum instead of subtracting the LSE, which at huge logits has lost
    the log of the count.
    """
    shape = (logit.shape[0], num_rows, logit.shape[2])
    top = logit.new_full(shape, -torch.inf)
    index = row[None, :, None].expand_as(logit)
    top = top.scatter_reduce(1, index, logit.detach(), "amax")
    top = torch.where(top == -torch.inf, torch.zeros_like(top), top)
    shifted = (logit - top[:, row]).exp()
    total = logit.new_zeros(shape).index_add(1, row, shifted)
    empty = total == 0
    safe = torch.where(empty, torch.ones_like(total), total)
    lse = torch.where(empty, torch.full_like(total, -torch.inf), safe.log() + top)
    return shifted / safe[:, row], lse


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
    lse [B, R, H], edge_out [B, R, H, F] = sum_j w_ij edge_attr_ij (None without edge_attr) and
    gated [B, E, H, Dk] in the caller's edge order (None unless asked).
    """
    num_rows, high = query.shape[1], _accumulate_dtype(query)
    edges = edge_list(rows)
    wide = {"bias": bias, "gate": gate, "edge_attr": edge_attr, "edge_query": edge_query}
    wide = {name: t if t is None else t.to(high) for name, t in wide.items()}
    logit, gated = edge_scores(
        query.to(high), key.to(high), edges, scale=scale, clamp=clamp, **wide
    )
    weight, lse = row_softmax(logit, edges.row, num_rows)
    if dropout_p > 0.0 and streams is not None:
        keep = keep_mask(streams, edges.id, dropout_p).T.view(*weight.shape[::2], -1)
        weight = weight * keep.transpose(1, 2) / (1.0 - dropout_p)
    out = _row_sum(weight[..., None] * value.to(high)[:, edges.col], edges.row, num_rows)
    edge_out = None
    if wide["edge_attr"] is not None:
        messages = weight[..., None] * wide["edge_attr"][edges.id, None]
        edge_out = _row_sum(messages, edges.row, num_rows).to(query.dtype)
    gated = gated[:, edges.id.argsort()].to(query.dtype) if return_gated else None
    return out.to(value.dtype), lse, edge_out, gated


def _accumulate_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _row_sum(messages: Tensor, row: Tensor, num_rows: int) -> Tensor:
    """Sum messages [B, E, H, D] into their rows [B, R, H, D]."""
    batch, _, *rest = messages.shape
    return messages.new_zeros((batch, num_rows, *rest)).index_add(1, row, messages)
