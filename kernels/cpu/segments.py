"""Segments of a grid row: queries whose windows overlap, two at a time, and the keys of each pair.

The queries of a grid row whose coordinates on the last axis differ by the dilation read windows
that overlap; a segment is up to ``SEGMENT`` of them in a row. Which queries make a segment depends
on the grid alone, and so does every bit of what is computed with it. Borders, strides, dilation and
the causal flag come in by the lists of keys: the second query's goes on where the first's began to
agree with it, or after its end if they have nothing in common.
"""

from typing import NamedTuple

from numba.core import types

from graphattn.kernels.cpu.compile import helper
from graphattn.kernels.cpu.memory import read_integer, write, write_integer
from graphattn.kernels.cpu.pairs import HALF_BYTES
from graphattn.kernels.cpu.shape import PAIR_SLOTS, SEGMENT
from graphattn.kernels.cpu.sources import entry, header, place_at
from graphattn.kernels.grid import COUNT, OTHER

COUPLES = SEGMENT // 2
WINDOW = PAIR_SLOTS // 2
"""Longest window along the last axis that a pair's slots hold."""
KEYS_BYTES = 8 * PAIR_SLOTS
OFFSETS_BYTES = COUPLES * KEYS_BYTES
# Of a pair: numbers of its queries; end of the first's keys in the list, start and end of the
# second's; first key of the list that the pair before does not read; number of keys.
ONE, TWO, ONE_END, TWO_START, TWO_END, FRESH, UNION = range(7)
LIMITS = 8 * ONE_END
PAIR_BYTES = 64
PAIRS_BYTES = COUPLES * PAIR_BYTES


class Segment(NamedTuple):
    """``count`` queries in ``couples`` pairs, the last perhaps with itself.

    Every pair has ``groups`` quarter vectors of keys in a window row, and ``rows`` window rows fit
    into its slots. The others are addresses: of the pairs; of their lists of keys, by coordinate;
    of the bytes from the start of a window row to each key and value; of masks laid out as scores.
    """

    count: int
    couples: int
    groups: int
    rows: int
    pairs: int
    keys: int
    near: int
    far: int
    masks: int


SEGMENTS = types.NamedUniTuple(types.int64, 9, Segment)


@helper(types.int64)
def pair_of(segment, p):
    """Address of a pair."""
    return segment.pairs + p * PAIR_BYTES


@helper(types.int64)
def offsets_of(shape, segment, offsets, p):
    """Address of a pair's offsets; close together, for the cache."""
    return offsets + p * segment.groups * (shape.lanes // 4) * 8


@helper(types.int64)
def masks_of(segment, p):
    """Address of a pair's masks."""
    return segment.masks + p * segment.groups * HALF_BYTES


@helper(types.int64)
def overlap(tables, keys, many, two, more):
    """Where the second query's keys begin in the first's list: its end unless they go on alike."""
    if more == 0:
        return many
    shift, first = 0, place_at(tables, 2, two, 0)
    while shift < many and read_integer(keys, shift) != first:
        shift += 1
    for u in range(shift, many):
        if u - shift >= more or read_integer(keys, u) != place_at(tables, 2, two, u - shift):
            return many
    return shift


@helper(types.int64)
def stage_pair(tables, pair, keys, one, two):
    """List the keys of two queries by their coordinates on the last axis; their number."""
    many, more = read_integer(one, COUNT), read_integer(two, COUNT)
    for u in range(many):
        write_integer(keys, u, place_at(tables, 2, one, u))
    shift = overlap(tables, keys, many, two, more)
    for u in range(many, shift + more):
        write_integer(keys, u, place_at(tables, 2, two, u - shift))
    write_integer(pair, ONE_END, many)
    write_integer(pair, TWO_START, shift)
    write_integer(pair, TWO_END, shift + more)
    return max(many, shift + more)


@helper(types.void)
def stage_fresh(pair, keys, count, past):
    """Note the first of the keys at the end of the list that lie beyond ``past``."""
    fresh = count
    while fresh > 0 and read_integer(keys, fresh - 1) > past:
        fresh -= 1
    write_integer(pair, FRESH, fresh)
    write_integer(pair, UNION, count)


@helper(types.void)
def stage_masks(shape, pair, masks, quarter, groups):
    """0 for every neighbour of each query, 1 for what else fills the groups."""
    one_end = read_integer(pair, ONE_END)
    two_start, two_end = read_integer(pair, TWO_START), read_integer(pair, TWO_END)
    for u in range(groups * quarter):
        place = u + u // quarter * quarter
        write(shape, masks, place, 0.0 if u < one_end else 1.0)
        write(shape, masks, place + quarter, 0.0 if two_start <= u < two_end else 1.0)


@helper(types.void)
def stage_offsets(keys, count, slots, jump, offsets):
    """Bytes from the start of a window row to each key; the last is repeated."""
    for u in range(slots):
        last = 0 if count == 0 else read_integer(keys, min(u, count - 1))
        write_integer(offsets, u, last * jump)


@helper(SEGMENTS)
def stage_segment(shape, room, tables, base, x, step, count, keys_jump, values_jump):
    """Stage ``count`` queries from coordinate ``x`` of the row that begins with node ``base``."""
    quarter, most, past = shape.lanes // 4, 0, -1
    couples = (count + 1) // 2
    for p in range(couples):
        pair, keys = pair_of(room, p), room.keys + p * KEYS_BYTES
        one = x + 2 * p * step
        two = one + step if 2 * p + 1 < count else one
        write_integer(pair, ONE, base + one)
        write_integer(pair, TWO, base + two)
        found = stage_pair(tables, pair, keys, entry(tables, 2, one), entry(tables, 2, two))
        stage_fresh(pair, keys, found, past)
        if found > 0:
            past = read_integer(keys, found - 1)
        most = max(most, found)
    groups = (most + quarter - 1) // quarter
    slots = groups * quarter
    made = Segment(
        count, couples, groups, PAIR_SLOTS // max(slots, 1), room.pairs, room.keys, room.near,
        room.far, room.masks,
    )  # fmt: skip
    for p in range(couples):
        pair, keys = pair_of(made, p), made.keys + p * KEYS_BYTES
        stage_masks(shape, pair, masks_of(made, p), quarter, groups)
        found = read_integer(pair, UNION)
        stage_offsets(keys, found, slots, keys_jump, offsets_of(shape, made, made.near, p))
        stage_offsets(keys, found, slots, values_jump, offsets_of(shape, made, made.far, p))
    return made


@helper(types.void)
def stage_rows(tables, one, two, start, count, table, jump, bases):
    """Addresses of the window rows ``start`` to ``start + count`` in a table of nodes."""
    second = read_integer(two, COUNT)
    for r in range(count):
        t1 = (start + r) // second
        base = place_at(tables, 0, one, t1) * header(tables, 1, OTHER)
        base += place_at(tables, 1, two, start + r - t1 * second)
        write_integer(bases, r, table + base * header(tables, 2, OTHER) * jump)
