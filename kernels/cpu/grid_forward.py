"""Forward kernel for grids: softmax attention of pairs of queries that share their keys.

A head of a segment is scored window row by window row, so that a key is still in the first cache
when the next pair reads it; then come the weights of all pairs, then their sums. Windows of more
than ``PAIR_SLOTS`` keys take several rounds, with a running maximum.
"""

import math

from numba.core import types

from graphattn.kernels.cpu.compile import Kernel, helper
from graphattn.kernels.cpu.forward import LOWEST_DOUBLE, LOWEST_SINGLE
from graphattn.kernels.cpu.memory import (
    as_wide,
    read,
    read_integer,
    row_scale,
    row_zero,
    scratch,
    write,
)
from graphattn.kernels.cpu.pairs import (
    HALF_BYTES,
    pair_mass,
    pair_scores,
    pair_softmax,
    pair_sums,
    prefetch_keys,
)
from graphattn.kernels.cpu.segments import (
    COUPLES,
    FRESH,
    LIMITS,
    OFFSETS_BYTES,
    ONE,
    PAIRS_BYTES,
    TWO,
    UNION,
    Segment,
    masks_of,
    offsets_of,
    pair_of,
    stage_rows,
    stage_segment,
)
from graphattn.kernels.cpu.shape import PAIR_SLOTS, SEGMENT
from graphattn.kernels.cpu.sources import entry, header
from graphattn.kernels.cpu.vector import LN_2, LOG2_E
from graphattn.kernels.grid import COUNT, EXTENT, STEP

STATE_BYTES = 4 * HALF_BYTES
STATES_BYTES = COUPLES * STATE_BYTES
BASES_BYTES = 8 * PAIR_SLOTS


@helper(types.void)
def _stage_queries(row, segment, own, jump, factor, queries, widened):
    """Scaled queries of one head, a pair after the other; ``own``: the head of the first node."""
    wide = row.wide
    for p in range(segment.couples):
        for q in range(2):
            node = read_integer(pair_of(segment, p), ONE + q)
            found = as_wide(row, own + node * jump, widened)
            row_scale(wide, queries + (2 * p + q) * wide.bytes, found, factor)


@helper(types.void)
def _start(shape, segment, states):
    """No mass yet, and a top below all scores that is finite: -inf - -inf would be NaN."""
    lowest = LOWEST_DOUBLE if shape.itemsize == 8 else LOWEST_SINGLE
    half = shape.lanes // 2
    for p in range(segment.couples):
        for lane in range(half):
            write(shape, states + p * STATE_BYTES, lane, lowest)
            write(shape, states + p * STATE_BYTES, half + lane, 0.0)


@helper(types.void)
def _score(shape, segment, queries, bases, rows, scores):
    """Scores of all pairs in some window rows, while the keys of the next row are on their way."""
    row = shape.keys.single
    for r in range(rows):
        for p in range(segment.couples):
            pair, offsets = pair_of(segment, p), offsets_of(shape, segment, segment.near, p)
            if r + 1 < rows:
                fresh, end = read_integer(pair, FRESH), read_integer(pair, UNION)
                prefetch_keys(row, read_integer(bases, r + 1), offsets, fresh, end)
            pair_scores(
                row, queries + 2 * p * row.wide.bytes, read_integer(bases, r), offsets,
                segment.groups, masks_of(segment, p),
                scores + p * shape.pair_bytes + r * segment.groups * HALF_BYTES,
            )  # fmt: skip


@helper(types.void)
def _sum(shape, segment, scores, bases, rows, states, out, jump, spare, again):
    """Add the weighted values of some window rows; ``out``: the head of the first node."""
    for p in range(segment.couples):
        pair = pair_of(segment, p)
        for r in range(rows if p + 1 < segment.couples else 0):
            later = pair_of(segment, p + 1)
            prefetch_keys(
                shape.values.single, read_integer(bases, r),
                offsets_of(shape, segment, segment.far, p + 1), read_integer(later, FRESH),
                read_integer(later, UNION),
            )  # fmt: skip
        one = out + read_integer(pair, ONE) * jump
        # A query that is its own partner would be summed twice.
        two = out + read_integer(pair, TWO) * jump if 2 * p + 1 < segment.count else spare
        pair_sums(
            shape.values.single, one, two, scores + p * shape.pair_bytes, rows, segment.groups,
            bases, offsets_of(shape, segment, segment.far, p), pair + LIMITS,
            states + p * STATE_BYTES, again,
        )  # fmt: skip


@helper(types.void)
def _finish(shape, segment, states, out, jump, lse, lse_jump, written):
    """Normalise the sums and write the LSE; a row without weight has 0 and -inf."""
    row, half = shape.values.single.wide, shape.lanes // 2
    for p in range(segment.couples):
        state = states + p * STATE_BYTES
        pair_mass(shape, state)
        for q in range(min(2, segment.count - 2 * p)):
            node, lane = read_integer(pair_of(segment, p), ONE + q), q * (half // 2)
            mass = read(shape, state, half + lane)
            level = read(shape, state, lane) * LN_2 + math.log(mass)
            write(shape, lse + node * lse_jump, 0, level)
            if written:
                factor = 0.0 if mass == 0.0 else 1.0 / mass
                row_scale(row, out + node * jump, out + node * jump, factor)
            else:
                row_zero(row, out + node * jump)


def _grid_forward(
    shape, size, first, last, source, owners, edges, query, key, value, out, lse, scale
):  # fmt: skip
    """The segments whose first query lies from ``first`` to ``last``."""
    tables, row, column = source.tables, shape.keys.single, shape.values.single
    room = Segment(
        0, 0, 0, 0, scratch(PAIRS_BYTES), scratch(OFFSETS_BYTES), scratch(OFFSETS_BYTES),
        scratch(OFFSETS_BYTES), scratch(shape.segment_bytes),
    )  # fmt: skip
    near, far = scratch(BASES_BYTES), scratch(BASES_BYTES)
    scores, states = scratch(shape.segment_bytes), scratch(STATES_BYTES)
    queries, widened = scratch(row.wide.segment_bytes), scratch(row.wide.bytes)
    spare = scratch(column.wide.bytes)
    extent, step = header(tables, 2, EXTENT), header(tables, 2, STEP)
    middle, classes = header(tables, 1, EXTENT), min(step, extent)
    most = ((extent + step - 1) // step + SEGMENT - 1) // SEGMENT
    keys_jump, values_jump = size.groups * shape.keys.bytes, size.groups * shape.values.bytes
    jump, lse_jump = size.groups * shape.values.wide.bytes, size.groups * shape.head_bytes
    for part in range(size.batch * size.groups):
        b, group = part // size.groups, part % size.groups
        own = b * size.rows * size.groups + group
        other = b * size.columns * size.groups + group
        for line in range(first // extent, (last + extent - 1) // extent):
            one, two = entry(tables, 0, line // middle), entry(tables, 1, line % middle)
            for at in range(classes * most):
                begin, start = at % classes, at // classes * SEGMENT
                count = min(SEGMENT, (extent - begin + step - 1) // step - start)
                x = begin + start * step
                if count <= 0 or not first <= line * extent + x < last:
                    continue
                segment = stage_segment(
                    shape, room, tables, line * extent, x, step, count, keys_jump, values_jump
                )
                window = read_integer(one, COUNT) * read_integer(two, COUNT)
                if segment.groups == 0:
                    window = 0
                for h in range(shape.heads):
                    _stage_queries(
                        row, segment, query + own * shape.keys.bytes + h * row.bytes, keys_jump,
                        scale * LOG2_E, queries, widened,
                    )  # fmt: skip
                    to = out + own * shape.values.wide.bytes + h * column.wide.bytes
                    _start(shape, segment, states)
                    for t in range(0, window, segment.rows):
                        rows = min(segment.rows, window - t)
                        base = key + other * shape.keys.bytes + h * row.bytes
                        stage_rows(tables, one, two, t, rows, base, keys_jump, near)
                        base = value + other * shape.values.bytes + h * column.bytes
                        stage_rows(tables, one, two, t, rows, base, values_jump, far)
                        _score(shape, segment, queries, near, rows, scores)
                        for p in range(segment.couples):
                            pair_softmax(
                                shape, scores + p * shape.pair_bytes, rows * segment.groups,
                                states + p * STATE_BYTES,
                            )  # fmt: skip
                        _sum(shape, segment, scores, far, rows, states, to, jump, spare, t)
                    levels = lse + own * shape.head_bytes + h * shape.itemsize
                    _finish(shape, segment, states, to, jump, levels, lse_jump, window > 0)


grid_forward = Kernel(_grid_forward)
