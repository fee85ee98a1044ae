"""What the three passes share: staging a block of neighbours and scoring it.

An option that is ``None`` is pruned by Numba before typing: nothing of it is compiled. Edge
tensors come as the caller made them, so rows whose width is not padded are copied to scratch.
"""

from typing import NamedTuple

from numba.core import types

from graphattn.kernels.cpu.compile import helper
from graphattn.kernels.cpu.dots import dots, dots_pair, dots_shared
from graphattn.kernels.cpu.memory import (
    read,
    read_index,
    read_integer,
    row_multiply,
    row_zero,
    write,
    write_integer,
)
from graphattn.kernels.cpu.tables import TABLE, Table, prefetch
from graphattn.kernels.cpu.vector import LN_2, LOG2_E, clip, load, store


class Sizes(NamedTuple):
    """Run-time sizes. ``rows`` own the edges of this pass, ``columns`` are gathered.

    ``heads``, ``key`` and ``feature`` are the unpadded widths of edge tensors; a bias lies at
    ``edge * bias_edge + head * bias_head``; ``last`` is E - 1.
    """

    batch: int
    rows: int
    columns: int
    last: int
    groups: int
    heads: int
    key: int
    feature: int
    bias_edge: int
    bias_head: int


class Block(NamedTuple):
    """The neighbours at positions ``start`` to ``start + count``.

    ``columns`` and ``ids`` are addresses of int64 slots: each neighbour's row in the gathered
    tables, and its edge id.
    """

    count: int
    start: int
    columns: int
    ids: int


@helper(types.void)
def stage_slots(shape, slots):
    """0, 1, 2, ...: the index of tables that hold one row per neighbour of a block."""
    for p in range(shape.block):
        write_integer(slots, p, p)


@helper(types.void)
def stage(shape, block, indices, edges):
    """Fill the slots of a block; the last edge is repeated up to a whole tree."""
    for p in range(block.count):
        write_integer(block.columns, p, read_index(shape.index_bits, indices, block.start + p))
        if edges is None:
            write_integer(block.ids, p, block.start + p)
        else:
            write_integer(block.ids, p, read_index(shape.edge_bits, edges, block.start + p))
    for p in range(block.count, block.count + shape.tree - 1):
        write_integer(block.columns, p, read_integer(block.columns, block.count - 1))
        write_integer(block.ids, p, read_integer(block.ids, block.count - 1))


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


@helper(types.void)
def score_feature_pairs(shape, block, scores, owners, table):
    """scores[p, h] += gathered row[h] . feature row of edge p."""
    for p in range(0, block.count, shape.tree):
        at = scores + p * shape.head_bytes
        store(at, load(shape, at) + dots_pair(shape.features, owners, table, p))


@helper(lambda shape, raw, *rest: raw)
def finish(shape, raw, clamp, bias, biases, p):
    """Logits from raw scores: clamp, bias. Their unit is log 2 unless there is a bias."""
    found = raw
    if clamp is not None:
        found = clip(found, clamp)
    if bias is not None:
        return found + load(shape, biases + p * shape.head_bytes)
    return found * LOG2_E


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
def stage_bias(shape, size, block, bias, group, biases):
    """Biases of a block, neighbour-major; 0 for heads that only pad."""
    for p in range(block.count):
        place = read_integer(block.ids, p) * size.bias_edge
        for h in range(shape.heads):
            head = group * shape.heads + h
            found = read(shape, bias, place + head * size.bias_head) if head < size.heads else 0.0
            write(shape, biases, p * shape.heads + h, found)


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


@helper(types.boolean)
def is_padded(row, heads, width):
    """Whether rows of an edge tensor differ from the rows that the vectors read."""
    return width != row.width or heads % row.heads != 0


@helper(types.int64)
def edge_row(row, heads, width, base, edge, group):
    """Address of one edge's row of this head group in a tensor [E, heads, width]."""
    return base + (edge * heads + group * row.heads) * width * row.shape.itemsize


@helper(types.void)
def _copy_in(row, heads, width, source, spare):
    row_zero(row, spare)
    for h in range(heads):
        for c in range(width):
            write(row.shape, spare, h * row.width + c, read(row.shape, source, h * width + c))


@helper(types.void)
def _copy_out(row, heads, width, spare, target):
    for h in range(heads):
        for c in range(width):
            write(row.shape, target, h * width + c, read(row.shape, spare, h * row.width + c))


@helper(types.int64)
def load_edge_row(row, heads, width, base, edge, group, spare):
    """An edge's row as the vectors read it: in place, or copied to ``spare``."""
    source = edge_row(row, heads, width, base, edge, group)
    if not is_padded(row, heads, width):
        return source
    _copy_in(row, min(row.heads, heads - group * row.heads), width, source, spare)
    return spare


@helper(types.void)
def save_edge_row(row, heads, width, base, edge, group, spare):
    """Write ``spare`` back to an edge's row where ``load_edge_row`` had to copy it."""
    if is_padded(row, heads, width):
        target = edge_row(row, heads, width, base, edge, group)
        _copy_out(row, min(row.heads, heads - group * row.heads), width, spare, target)


@helper(TABLE)
def stage_gated(row, size, block, table, gate, group, spare, slots, rows):
    """Table of each neighbour's row times the gate of its edge."""
    for p in range(block.count):
        edge = read_integer(block.ids, p)
        factor = load_edge_row(row, size.heads, size.key, gate, edge, group, spare)
        source = table.base + read_integer(table.index, p) * table.stride
        row_multiply(row, rows + p * row.bytes, source, factor)
    return Table(rows, slots, row.bytes)


@helper(TABLE)
def stage_features(row, size, block, edge_attr, slots, rows):
    """Table of a block's edge features, copied only where they need padding."""
    if not is_padded(row, 1, size.feature):
        return Table(edge_attr, block.ids, row.bytes)
    for p in range(block.count):
        edge, to = read_integer(block.ids, p), rows + p * row.bytes
        load_edge_row(row, 1, size.feature, edge_attr, edge, 0, to)
    return Table(rows, slots, row.bytes)
