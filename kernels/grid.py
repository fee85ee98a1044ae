"""Grids without index arrays: tables per axis from which every neighbour is computed.

On a product of axes the neighbours of (q1, q2, q3) are the product of one list per axis, and each
list is at most two runs of coordinates ``step`` apart. Tables [T, 8] int64 describe one
orientation of three axes (absent ones have extent 1): first a header per axis, then one entry per
coordinate of each axis in turn. The fields are numbered below.

Memory: 64 bytes per coordinate of an axis, whatever the number of edges.
"""

from collections.abc import Callable

import torch
from torch import Tensor

AXES = 3
FIELDS = 8
# Header of an axis: coordinates of the nodes that own the lists, and of those that are listed;
# distance of neighbours in a run; sum of all counts; number of relative positions; their change
# from one neighbour to the next, 1 or -1; the table's row where the entries of the axis begin;
# the largest count.
EXTENT, OTHER, STEP, TOTAL, WIDTH, SLOPE, FIRST, LONGEST = range(8)
# Entry of a coordinate: first neighbour; number of neighbours; from neighbour ``SPLIT`` on ``JUMP``
# is added to the coordinate and ``FOLD`` to the relative position, which begins with ``RELATIVE``;
# sum of the counts of all coordinates before.
START, COUNT, SPLIT, JUMP, RELATIVE, FOLD, BEFORE = range(7)


def entries(tables: Tensor, axis: int) -> Tensor:
    """The entries [extent, 8] of an axis."""
    first = AXES + int(tables[:axis, EXTENT].sum())
    return tables[first : first + int(tables[axis, EXTENT])]


def _neighbours(tables: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates and relative positions [extent, most], and which of them exist."""
    entry, head = entries(tables, axis), tables[axis]
    most = int(entry[:, COUNT].max()) if entry.numel() else 0
    slot = torch.arange(most, device=tables.device)
    late = slot >= entry[:, SPLIT, None]
    place = entry[:, START, None] + head[STEP] * slot + late * entry[:, JUMP, None]
    relative = entry[:, RELATIVE, None] + head[SLOPE] * slot + late * entry[:, FOLD, None]
    return place, relative, slot < entry[:, COUNT, None]


def spell_out(tables: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row offsets [rows + 1], columns [E] and places in a table of relative positions [E]."""
    counts = torch.ones(1, dtype=torch.int64, device=tables.device)
    column = place = exists = None
    for axis in range(AXES):
        where, relative, there = _neighbours(tables, axis)
        counts = torch.outer(counts, entries(tables, axis)[:, COUNT]).flatten()
        column = _product(column, where, int(tables[axis, OTHER]))
        place = _product(place, relative, int(tables[axis, WIDTH]))
        exists = there if exists is None else _pairs(exists, there, torch.logical_and)
    assert column is not None and place is not None and exists is not None
    indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return indptr, column[exists], place[exists]


def _product(outer: Tensor | None, inner: Tensor, size: int) -> Tensor:
    return inner if outer is None else _pairs(outer, inner, lambda a, b: a * size + b)


def _pairs(outer: Tensor, inner: Tensor, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Combine [A, a] and [B, b] to [A * B, a * b], the second varying fastest."""
    both: Tensor = combine(outer[:, None, :, None], inner[None, :, None, :])
    return both.flatten(2).flatten(0, 1)


def first_edges(tables: Tensor, rows: Tensor) -> Tensor:
    """Number of edges before each of some rows; the number of all rows gives that of all edges."""
    inner = tables[:AXES, TOTAL]
    extent = tables[:AXES, EXTENT]
    one, rest = rows // (extent[1] * extent[2]), rows % (extent[1] * extent[2])
    end = one >= extent[0]
    found = torch.where(end, inner[0], 0)
    before = count = None
    for axis, at in enumerate((one.clamp(max=extent[0] - 1), rest // extent[2], rest % extent[2])):
        entry = entries(tables, axis)[at]
        size = inner[axis + 1 :].prod()
        part = entry[:, BEFORE] * size
        before = part if count is None else before + count * part
        count = entry[:, COUNT] if count is None else count * entry[:, COUNT]
    return torch.where(end, found * inner[1] * inner[2], before)
