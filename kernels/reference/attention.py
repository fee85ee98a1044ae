"""Sparse attention by edge lists: the definition that every kernel is held against.

Readable, differentiable (twice) torch; allocates per-edge vectors and is not meant to be fast.
"""

import torch
from torch import Tensor

from graphattn.kernels.layout import Layout
from graphattn.kernels.reference.dropout import keep_mask
from graphattn.kernels.reference.edges import Edges, accumulate_dtype, edge_list, row_sum
from graphattn.kernels.reference.message import ACTIVATIONS
from graphattn.kernels.score import Results, Score


def edge_scores(query: Tensor, key: Tensor, edges: Edges, score: Score) -> tuple[Tensor, Tensor]:
    """Logits [B, E, H] and the gated products [B, E, H, Dk], both in CSR order."""
    if score.att is None:
        gated = score.scale * query[:, edges.row] * key[:, edges.col]
    else:
        phi = ACTIVATIONS[score.activation]
        gated = score.att * phi(query[:, edges.row] + key[:, edges.col], score.slope)
    if score.gate is not None:
        gated = gated * score.gate[edges.id]
    logit = gated.sum(-1)
    if score.edge_attr is not None and score.edge_query is not None:
        features = score.edge_attr[edges.id, None]
        logit = logit + (score.edge_query[:, edges.row] * features).sum(-1)
    if score.clamp is not None:
        logit = logit.clamp(-score.clamp, score.clamp)
    if score.bias is not None:
        logit = logit + edge_bias(score.bias, score.bias_index, edges.id)
    if score.mask is not None:
        logit = logit.masked_fill(~survives(score.mask, edges.id, logit.shape[2]), -torch.inf)
    return logit, gated


def edge_bias(bias: Tensor, index: Tensor | None, edge: Tensor) -> Tensor:
    """Bias of each of some edges, [E, H] or [E, 1]."""
    if index is not None:
        return bias[:, index[edge]].T
    return bias[edge, None] if bias.dim() == 1 else bias[edge]


def survives(mask: Tensor, edge: Tensor, heads: int) -> Tensor:
    """The bits of a mask [B, E, W] as bool [B, E, H]."""
    head = torch.arange(heads, device=mask.device)
    return (mask[:, edge][:, :, head // 32] >> (head % 32)) & 1 != 0


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
    value: Tensor | None,
    rows: Layout,
    score: Score,
    return_gated: bool = False,
) -> Results:
    """Softmax attention of every CSR row over its neighbours; the logits alone without a value.

    query [B, R, H, Dk], key [B, C, H, Dk], value [B, C, H, Dv]; see ``Results``.
    """
    high = accumulate_dtype(query)
    edges, score = edge_list(rows), score.spelled_out(rows)
    names = "bias", "gate", "edge_attr", "edge_query", "att"
    wide = {name: getattr(score, name) for name in names}
    score = score._replace(**{name: t if t is None else t.to(high) for name, t in wide.items()})
    logit, gated = edge_scores(query.to(high), key.to(high), edges, score)
    products = gated[:, edges.id.argsort()].to(query.dtype) if return_gated else None
    if value is None:
        return Results(gated=products, scores=logit[:, edges.id.argsort()])
    out, lse, edge_out = _normalise(logit, value.to(high), edges, query.shape[1], score)
    edge_out = edge_out if edge_out is None else edge_out.to(query.dtype)
    return Results(out.to(value.dtype), lse, edge_out, products)


def _normalise(
    logit: Tensor, value: Tensor, edges: Edges, num_rows: int, score: Score
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Output, LSE and edge output from the logits."""
    weight, lse = row_softmax(logit, edges.row, num_rows)
    if score.dropout_p > 0.0 and score.streams is not None:
        keep = keep_mask(score.streams, edges.id, score.dropout_p)
        keep = keep.T.view(*weight.shape[::2], -1).transpose(1, 2)
        weight = weight * keep / (1.0 - score.dropout_p)
    out = row_sum(weight[..., None] * value[:, edges.col], edges.row, num_rows)
    if score.edge_attr is None:
        return out, lse, None
    messages = weight[..., None] * score.edge_attr[edges.id, None]
    return out, lse, row_sum(messages, edges.row, num_rows)
