"""Work division for the CPU kernels: row ranges of equal work, and the parts of hub rows."""

import torch
from torch import Tensor

from graphattn.kernels.grid import AXES, EXTENT, first_edges
from graphattn.kernels.layout import CHUNKS, longest_row


def equal_edge_chunks(indptr: Tensor, chunks: int = CHUNKS) -> Tensor:
    """Row bounds [chunks + 1] of ``chunks`` row ranges of about equal work.

    Work is counted as edges plus two per row, so that millions of empty rows are shared out too.
    The bounds depend on the graph alone: results are the same for any number of threads.
    """
    work = indptr + 2 * torch.arange(indptr.numel(), device=indptr.device)
    goal = work[-1] * torch.arange(1, chunks, device=indptr.device) // chunks
    inner = torch.searchsorted(work, goal)
    last = torch.full((1,), indptr.numel() - 1, device=indptr.device, dtype=torch.int64)
    return torch.cat([torch.zeros_like(last), inner, last])


def equal_work_rows(tables: Tensor, chunks: int = CHUNKS) -> Tensor:
    """As ``equal_edge_chunks`` for a grid's tables, by bisection: no row offsets are made."""
    rows = tables[:AXES, EXTENT].prod()
    goal = (first_edges(tables, rows[None]) + 2 * rows) * torch.arange(1, chunks) // chunks
    low, high = torch.zeros_like(goal), torch.zeros_like(goal) + rows
    for _ in range(int(rows).bit_length()):
        middle = (low + high) // 2
        before = (first_edges(tables, middle) + 2 * middle < goal) & (low < high)
        low, high = torch.where(before, middle + 1, low), torch.where(before, high, middle)
    return torch.cat([goal.new_zeros(1), low, rows[None]])


@torch.library.custom_op("graphattn::hub_parts", mutates_args=())
def hub_parts(indptr: Tensor, num_edges: int) -> Tensor:
    """Parts [3, P] of the rows with more than ``longest_row(num_edges)`` edges.

    Fields: first edge position, end, row; the parts of a row follow one another and are of equal
    size. Such rows would keep one thread busy after all others are done.
    """
    longest = longest_row(num_edges)
    degree = indptr.diff()
    hubs = torch.nonzero(degree > longest).squeeze(1)
    counts = (degree[hubs] + longest - 1) // longest
    row = torch.repeat_interleave(hubs, counts)
    first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    number = torch.arange(row.numel(), device=row.device) - first
    begin, size = indptr[row], degree[row]
    count = torch.repeat_interleave(counts, counts)
    bounds = [begin + size * (number + step) // count for step in (0, 1)]
    return torch.stack([*bounds, row])


@hub_parts.register_fake
def _(indptr: Tensor, num_edges: int) -> Tensor:
    return indptr.new_empty(3, torch.library.get_ctx().new_dynamic_size())
