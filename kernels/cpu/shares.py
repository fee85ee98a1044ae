"""Shares of a layout: all rows, and the parts of hub rows, whose results are put together."""

from typing import NamedTuple

import torch
from torch import Tensor

from graphattn.kernels.cpu.sources import Csr, Grid, GridColumns, GridPlaces
from graphattn.kernels.grid import SLOPE
from graphattn.kernels.layout import Layout, longest_row


def address(tensor: Tensor | None) -> int | None:
    """Where a tensor's numbers are; the caller keeps it alive."""
    return None if tensor is None else tensor.data_ptr()


class Share(NamedTuple):
    """Rows that one run of a kernel works on.

    ``outputs`` results, one for each ``row`` of the layout, or one for each part of a hub; the
    kernel leaves rows of more than ``longest`` edges empty. ``bounds`` cut the outputs into ranges
    of about equal work. ``begins`` and ``ends``: addresses of the first and last edge of each
    output; 0 where a grid's tables tell.
    """

    layout: Layout
    begins: int
    ends: int
    outputs: int
    longest: int
    bounds: list[int]
    owners: Tensor | None = None

    @property
    def rows(self) -> int:
        """Rows of the layout."""
        return self.layout.indptr.shape[0] - 1

    @property
    def edges(self) -> int:
        """Edges of the layout."""
        return self.layout.indices.shape[0]

    @property
    def addresses(self) -> tuple[int | None, ...]:
        """Addresses of the row that each output belongs to, and of the edge ids."""
        edges = self.layout.edges
        written = self.layout.tables is None and edges.shape[0] > 0
        return address(self.owners), address(edges) if written else None

    def source(self, known_by: str) -> Csr | Grid | GridPlaces | GridColumns:
        """Where the kernels find the neighbours.

        ``known_by``: what edges of a grid are known by, ``"position"``, ``"place"`` in a table of
        relative positions, or ``"id"``, which by rows is the position.
        """
        tables, ends = self.layout.tables, (self.begins, self.ends)
        if tables is None:
            return Csr(self.layout.indices.data_ptr(), self.edges - 1, *ends)
        own = tables[0].data_ptr()
        if known_by == "place":
            return GridPlaces(own, *ends)
        if known_by == "id" and int(tables[0, 0, SLOPE]) < 0:
            return GridColumns(own, *ends, tables[1].data_ptr())
        return Grid(own, *ends)

    @property
    def bits(self) -> tuple[int, int]:
        """Bits of a column index and of an edge id."""
        return 8 * self.layout.indices.element_size(), 8 * self.layout.edges.element_size()

    def pieces(self, count: int) -> list[int]:
        """Bounds of ``count`` pieces of the outputs, made of whole ranges."""
        ranges = len(self.bounds) - 1
        return [self.bounds[number * ranges // count] for number in range(count + 1)]


def shares(layout: Layout) -> list[Share]:
    """All rows; then the parts of hubs, where there are any."""
    chunks, parts = layout.plan
    indptr, edges, count = layout.indptr.data_ptr(), layout.indices.shape[0], parts.shape[1]
    grid = layout.tables is not None
    whole = Share(
        layout=layout,
        begins=0 if grid else indptr,
        ends=0 if grid else indptr + 8,
        outputs=layout.indptr.shape[0] - 1,
        longest=longest_row(edges),
        bounds=chunks.tolist(),
    )
    if count == 0:
        return [whole]
    cut = Share(
        layout=layout,
        begins=parts[0].data_ptr(),
        ends=parts[1].data_ptr(),
        outputs=count,
        longest=edges,
        bounds=list(range(count + 1)),
        owners=parts[2],
    )
    return [whole, cut]


def merge_parts(results: list[Tensor | None], parts: list[Tensor | None], owners: Tensor) -> None:
    """Put the softmax results of parts in the place of their rows' empty ones.

    Both: LSE [B, *, H], then results [B, *, H, D] that were normalised with it. Added up in the
    order of the parts, so the same for any number of threads.
    """
    lse, level = results[0], parts[0]
    assert lse is not None and level is not None
    rows, place = owners.unique_consecutive(return_inverse=True)
    empty = level.new_full((level.shape[0], rows.numel(), level.shape[2]), -torch.inf)
    top = empty.scatter_reduce(1, place[None, :, None].expand_as(level), level, "amax")
    top = torch.where(top == -torch.inf, 0.0, top)
    mass = (level - top[:, place]).exp()
    total = torch.zeros_like(top).index_add(1, place, mass)
    lse[:, rows] = top + total.log()
    share = (mass / torch.where(total == 0, 1.0, total)[:, place]).unsqueeze(-1)
    for result, part in zip(results[1:], parts[1:], strict=True):
        if result is not None and part is not None:
            sums = torch.zeros_like(result[:, rows])
            result[:, rows] = sums.index_add(1, place, share * part)


def add_parts(results: list[Tensor | None], parts: list[Tensor | None], owners: Tensor) -> None:
    """Add the sums of parts [B, P, H, D] to their rows' [B, R, H, D], in the order of the parts."""
    for result, part in zip(results, parts, strict=True):
        if result is not None and part is not None:
            result.index_add_(1, owners, part)
