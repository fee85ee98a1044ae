"""CPU attention: torch tensors in, torch tensors out.

The definition is kernels/reference/attention.py; the passes are forward.py, backward_rows.py and
backward_columns.py. Machine code is made per (dtype, padded widths, heads per group, options), at
the first use of each; that of the backward only when a gradient is first asked for.
"""

from torch import Tensor

from graphattn.kernels.cpu.backward import attention_backward as attention_backward
from graphattn.kernels.cpu.forward import forward
from graphattn.kernels.cpu.grid_forward import grid_forward
from graphattn.kernels.cpu.launch import Launch, address, cut, cut_to, plain_table, prepare
from graphattn.kernels.cpu.pages import empty
from graphattn.kernels.cpu.segments import WINDOW
from graphattn.kernels.cpu.shares import Share, merge_parts, shares
from graphattn.kernels.grid import AXES, EXTENT, LONGEST, STEP
from graphattn.kernels.layout import Layout
from graphattn.kernels.score import Results, Score

FORWARD_BLOCK = 32
# Keys per query from which pairs of a grid's queries pay: 49 are 3 to 20 % faster and 169 a third,
# 25 are 15 % slower, since a head at a time reads rows in pieces.
LEAST_KEYS = 48


def attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    rows: Layout,
    score: Score,
    return_gated: bool = False,
) -> Results:
    """Softmax attention of every CSR row over its neighbours; the logits alone without a value.

    query [B, R, H, Dk], key [B, C, H, Dk], value [B, C, H, Dv]; see ``Results``. A finite bias is
    never taken for a mask: a row of nothing but ``finfo.min`` has equal weights. Without a bias,
    float32 logits must stay below 2.3e38. Memory: the outputs, copies of node tensors whose widths
    need padding, and one result for each part of a hub.
    """
    score = plain_table(score, rows, value is None or return_gated)
    call = prepare(query, key, value, FORWARD_BLOCK, score, return_gated)
    batch, _, heads, width = query.shape
    per_edge = batch, rows.indices.shape[0], heads
    gated = empty(query, (*per_edge, width), call.dtype) if return_gated else None
    scores = empty(query, per_edge, call.dtype) if value is None else None
    lse, out, edge_out = forward_shares(call, shares(rows), key.shape[1], gated, scores)
    return Results(
        out=None
        if out is None or value is None
        else cut_to(out, heads, value.shape[3], value.dtype),
        lse=lse if lse is None or call.heads == heads else lse[:, :, :heads].contiguous(),
        edge_out=None
        if edge_out is None or score.edge_query is None
        else cut(edge_out, score.edge_query),
        gated=None if gated is None else gated.to(query.dtype),
        scores=scores,
    )


def forward_shares(
    call: Launch,
    divided: list[Share],
    columns: int,
    gated: Tensor | None = None,
    scores: Tensor | None = None,
) -> list[Tensor | None]:
    """LSE, output and edge output of all rows, padded as the call is."""
    whole, *hubs = divided
    if gated is None and not hubs and takes_pairs(call, whole.layout):
        return _forward_pairs(call, whole, columns)
    made = _forward_share(call, whole, columns, gated, scores)
    for parts in hubs:
        found = _forward_share(call, parts, columns, gated, scores)
        if call.value is not None and parts.owners is not None:
            merge_parts(made, found, parts.owners)
    return made


def takes_pairs(call: Launch, rows: Layout) -> bool:
    """Whether the kernel for pairs of a grid's queries can answer the call, and is worth it."""
    score, half = call.score, call.shape.lanes // 2
    if rows.tables is None or call.value is None or not score.plain or score.clamp is not None:
        return False
    if call.shape.key % half != 0 or call.shape.value % half != 0:
        return False
    if rows.indices.shape[0] < LEAST_KEYS * (rows.indptr.shape[0] - 1):
        return False
    header = rows.tables[0, AXES - 1].tolist()
    return header[LONGEST] <= WINDOW and header[EXTENT] > header[STEP]


def _forward_pairs(call: Launch, share: Share, columns: int) -> list[Tensor | None]:
    """LSE and output of a grid whose edges have nothing of their own."""
    lse, out = call.empty(share.outputs), call.empty(share.outputs, call.shape.value)
    tensors = call.query, call.key, call.value, out, lse
    call.run(grid_forward, share, columns, *map(address, tensors), call.score.scale)
    return [lse, out, None]


def _forward_share(
    call: Launch, share: Share, columns: int, gated: Tensor | None, scores: Tensor | None
) -> list[Tensor | None]:
    """LSE, output and edge output of a share; writes its edges' products or logits."""
    made: list[Tensor | None] = [None, None, None]
    if call.value is not None:
        made[0] = call.empty(share.outputs)
        made[1] = call.empty(share.outputs, call.shape.value)
        if call.score.edge_attr is not None:
            made[2] = call.empty(share.outputs, call.shape.feature)
    lse, out, edge_out = map(address, made)
    _, gate, edge_attr, edge_query = map(address, call.edge)
    call.run(
        forward, share, columns, *map(address, (call.query, call.key, call.value)), out, lse,
        address(scores), *call.terms, *call.biases, gate, address(gated), edge_attr, edge_query,
        edge_out, address(call.score.mask), *call.dropout,
    )  # fmt: skip
    return made
