"""Edge tensors: reading a block's numbers and rows from them, and writing them.

They come as the caller made them, in the caller's order of edges, so rows whose width is not
padded are copied to scratch.
"""

from numba.core import types

from graphattn.kernels.cpu.bend import stage_bent
from graphattn.kernels.cpu.block import score
from graphattn.kernels.cpu.compile import helper
from graphattn.kernels.cpu.memory import (
    read,
    read_index,
    read_integer,
    row_multiply,
    row_zero,
    write,
)
from graphattn.kernels.cpu.tables import PREFETCH_DISTANCE, TABLE, Table, prefetch, prefetch_row


@helper(types.int64)
def bias_place(size, block, p, bias_index):
    """Where an edge's biases begin."""
    edge = read_integer(block.ids, p)
    if bias_index is not None:
        edge = read_integer(bias_index, edge)
    return edge * size.bias_edge


@helper(types.void)
def stage_heads(shape, size, place, head_step, group, source, p, staged):
    """One number per head of neighbour ``p``; 0 for heads that only pad."""
    for h in range(shape.heads):
        head = group * shape.heads + h
        found = read(shape, source, place + head * head_step) if head < size.heads else 0.0
        write(shape, staged, p * shape.heads + h, found)


@helper(types.void)
def stage_bias(shape, size, block, bias, bias_index, group, biases):
    """Biases of a block, neighbour-major."""
    for p in range(block.count):
        place = bias_place(size, block, p, bias_index)
        stage_heads(shape, size, place, size.bias_head, group, bias, p, biases)


@helper(types.void)
def stage_per_edge(shape, size, block, b, group, source, staged):
    """A block's numbers of a tensor [B, E, H], neighbour-major."""
    for p in range(block.count):
        place = (b * (size.last + 1) + read_integer(block.ids, p)) * size.heads
        stage_heads(shape, size, place, 1, group, source, p, staged)


@helper(types.void)
def save_per_edge(shape, size, block, b, group, staged, target):
    """Write a block's numbers to a tensor [B, E, H]."""
    heads = min(shape.heads, size.heads - group * shape.heads)
    for p in range(block.count):
        place = (b * (size.last + 1) + read_integer(block.ids, p)) * size.heads
        for h in range(heads):
            found = read(shape, staged, p * shape.heads + h)
            write(shape, target, place + group * shape.heads + h, found)


@helper(types.boolean)
def is_padded(row, heads, width):
    """Whether rows of an edge tensor differ from the rows that the vectors read."""
    return width != row.width or heads % row.heads != 0


@helper(types.int64)
def products_of(shape, size, b, base):
    """Address of a batch entry's products in a tensor [B, E, heads, width]."""
    return base + b * (size.last + 1) * size.heads * size.key * shape.itemsize


@helper(types.int64)
def edge_row(row, heads, width, base, edge, group):
    """Address of one edge's row of this head group in a tensor [E, heads, width]."""
    return base + (edge * heads + group * row.heads) * width * row.shape.itemsize


@helper(types.void)
def ask_edge_row(row, size, heads, width, base, edges, group, position):
    """Prefetch the row of the edge some way past a position.

    Only where edge ids are not positions: rows in the order of the walk come by themselves.
    """
    if edges is not None:
        later = min(position + PREFETCH_DISTANCE, size.last)
        edge = read_index(row.shape.edge_bits, edges, later)
        prefetch_row(row, edge_row(row, heads, width, base, edge, group))


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
def score_keys(
    row, size, block, scores, own, table, ahead, scale, att, edges, gate, group, spare, slots,
    staged, slopes,
):  # fmt: skip
    """Scores of a block against the rows of ``table``, gated where there is a gate.

    Returns the table of the rows that were scored; with ``att`` those are phi(own + row), and
    ``slopes`` gets phi' unless it is None.
    """
    if att is not None:
        near = stage_bent(row, block, own, table, ahead, slots, staged, slopes)
        score(row.wide, block, scores, att + group * row.wide.bytes, near, None, None)
        return near
    if gate is not None:
        near = stage_gated(row, size, block, table, ahead, edges, gate, group, spare, slots, staged)
        score(row, block, scores, own, near, None, scale)
        return near
    score(row, block, scores, own, table, ahead, scale)
    return table


@helper(TABLE)
def stage_gated(row, size, block, table, ahead, edges, gate, group, spare, slots, rows):
    """Table of each neighbour's row times the gate of its edge."""
    for p in range(block.count):
        if p % row.shape.tree == 0:
            prefetch(row, table, ahead, block.start + p)
        ask_edge_row(row, size, size.heads, size.key, gate, edges, group, block.start + p)
        edge = read_integer(block.ids, p)
        factor = load_edge_row(row, size.heads, size.key, gate, edge, group, spare)
        source = table.base + read_integer(table.index, p) * table.stride
        row_multiply(row, rows + p * row.bytes, source, factor)
    return Table(rows, slots, row.bytes)


@helper(TABLE)
def stage_features(row, size, block, edges, edge_attr, slots, rows):
    """Table of a block's edge features, copied only where they need padding."""
    for p in range(block.count):
        ask_edge_row(
            row, size, 1, size.feature, edge_attr, edges, 0, block.start + p + row.shape.block
        )
    if not is_padded(row, 1, size.feature):
        return Table(edge_attr, block.ids, row.bytes)
    for p in range(block.count):
        edge, to = read_integer(block.ids, p), rows + p * row.bytes
        load_edge_row(row, 1, size.feature, edge_attr, edge, 0, to)
    return Table(rows, slots, row.bytes)
