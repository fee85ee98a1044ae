"""Edge lists, and sums over them: what the reference implementations share."""

from typing import NamedTuple

import torch
from torch import Tensor

from graphattn.kernels.grid import spell_out
from graphattn.kernels.layout import Layout


class Edges(NamedTuple):
    """Row, column and caller's id of every CSR position, each [E] int64."""

    row: Tensor
    col: Tensor
    id: Tensor


def edge_list(rows: Layout) -> Edges:
    """Spell out a layout by rows as an edge list."""
    if rows.tables is not None:
        indptr, columns, _ = spell_out(rows.tables[0])
        rows = Layout(indptr, columns, indptr.new_empty(0), ())
    count = rows.indices.shape[0]
    nodes = torch.arange(rows.indptr.shape[0] - 1, device=rows.indptr.device)
    row = torch.repeat_interleave(nodes, rows.indptr.diff(), output_size=count)
    position = torch.arange(count, device=row.device)
    identity = rows.edges.shape[0] != count or count == 0
    return Edges(row, rows.indices.to(torch.int64), position if identity else rows.edges)


def accumulate_dtype(tensor: Tensor) -> torch.dtype:
    """float64 for float64, else float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def row_sum(messages: Tensor, row: Tensor, num_rows: int) -> Tensor:
    """Sum messages [B, E, ...] into their rows [B, R, ...]."""
    batch, _, *rest = messages.shape
    return messages.new_zeros((batch, num_rows, *rest)).index_add(1, row, messages)
