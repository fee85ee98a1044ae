"""Kernel that finds the m largest scores of rows of any degree, by bisection on their bits.

Scores are mapped to unsigned integers in the same order. The bits of the m-th largest are found
one after the other, from the highest, by counting how many of the row's scores reach each guess;
the row is short enough to be read from cache every time. Ties go to the lower position.
"""

import triton
import triton.language as tl

from graphattn.kernels.gpu.blocks import share, task_slots, trip_count
from graphattn.kernels.gpu.softmax import edge_tile, tile_offsets


@triton.jit
def order_keys(scores, offset, mask, ACC: tl.constexpr, BITS: tl.constexpr):
    """Numbers as unsigned integers in the same order; -0 equals 0, NaN is the largest.

    Integers all the way: a float comparison may take subnormal numbers for 0. And without ~, which
    the interpreter of Triton 3.6 lacks for unsigned ones.
    """
    number = tl.load(scores + offset, mask=mask, other=0.0).to(ACC)
    KIND: tl.constexpr = tl.uint64 if BITS == 64 else tl.uint32
    INFINITY: tl.constexpr = 0x7FF0000000000000 if BITS == 64 else 0x7F800000
    bits = number.to(KIND, bitcast=True)
    sign = tl.full([1, 1, 1], 1, KIND) << (BITS - 1)
    below = sign - 1
    size = bits & below
    key = tl.where((bits >= sign) & (size != 0), bits ^ (sign | below), size | sign)
    return tl.where(size > INFINITY, sign | below, key)


@triton.jit(do_not_specialize=["num_slots", "num_edges", "most", "first_block", "blocks"])
def top_rows(
    scores,
    bits,
    edges,
    slots,
    num_slots: tl.int64,
    num_edges: tl.int64,
    most: tl.int32,
    first_block: tl.int32,
    blocks: tl.int32,
    HEADS: tl.constexpr,
    WORDS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    EDGES: tl.constexpr,
    SLOTS: tl.constexpr,
    ACC: tl.constexpr,
    BITS: tl.constexpr,
):
    """Bits of the survivors of SLOTS rows, for the heads of one word."""
    KIND: tl.constexpr = tl.uint64 if BITS == 64 else tl.uint32
    batch, word, block = share(tl.program_id(0), 0, blocks, WORDS)
    block += first_block
    slot, row, start, length = task_slots(slots, num_slots, block, SLOTS)
    trip = trip_count(slots, num_slots, block, 0, SLOTS)
    head = tl.arange(0, BLOCK_H)
    heads = word * 32 + head
    scores += batch * num_edges * HEADS
    bits += batch * num_edges * WORDS
    wanted = tl.minimum(length, most)[:, None]
    least = tl.zeros([SLOTS, BLOCK_H], KIND)
    guess_bit = tl.full([SLOTS, BLOCK_H], 1, KIND) << (BITS - 1)
    rounds = trip * 0
    while rounds < BITS:
        guess = least | guess_bit
        reached = tl.zeros([SLOTS, BLOCK_H], tl.int32)
        i = trip * 0
        while i < trip:
            on, edge = edge_tile(edges, start, length, i, EDGES)
            offset, mask = tile_offsets(edge, on, heads, HEADS)
            key = order_keys(scores, offset, mask, ACC, BITS)
            reached += tl.sum((mask & (key >= guess[:, None, :])).to(tl.int32), 1)
            i += EDGES
        least = tl.where(reached >= wanted, guess, least)
        guess_bit = guess_bit >> 1
        rounds += 1
    above = tl.zeros([SLOTS, BLOCK_H], tl.int32)
    i = trip * 0
    while i < trip:
        on, edge = edge_tile(edges, start, length, i, EDGES)
        offset, mask = tile_offsets(edge, on, heads, HEADS)
        key = order_keys(scores, offset, mask, ACC, BITS)
        above += tl.sum((mask & (key > least[:, None, :])).to(tl.int32), 1)
        i += EDGES
    quota = wanted - above
    i = trip * 0
    while i < trip:
        on, edge = edge_tile(edges, start, length, i, EDGES)
        offset, mask = tile_offsets(edge, on, heads, HEADS)
        key = order_keys(scores, offset, mask, ACC, BITS)
        tied = (mask & (key == least[:, None, :])).to(tl.int32)
        place = tl.cumsum(tied, 1)
        keep = mask & ((key > least[:, None, :]) | ((tied == 1) & (place <= quota[:, None, :])))
        found = tl.sum(tl.where(keep, tl.full([1], 1, tl.uint32) << head.to(tl.uint32), 0), 2)
        tl.store(bits + edge * WORDS + word, found.to(tl.int32, bitcast=True), mask=on)
        quota -= tl.sum(tied, 1)
        i += EDGES
