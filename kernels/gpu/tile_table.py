"""Gradient of a table of relative positions over a grid, without atomics.

A program takes one entry of one head's table and a share of the queries: all edges of one relative
position are a shifted copy of the grid, so it walks the queries in order and sums in registers.
Shares are added up in their order afterwards.
"""

import triton
import triton.language as tl

from graphattn.kernels.gpu.blocks import LOG2E
from graphattn.kernels.gpu.tile_backward import statistics
from graphattn.kernels.gpu.tiles import (
    COUNT,
    EXTENT,
    FIELDS,
    FIRST,
    OTHER,
    START,
    STEP,
    WIDTH,
    header,
    load_rows,
)


@triton.jit
def shifted(tables, AXIS: tl.constexpr, at, relative):
    """Coordinate of the key that lies ``relative`` from queries at [N], and whether it is read."""
    step = header(tables, AXIS, STEP)
    other = at + step * (relative - header(tables, AXIS, WIDTH) // 2)
    entry = tables + (header(tables, AXIS, FIRST) + at) * FIELDS
    gap = other - tl.load(entry + START).to(tl.int32)
    return other, (gap >= 0) & (gap < step * tl.load(entry + COUNT).to(tl.int32))


@triton.jit(do_not_specialize=["num_own", "num_other", "num_types", "items", "share"])
def tile_table_gradient(
    query,
    key,
    value,
    bias,
    grad_out,
    lse,
    delta,
    parts,
    tables,
    num_own: tl.int64,
    num_other: tl.int64,
    num_types: tl.int64,
    items: tl.int64,
    share: tl.int64,
    scale: tl.float32,
    HEADS: tl.constexpr,
    DK: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One entry of ``parts`` [shares, H, T]: the sum of the logits' gradients of its edges.

    ``items``: queries of all batch entries; ``share``: how many of them a program takes.
    """
    item = tl.program_id(0)
    head = item % HEADS
    kind = (item // HEADS % num_types).to(tl.int32)
    number = item // HEADS // num_types
    size_y, size_x = header(tables, 1, EXTENT), header(tables, 2, EXTENT)
    width_y, width_x = header(tables, 1, WIDTH), header(tables, 2, WIDTH)
    entry = tl.load(bias + head * num_types + kind) * LOG2E
    total = tl.zeros([BLOCK_N], tl.float32)
    for first in range(number * share, tl.minimum((number + 1) * share, items), BLOCK_N):
        place = first + tl.arange(0, BLOCK_N)
        there = place < tl.minimum((number + 1) * share, items)
        place = tl.where(there, place, 0)
        batch = place // num_own
        node = (place - batch * num_own).to(tl.int32)
        z, near_z = shifted(tables, 0, node // (size_y * size_x), kind // (width_y * width_x))
        y, near_y = shifted(tables, 1, node // size_x % size_y, kind // width_x % width_y)
        x, near_x = shifted(tables, 2, node % size_x, kind % width_x)
        on = there & near_z & near_y & near_x
        other = (z * header(tables, 1, OTHER) + y) * header(tables, 2, OTHER) + x
        other = batch * num_other + other
        q = load_rows(query + head * DK, place, on, HEADS, DK, BLOCK_K).to(tl.float32)
        k = load_rows(key + head * DK, other, on, HEADS, DK, BLOCK_K).to(tl.float32)
        pull = load_rows(grad_out + head * DV, place, on, HEADS, DV, BLOCK_V).to(tl.float32)
        v = load_rows(value + head * DV, other, on, HEADS, DV, BLOCK_V).to(tl.float32)
        level, drop = statistics(lse + head, delta + head, place, on, HEADS)
        logit = tl.sum(q * k, 1) * scale * LOG2E + entry
        p = tl.where(on, tl.exp2(logit - level), 0.0)
        total += p * (tl.sum(pull * v, 1) - drop)
    tl.store(parts + item // HEADS // num_types * (HEADS * num_types) + head * num_types + kind,
             tl.sum(total, 0))  # fmt: skip
