"""The m largest scores of every row: the definition that every kernel is held against."""

import torch
from torch import Tensor

from graphattn.kernels.layout import Layout
from graphattn.kernels.reference.edges import edge_list


def top_m_bits(scores: Tensor, rows: Layout, m: int) -> Tensor:
    """Which edges are among the m largest of their row, per head.

    scores [B, E, H] in the caller's order -> int32 [B, E, ceil(H / 32)] in the caller's order:
    bit h % 32 of word h // 32 says whether the edge survives for head h. Ties go to the lower
    position in the row, that is to the lower column, then the lower edge id. NaN is larger than
    every number, as in torch.topk; -inf survives only where a row has nothing better.
    """
    batch, count, heads = scores.shape
    edges = edge_list(rows)
    # Adding 0 makes -0 and 0 equal for a sort that compares bits.
    order = torch.sort(scores[:, edges.id] + 0.0, dim=1, descending=True, stable=True).indices
    by_row = torch.sort(edges.row[order], dim=1, stable=True).indices
    order = order.gather(1, by_row)
    place = torch.arange(count, device=scores.device) - rows.indptr[:-1][edges.row]
    keep = torch.zeros_like(order, dtype=torch.bool).scatter(
        1, order, (place < m)[None, :, None].expand_as(order)
    )
    words = -(-heads // 32)
    kept = torch.nn.functional.pad(keep[:, edges.id.argsort()], (0, 32 * words - heads))
    head = torch.arange(32, device=scores.device)
    bits = (kept.view(batch, count, words, 32).to(torch.int64) << head).sum(-1)
    return torch.where(bits >= 2**31, bits - 2**32, bits).to(torch.int32)
