"""Where a row's neighbours come from: the index arrays of a CSR, or the tables of a grid.

The type of a kernel's ``source`` decides, at compile time. A grid's neighbours are computed a
block at a time, a run of consecutive keys after the other; see kernels/grid.py for the fields.
"""

from typing import Any, NamedTuple

from numba.core import types

from graphattn.kernels.cpu.compile import choice, helper
from graphattn.kernels.cpu.memory import read_index, read_integer, write_integer
from graphattn.kernels.cpu.tables import AHEAD, Ahead
from graphattn.kernels.grid import (
    BEFORE,
    COUNT,
    EXTENT,
    FIELDS,
    FIRST,
    FOLD,
    JUMP,
    OTHER,
    RELATIVE,
    SLOPE,
    SPLIT,
    START,
    STEP,
    TOTAL,
    WIDTH,
)


class Csr(NamedTuple):
    """Columns by flat edge position, the last position, first and end position by output."""

    indices: int
    last: int
    begins: int
    ends: int


class Grid(NamedTuple):
    """Tables; first and end position by output, or 0 where outputs are whole rows.

    What edges are known by are their positions, as the rows of a grid have them.
    """

    tables: int
    begins: int
    ends: int


class GridPlaces(NamedTuple):
    """As ``Grid``; edges are known by their places in a table of relative positions."""

    tables: int
    begins: int
    ends: int


class GridColumns(NamedTuple):
    """As ``Grid``, by columns; edges are known by their positions in ``rows``, tables too."""

    tables: int
    begins: int
    ends: int
    rows: int


COORDINATES = types.UniTuple(types.int64, 3)


def _class_of(*arguments: types.Type) -> Any:
    return next(a.instance_class for a in arguments if isinstance(a, types.NamedUniTuple))


@helper(types.int64)
def header(tables, axis, field):
    """A field of an axis."""
    return read_integer(tables, axis * FIELDS + field)


@helper(types.int64)
def entry(tables, axis, at):
    """Address of the entry of a coordinate."""
    return tables + (header(tables, axis, FIRST) + at) * FIELDS * 8


@helper(COORDINATES)
def entries(tables, i):
    """Addresses of a node's entries on the three axes."""
    third, second = header(tables, 2, EXTENT), header(tables, 1, EXTENT)
    rest = i // third
    one = rest // second
    return (
        entry(tables, 0, one),
        entry(tables, 1, rest - one * second),
        entry(tables, 2, i - rest * third),
    )


@helper(types.int64)
def first_edge(tables, one, two, three):
    """Position of a node's first edge, from its entries."""
    inner = header(tables, 2, TOTAL)
    found = read_integer(one, BEFORE) * header(tables, 1, TOTAL) * inner
    rest = read_integer(two, BEFORE) * inner
    rest += read_integer(two, COUNT) * read_integer(three, BEFORE)
    return found + read_integer(one, COUNT) * rest


@helper(types.int64)
def place_at(tables, axis, at, t):
    """Coordinate of neighbour ``t`` on an axis."""
    found = read_integer(at, START) + header(tables, axis, STEP) * t
    if t >= read_integer(at, SPLIT):
        found += read_integer(at, JUMP)
    return found


@helper(types.int64)
def relative_at(tables, axis, at, t):
    """Relative position of neighbour ``t`` on an axis."""
    found = read_integer(at, RELATIVE) + header(tables, axis, SLOPE) * t
    if t >= read_integer(at, SPLIT):
        found += read_integer(at, FOLD)
    return found


@helper(types.int64)
def slot_in_row(row, relative):
    """Which neighbour of a row has a relative position; ``row``: the row's entry."""
    found = relative - read_integer(row, RELATIVE)
    if found < 0:
        found -= read_integer(row, FOLD)
    return found


def _no_run(source, one, t1, two, t2):
    return 0, 0, 0


def _run_of_places(source, one, t1, two, t2):
    found = relative_at(source.tables, 0, one, t1) * header(source.tables, 1, WIDTH)
    found += relative_at(source.tables, 1, two, t2)
    return found * header(source.tables, 2, WIDTH), 0, 0


def _run_of_columns(source, one, t1, two, t2):
    """Edges of the rows before; of the rows' earlier axes; slots of the earlier axes."""
    row_one = entry(source.rows, 0, place_at(source.tables, 0, one, t1))
    row_two = entry(source.rows, 1, place_at(source.tables, 1, two, t2))
    slot = slot_in_row(row_one, relative_at(source.tables, 0, one, t1))
    slot = slot * read_integer(row_two, COUNT)
    slot += slot_in_row(row_two, relative_at(source.tables, 1, two, t2))
    inner = header(source.rows, 2, TOTAL)
    outer = read_integer(row_one, COUNT)
    before = read_integer(row_one, BEFORE) * header(source.rows, 1, TOTAL) * inner
    before += outer * read_integer(row_two, BEFORE) * inner
    return before, outer * read_integer(row_two, COUNT), slot


def _id_by_position(source, run, three, t, position):
    return position


def _id_by_place(source, run, three, t, position):
    return run[0] + relative_at(source.tables, 2, three, t)


def _id_by_column(source, run, three, t, position):
    row = entry(source.rows, 2, place_at(source.tables, 2, three, t))
    slot = slot_in_row(row, relative_at(source.tables, 2, three, t))
    return run[0] + run[1] * read_integer(row, BEFORE) + run[2] * read_integer(row, COUNT) + slot


id_run = choice(
    COORDINATES,
    _class_of,
    {Grid: _no_run, GridPlaces: _run_of_places, GridColumns: _run_of_columns},
    "What the ids of a run of neighbours along the last axis have in common.",
)
id_in_run = choice(
    types.int64,
    _class_of,
    {Grid: _id_by_position, GridPlaces: _id_by_place, GridColumns: _id_by_column},
    "What an edge is known by; ``t``: its neighbour's number on the last axis.",
)


def _stage_csr(shape, source, columns, ids, edges, start, count, i):
    for p in range(count):
        write_integer(columns, p, read_index(shape.index_bits, source.indices, start + p))
        if edges is None:
            write_integer(ids, p, start + p)
        else:
            write_integer(ids, p, read_index(shape.edge_bits, edges, start + p))


def _stage_grid(shape, source, columns, ids, edges, start, count, i):
    tables = source.tables
    one, two, three = entries(tables, i)
    second, third = read_integer(two, COUNT), read_integer(three, COUNT)
    slot = start - first_edge(tables, one, two, three)
    t1, t2, t3 = 0, 0, 0
    if slot > 0:
        t2 = slot // third
        t3 = slot - t2 * third
        t1 = t2 // second
        t2 -= t1 * second
    p = 0
    while p < count:
        base = place_at(tables, 0, one, t1) * header(tables, 1, OTHER)
        base = (base + place_at(tables, 1, two, t2)) * header(tables, 2, OTHER)
        run = id_run(source, one, t1, two, t2)
        length = min(third - t3, count - p)
        for t in range(t3, t3 + length):
            write_integer(columns, p, base + place_at(tables, 2, three, t))
            write_integer(ids, p, id_in_run(source, run, three, t, start + p))
            p += 1
        t3 = 0
        t2 += 1
        if t2 == second:
            t2 = 0
            t1 += 1


stage_neighbours = choice(
    types.void,
    _class_of,
    {Csr: _stage_csr, Grid: _stage_grid, GridPlaces: _stage_grid, GridColumns: _stage_grid},
    "Columns and ids of the edges ``start`` to ``start + count`` of row ``i``.",
)


def _ends_in_arrays(source, i):
    return read_integer(source.begins, i), read_integer(source.ends, i)


def _ends_in_tables(source, i):
    if source.begins != 0:
        return read_integer(source.begins, i), read_integer(source.ends, i)
    one, two, three = entries(source.tables, i)
    begin = first_edge(source.tables, one, two, three)
    count = read_integer(one, COUNT) * read_integer(two, COUNT) * read_integer(three, COUNT)
    return begin, begin + count


edge_range = choice(
    types.UniTuple(types.int64, 2),
    _class_of,
    {
        Csr: _ends_in_arrays,
        Grid: _ends_in_tables,
        GridPlaces: _ends_in_tables,
        GridColumns: _ends_in_tables,
    },
    "First position and end of the edges of output ``i``.",
)


def _ahead(source):
    return Ahead(source.indices, source.last)


def _nothing_ahead(source):
    return None


ahead_of = choice(
    lambda source: AHEAD if source.instance_class is Csr else types.none,
    _class_of,
    {Csr: _ahead, Grid: _nothing_ahead, GridPlaces: _nothing_ahead, GridColumns: _nothing_ahead},
    "What prefetching needs; None on grids, whose neighbouring windows share their keys in cache.",
)
