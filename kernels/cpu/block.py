"""What the three passes share: staging a block of neighbours and scoring it.

What depends on an option stands under ``if option is not None``: where it is ``None``, Numba
prunes that before typing. (The other branch, of ``is None``, is always compiled.)
"""

from typing import NamedTuple

from numba.core import types

from graphattn.kernels.cpu.compile import helper
from graphattn.kernels.cpu.dots import dots, dots_shared
from graphattn.kernels.cpu.memory import (
    read_index,
    read_integer,
    surviving,
    write_integer,
)
from graphattn.kernels.cpu.sources import edge_range, stage_neighbours
from graphattn.kernels.cpu.tables import TABLE, Table, prefetch
from graphattn.kernels.cpu.vector import LN_2, LOG2_E, clip, load, store


class Sizes(NamedTuple):
    """Run-time sizes. ``rows`` own the edges of this pass, ``columns`` are gathered.

    ``heads``, ``key`` and ``feature`` are the unpadded widths of edge tensors; a bias lies at
    ``place * bias_edge + head * bias_head``, where the place is the edge, or what the edge looks
    up in a ``table``; ``last`` is E - 1. Results have ``outputs`` rows: one per row, or one per
    part of a hub. Rows of more than ``longest`` edges are left to their parts.
    """

    batch: int
    rows: int
    columns: int
    last: int
    outputs: int
    longest: int
    groups: int
    heads: int
    key: int
    feature: int
    bias_edge: int
    bias_head: int
    table: int


class Block(NamedTuple):
    """The neighbours at positions ``start`` to ``start + count``.

    ``columns`` and ``ids`` are addresses of int64 slots: each neighbour's row in the gathered
    tables, and its edge id.
    """

    count: int
    start: int
    columns: int
    ids: int


BLOCK = types.NamedUniTuple(types.int64, 4, Block)


@helper(types.UniTuple(types.int64, 2))
def row_edges(size, source, i):
    """First position and end of a row's edges; none for a hub that is left to its parts."""
    begin, end = edge_range(source, i)
    if end - begin > size.longest:
        return begin, begin
    return begin, end


@helper(types.int64)
def row_of(owners, i):
    """The row that output ``i`` belongs to."""
    if owners is not None:
        return read_integer(owners, i)
    return i


@helper(TABLE)
def node_table(row, size, b, group, base, index):
    """The rows of the gathered nodes for one batch entry and head group, by slots at ``index``."""
    first = (b * size.columns * size.groups + group) * row.bytes
    return Table(base + first, index, size.groups * row.bytes)


@helper(types.void)
def stage_slots(shape, slots):
    """0, 1, 2, ...: the index of tables that hold one row per neighbour of a block."""
    for p in range(shape.block):
        write_integer(slots, p, p)


@helper(types.void)
def repeat_last(shape, block):
    """Fill the slots of a tree's remaining neighbours."""
    for p in range(block.count, block.count + shape.tree - 1):
        write_integer(block.columns, p, read_integer(block.columns, block.count - 1))
        write_integer(block.ids, p, read_integer(block.ids, block.count - 1))


@helper(types.void)
def stage(shape, block, source, edges, row):
    """Fill the slots of a block; the last edge is repeated up to a whole tree."""
    stage_neighbours(shape, source, block.columns, block.ids, edges, block.start, block.count, row)
    repeat_last(shape, block)


@helper(BLOCK)
def stage_kept(shape, size, block, source, edges, row, mask, bits, b, group, everything):
    """As ``stage``, and the mask's bits; edges without any are left out unless ``everything``."""
    words = (size.heads + 31) // 32
    head = group * shape.heads
    base = b * (size.last + 1) * words + head // 32
    stage(shape, block, source, edges, row)
    count = 0
    for p in range(block.count):
        edge = read_integer(block.ids, p)
        word = read_index(32, mask, base + edge * words) >> (head % 32)
        if everything or word & ((1 << shape.heads) - 1) != 0:
            write_integer(block.columns, count, read_integer(block.columns, p))
            write_integer(block.ids, count, edge)
            write_integer(bits, count, word)
            count += 1
    kept = Block(count, block.start, block.columns, block.ids)
    if count > 0:
        repeat_last(shape, kept)
    return kept


@helper(types.void)
def score(row, block, scores, own, table, ahead, scale):
    """scores[p, h] = scale * own[h] . table row[h]; prefetch with ``ahead``."""
    shape = row.shape
    for p in range(0, block.count, shape.tree):
        if ahead is not None:
            prefetch(row, table, ahead, block.start + p)
        found = dots(row, own, table, p)
        if scale is not None:
            found = found * scale
        store(scores + p * shape.head_bytes, found)


@helper(types.void)
def score_features(shape, block, scores, own, table):
    """scores[p, h] += own[h] . feature row of edge p."""
    for p in range(0, block.count, shape.tree):
        at = scores + p * shape.head_bytes
        store(at, load(shape, at) + dots_shared(shape.features, own, table, p))


@helper(lambda shape, raw, *rest: raw)
def limit(shape, raw, clamp, bias, biases, p):
    """Logits from raw scores: clamp, bias."""
    found = raw
    if clamp is not None:
        found = clip(found, clamp)
    if bias is not None:
        found = found + load(shape, biases + p * shape.head_bytes)
    return found


@helper(lambda shape, raw, *rest: raw)
def finish(shape, raw, clamp, bias, biases, p, mask, bits):
    """As ``limit``, without masked edges. The unit is log 2 unless there is a bias."""
    found = limit(shape, raw, clamp, bias, biases, p)
    if bias is None:
        found = found * LOG2_E
    if mask is not None:
        found = surviving(shape, found, bits + 8 * p)
    return found


@helper(lambda gap, bias: gap)
def in_log_2(gap, bias):
    """Differences of logits in units of log 2.

    A bias may be as low as the lowest number, which that unit overflows; it comes to differences
    then. Without one, the multiplication is cheaper where the logits are made.
    """
    if bias is None:
        return gap
    return gap * LOG2_E


@helper(types.float64)
def unit_of_logits(bias):
    """The unit of ``finish`` in natural logarithms."""
    if bias is None:
        return LN_2
    return 1.0


@helper(types.void)
def stage_words(block, words):
    """Edge ids folded to the 32 bits that the dropout hash starts from."""
    for p in range(block.count):
        edge = read_integer(block.ids, p)
        write_integer(words, p, (edge ^ ((edge >> 32) * 0x9E3779B1)) & 0xFFFFFFFF)


@helper(types.void)
def stage_streams(shape, size, b, group, streams, first, second):
    """The two stream words of every head of a group."""
    for h in range(shape.heads):
        head = min(group * shape.heads + h, size.heads - 1)
        place = 2 * (b * size.heads + head)
        write_integer(first, h, read_integer(streams, place))
        write_integer(second, h, read_integer(streams, place + 1))
