"""Device functions shared by the attention kernels: lanes, gathers, edges, dropout.

A program works on ``SLOTS`` tasks at once. One task's features are a flat run of
``BLOCK_H * BLOCK_W`` lanes, loaded as a 2-D tile [SLOTS, lanes] (16 bytes per thread) and split
into heads only by a reshape, which moves no data. Every index that is multiplied by a row width
is int64.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def real(x, ACC: tl.constexpr):
    """A scalar argument in the accumulation dtype, without passing through float32."""
    return tl.full([], x, ACC)


@triton.jit
def task_slots(slots, num_slots, block, SLOTS: tl.constexpr):
    """Destination, first edge and edge count of this program's slots, each [SLOTS]."""
    slot = block.to(tl.int64) * SLOTS + tl.arange(0, SLOTS)
    row = tl.load(slots + slot)
    start = tl.load(slots + num_slots + slot)
    length = tl.load(slots + num_slots * 2 + slot).to(tl.int32)
    return slot, row, start, length


@triton.jit
def trip_count(slots, num_slots, block, chunk_blocks, SLOTS: tl.constexpr):
    """Largest edge count among the slots, from the first one alone: see ``build_tasks``.

    A scalar load, so that the loop stays provably uniform; hub chunks may be one edge longer.
    """
    first = tl.load(slots + num_slots * 2 + block.to(tl.int64) * SLOTS).to(tl.int32)
    return first + (block < chunk_blocks).to(tl.int32)


@triton.jit
def head_lanes(
    group, HEADS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr
):
    """Offset of each lane inside one node's [HEADS, WIDTH] features, and whether it exists."""
    lane = tl.arange(0, BLOCK_H * BLOCK_W)
    head = group * BLOCK_H + lane // BLOCK_W
    column = lane % BLOCK_W
    return head * WIDTH + column, (head < HEADS) & (column < WIDTH)


@triton.jit
def edge_lanes(WIDTH: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr):
    """Lanes of a feature that all heads share: every head reads the same [WIDTH] numbers."""
    column = tl.arange(0, BLOCK_H * BLOCK_W) % BLOCK_W
    return column, column < WIDTH


@triton.jit
def lane_mask(on, lanes, EXACT: tl.constexpr):
    """Mask [SLOTS, lanes]; where no lane is padding it depends on the slot alone."""
    if EXACT:
        return on[:, None]
    else:
        return on[:, None] & lanes[1][None, :]


@triton.jit
def gather(base, node, on, lanes, STRIDE: tl.constexpr, EXACT: tl.constexpr, BLOCK_W: tl.constexpr):
    """Features of one node per slot in storage dtype: [SLOTS, BLOCK_H, BLOCK_W], 0 where off."""
    offset = node.to(tl.int64)[:, None] * STRIDE + lanes[0][None, :]
    tile = tl.load(base + offset, mask=lane_mask(on, lanes, EXACT), other=0.0)
    slots: tl.constexpr = tile.shape[0]
    heads: tl.constexpr = tile.shape[1] // BLOCK_W
    return tl.reshape(tile, [slots, heads, BLOCK_W])


@triton.jit
def scatter(base, node, on, lanes, tile, STRIDE: tl.constexpr, EXACT: tl.constexpr):
    """Store [SLOTS, BLOCK_H, BLOCK_W] as the features of one node per slot."""
    flat = tl.reshape(tile, [tile.shape[0], tile.shape[1] * tile.shape[2]])
    offset = node.to(tl.int64)[:, None] * STRIDE + lanes[0][None, :]
    tl.store(base + offset, flat.to(base.dtype.element_ty), mask=lane_mask(on, lanes, EXACT))


@triton.jit
def scatter_edges(
    base, edge, on, lanes, tile, STRIDE: tl.constexpr, EXACT: tl.constexpr, ADD: tl.constexpr
):
    """As ``scatter`` for gradients of edge tensors; ADD sums over launches (batch, head groups)."""
    if ADD:
        BLOCK_W: tl.constexpr = tile.shape[2]
        tile += gather(base, edge, on, lanes, STRIDE, EXACT, BLOCK_W)
    scatter(base, edge, on, lanes, tile, STRIDE, EXACT)


@triton.jit
def edge_at(indices, edges, start, length, i):
    """The i-th edge of each slot: (exists, its other node, caller's edge id), each [SLOTS]."""
    on = i < length
    position = start + i
    node = tl.load(indices + position, mask=on, other=0).to(tl.int64)
    edge = position
    if edges is not None:
        edge = tl.load(edges + position, mask=on, other=0).to(tl.int64)
    return on, node, edge


@triton.jit
def load_heads(base, node, on, heads, HEADS: tl.constexpr, OTHER: tl.constexpr):
    """One number per head of one node per slot, [SLOTS, BLOCK_H]; OTHER where off."""
    offset = node.to(tl.int64)[:, None] * HEADS + heads[None, :]
    return tl.load(base + offset, mask=on[:, None] & (heads < HEADS)[None, :], other=OTHER)


@triton.jit
def store_heads(base, node, on, heads, tile, HEADS: tl.constexpr):
    """Store one number per head of one node per slot."""
    offset = node.to(tl.int64)[:, None] * HEADS + heads[None, :]
    mask = on[:, None] & (heads < HEADS)[None, :]
    tl.store(base + offset, tile.to(base.dtype.element_ty), mask=mask)


@triton.jit
def edge_bias(bias, edge, on, heads, HEADS: tl.constexpr, PER_HEAD: tl.constexpr):
    """Additive logit of each slot's edge: [SLOTS, BLOCK_H], or [SLOTS, 1] shared by the heads."""
    if PER_HEAD:
        return load_heads(bias, edge, on, heads, HEADS, 0.0)
    else:
        return tl.load(bias + edge[:, None], mask=on[:, None], other=0.0)


@triton.jit
def clip(x, bound):
    """Clamp to [-bound, bound]; unlike min and max it passes NaN on."""
    x = tl.where(x > bound, bound, x)
    return tl.where(x < -bound, -bound, x)


@triton.jit
def dropout_words(streams, batch, heads, HEADS: tl.constexpr):
    """The two 32-bit hash words of each head, each [BLOCK_H]."""
    at = (batch.to(tl.int64) * HEADS + heads) * 2
    on = heads < HEADS
    first = tl.load(streams + at, mask=on, other=0).to(tl.uint32)
    return first, tl.load(streams + at + 1, mask=on, other=0).to(tl.uint32)


@triton.jit
def keeps(edge, words, threshold):
    """Dropout's decision for each slot's edge and head, [SLOTS, BLOCK_H]: see reference/dropout."""
    low = (edge & 0xFFFFFFFF).to(tl.uint32)
    high = ((edge >> 32) & 0xFFFFFFFF).to(tl.uint32)
    x = (low ^ (high * tl.full([], 0x9E3779B1, tl.uint32)))[:, None] ^ words[0][None, :]
    x ^= x >> 16
    x *= tl.full([], 0x7FEB352D, tl.uint32)
    x ^= x >> 15
    x += words[1][None, :]
    x *= tl.full([], 0x846CA68B, tl.uint32)
    x ^= x >> 16
    return x >= tl.cast(threshold, tl.uint32)
