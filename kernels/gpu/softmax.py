"""Kernels of the softmax over edges: a tile is [rows, a few consecutive edges, heads].

The state of a row and head is (top, mass): the largest score, and the sum of exp(score - top).
"""

import triton
import triton.language as tl

from graphattn.kernels.gpu.blocks import (
    LOG2E,
    load_heads,
    share,
    store_heads,
    task_slots,
    trip_count,
)
from graphattn.kernels.gpu.merge import merge_task


@triton.jit
def edge_tile(edges, start, length, i, EDGES: tl.constexpr):
    """The edges i to i + EDGES of each slot: (exists, caller's id), each [SLOTS, EDGES]."""
    step = i + tl.arange(0, EDGES)[None, :]
    on = step < length[:, None]
    edge = start[:, None] + step
    if edges is not None:
        edge = tl.load(edges + edge, mask=on, other=0).to(tl.int64)
    return on, edge


@triton.jit
def tile_offsets(edge, on, heads, HEADS: tl.constexpr):
    """Places and mask of the numbers of a tile, both [SLOTS, EDGES, BLOCK_H]."""
    offset = edge[:, :, None] * HEADS + heads[None, None, :]
    return offset, on[:, :, None] & (heads < HEADS)[None, None, :]


@triton.jit
def finite_top(top):
    """What to subtract: 0 where everything is masked, so that -inf gives weight 0 and not NaN."""
    return tl.where(top == float("-inf"), 0.0, top)


@triton.jit
def write_weights(
    scores, weights, edges, start, length, trip, heads, top, mass, HEADS: tl.constexpr,
    EDGES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """exp(score - top) / mass of every edge of some slots; 0 without mass."""
    empty = mass == 0.0
    inverse = tl.where(empty, 0.0, 1.0 / tl.where(empty, 1.0, mass))
    shift = finite_top(top)
    i = trip * 0
    while i < trip:
        on, edge = edge_tile(edges, start, length, i, EDGES)
        offset, mask = tile_offsets(edge, on, heads, HEADS)
        tile = tl.load(scores + offset, mask=mask, other=float("-inf")).to(ACC)
        found = tl.exp2((tile - shift[:, None, :]) * LOG2E) * inverse[:, None, :]
        tl.store(weights + offset, found.to(weights.dtype.element_ty), mask=mask)
        i += EDGES


@triton.jit(do_not_specialize=["num_slots", "num_edges", "blocks", "chunk_blocks"])
def softmax_rows(
    scores,
    weights,
    part_top,
    part_mass,
    edges,
    slots,
    num_slots: tl.int64,
    num_edges: tl.int64,
    blocks: tl.int32,
    chunk_blocks: tl.int32,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    EDGES: tl.constexpr,
    SLOTS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Weights of SLOTS rows, or the states of hub chunks."""
    batch, group, block = share(tl.program_id(0), 0, blocks, GROUPS)
    slot, row, start, length = task_slots(slots, num_slots, block, SLOTS)
    trip = trip_count(slots, num_slots, block, chunk_blocks, SLOTS)
    heads = group * BLOCK_H + tl.arange(0, BLOCK_H)
    scores += batch * num_edges * HEADS
    weights += batch * num_edges * HEADS
    top = tl.full([SLOTS, BLOCK_H], float("-inf"), ACC)
    mass = tl.zeros([SLOTS, BLOCK_H], ACC)
    i = trip * 0
    while i < trip:
        on, edge = edge_tile(edges, start, length, i, EDGES)
        offset, mask = tile_offsets(edge, on, heads, HEADS)
        tile = tl.load(scores + offset, mask=mask, other=float("-inf")).to(ACC)
        # NaN takes no part in the maximum; it makes the mass NaN.
        highest = tl.maximum(top, tl.max(tl.where(tile == tile, tile, float("-inf")), 1))
        shift = finite_top(highest)
        mass *= tl.exp2((top - shift) * LOG2E)
        mass += tl.sum(tl.exp2((tile - shift[:, None, :]) * LOG2E), 1)
        top = highest
        i += EDGES
    if block < chunk_blocks:
        part = batch * chunk_blocks * SLOTS + slot
        store_heads(part_top, part, row >= 0, heads, top, HEADS)
        store_heads(part_mass, part, row >= 0, heads, mass, HEADS)
    else:
        write_weights(scores, weights, edges, start, length, trip, heads, top, mass,
                      HEADS, EDGES, ACC)  # fmt: skip


@triton.jit(do_not_specialize=["num_tasks", "num_parts", "num_dest"])
def merge_masses(
    part_top,
    part_mass,
    top_out,
    mass_out,
    tasks,
    num_tasks: tl.int32,
    num_parts: tl.int64,
    num_dest: tl.int64,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    PARTS: tl.constexpr,
    ACC: tl.constexpr,
    FINAL: tl.constexpr,
):
    """Combine the states of consecutive parts."""
    batch, group, task = share(tl.program_id(0), 0, num_tasks, GROUPS)
    first, count, dest = merge_task(tasks, num_tasks, task, FINAL)
    heads = group * BLOCK_H + tl.arange(0, BLOCK_H)
    top = tl.full([BLOCK_H], float("-inf"), ACC)
    mass = tl.zeros([BLOCK_H], ACC)
    i = count * 0
    while i < count:
        step = i + tl.arange(0, PARTS)
        part = batch * num_parts + first + step
        tops = load_heads(part_top, part, step < count, heads, HEADS, float("-inf"))
        masses = load_heads(part_mass, part, step < count, heads, HEADS, 0.0)
        highest = tl.maximum(top, tl.max(tops, 0))
        shift = finite_top(highest)
        mass *= tl.exp2((top - shift) * LOG2E)
        mass += tl.sum(masses * tl.exp2((tops - shift[None, :]) * LOG2E), 0)
        top = highest
        i += PARTS
    one = tl.arange(0, 1)
    node = batch * num_dest + dest + one
    store_heads(top_out, node, one == 0, heads, top[None, :], HEADS)
    store_heads(mass_out, node, one == 0, heads, mass[None, :], HEADS)


@triton.jit(do_not_specialize=["num_slots", "num_edges", "num_rows", "blocks"])
def softmax_chunks(
    scores,
    weights,
    tops,
    masses,
    edges,
    slots,
    num_slots: tl.int64,
    num_edges: tl.int64,
    num_rows: tl.int64,
    blocks: tl.int32,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    EDGES: tl.constexpr,
    SLOTS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Weights of hub chunks, once the states of their rows are known."""
    batch, group, block = share(tl.program_id(0), 0, blocks, GROUPS)
    _, row, start, length = task_slots(slots, num_slots, block, SLOTS)
    trip = trip_count(slots, num_slots, block, blocks, SLOTS)
    heads = group * BLOCK_H + tl.arange(0, BLOCK_H)
    node = batch * num_rows + row
    top = load_heads(tops, node, row >= 0, heads, HEADS, float("-inf"))
    mass = load_heads(masses, node, row >= 0, heads, HEADS, 0.0)
    jump = batch * num_edges * HEADS
    write_weights(scores + jump, weights + jump, edges, start, length, trip, heads, top, mass,
                  HEADS, EDGES, ACC)  # fmt: skip


@triton.jit
def load_pair(grad, weights, edges, start, length, i, heads, HEADS: tl.constexpr,
              EDGES: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """Gradients and weights of a tile, with their places and mask."""
    on, edge = edge_tile(edges, start, length, i, EDGES)
    offset, mask = tile_offsets(edge, on, heads, HEADS)
    pull = tl.load(grad + offset, mask=mask, other=0.0).to(ACC)
    return pull, tl.load(weights + offset, mask=mask, other=0.0).to(ACC), offset, mask


@triton.jit
def write_pulls(
    grad, weights, out, edges, start, length, trip, heads, mean, HEADS: tl.constexpr,
    EDGES: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """w (g - mean) of every edge of some slots."""
    i = trip * 0
    while i < trip:
        pull, weight, offset, mask = load_pair(grad, weights, edges, start, length, i, heads,
                                               HEADS, EDGES, ACC)  # fmt: skip
        found = weight * (pull - mean[:, None, :])
        tl.store(out + offset, found.to(out.dtype.element_ty), mask=mask)
        i += EDGES


@triton.jit(do_not_specialize=["num_slots", "num_edges", "num_rows", "blocks", "chunk_blocks"])
def softmax_pulls(
    grad,
    weights,
    out,
    part_mean,
    means,
    edges,
    slots,
    num_slots: tl.int64,
    num_edges: tl.int64,
    num_rows: tl.int64,
    blocks: tl.int32,
    chunk_blocks: tl.int32,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    EDGES: tl.constexpr,
    SLOTS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Gradient of the scores of SLOTS rows; of hub chunks, their parts of sum w g.

    With ``means`` given, these sums are known and the hub chunks get their gradients.
    """
    batch, group, block = share(tl.program_id(0), 0, blocks, GROUPS)
    slot, row, start, length = task_slots(slots, num_slots, block, SLOTS)
    trip = trip_count(slots, num_slots, block, chunk_blocks, SLOTS)
    heads = group * BLOCK_H + tl.arange(0, BLOCK_H)
    grad += batch * num_edges * HEADS
    weights += batch * num_edges * HEADS
    out += batch * num_edges * HEADS
    if means is not None:
        mean = load_heads(means, batch * num_rows + row, row >= 0, heads, HEADS, 0.0)
        write_pulls(grad, weights, out, edges, start, length, trip, heads, mean,
                    HEADS, EDGES, ACC)  # fmt: skip
    else:
        mean = tl.zeros([SLOTS, BLOCK_H], ACC)
        i = trip * 0
        while i < trip:
            pull, weight, offset, mask = load_pair(grad, weights, edges, start, length, i, heads,
                                                   HEADS, EDGES, ACC)  # fmt: skip
            mean += tl.sum(weight * pull, 1)
            i += EDGES
        if block < chunk_blocks:
            part = batch * chunk_blocks * SLOTS + slot
            store_heads(part_mean, part, row >= 0, heads, mean, HEADS)
        else:
            write_pulls(grad, weights, out, edges, start, length, trip, heads, mean,
                        HEADS, EDGES, ACC)  # fmt: skip
