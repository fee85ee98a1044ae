"""Device functions shared by the attention kernels: tasks, lanes, gathers, edges, logits, dropout.

A program works on ``SLOTS`` tasks at once. One task's features are a flat run of
``BLOCK_H * BLOCK_W`` lanes, loaded as a 2-D tile [SLOTS, lanes] (16 bytes per thread) and split
into heads only by a reshape, which moves no data. Every index that is multiplied by a row width
is int64. What belongs to ``UNROLL`` edges is a tuple of that length, or an empty one for an input
that is not there.
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
def share(item, first_unit, blocks, GROUPS: tl.constexpr):
    """Batch entry, group of heads and block of slots of one program; units are (batch, group)."""
    unit = item // blocks
    block = item - unit * blocks
    unit += first_unit
    return (unit // GROUPS).to(tl.int64), unit % GROUPS, block


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
def all_lanes(
    group,
    HEADS: tl.constexpr,
    DK: tl.constexpr,
    DV: tl.constexpr,
    DF: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """A group's heads, and the lanes of keys, values, edge queries and edge features."""
    heads = group * BLOCK_H + tl.arange(0, BLOCK_H)
    lanes_k = head_lanes(group, HEADS, DK, BLOCK_H, BLOCK_K)
    lanes_v = head_lanes(group, HEADS, DV, BLOCK_H, BLOCK_V)
    lanes_f = head_lanes(group, HEADS, DF, BLOCK_H, BLOCK_F)
    return heads, lanes_k, lanes_v, lanes_f, edge_lanes(DF, BLOCK_H, BLOCK_F)


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
def gather_all(
    base,
    hops,
    FIELD: tl.constexpr,
    lanes,
    STRIDE: tl.constexpr,
    EXACT: tl.constexpr,
    BLOCK_W: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """``gather`` for every hop that is read, by its node (FIELD 1) or by its edge (FIELD 2)."""
    tiles = ()
    if base is not None:
        for u in tl.static_range(UNROLL):
            hop = hops[u]
            tiles = tiles + (gather(base, hop[FIELD], hop[4], lanes, STRIDE, EXACT, BLOCK_W),)
    return tiles


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
def deliver(
    whole, part, node, slot, first_part, is_part, live, lanes, tile,
    STRIDE: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Store a finished tile at its node, or that of a hub chunk among the partial results."""
    if is_part:
        scatter(part, first_part + slot, live, lanes, tile, STRIDE, EXACT)
    else:
        scatter(whole, node, live, lanes, tile, STRIDE, EXACT)


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
def survivors(mask, edge, on, group, heads, HEADS: tl.constexpr, BLOCK_H: tl.constexpr):
    """Whether each slot's edge exists for any head of the group, [SLOTS], and for which.

    The latter is [SLOTS, BLOCK_H]. Bits past the last head mean nothing.
    """
    WORDS: tl.constexpr = (HEADS + 31) // 32
    bits = tl.zeros([on.shape[0]], tl.int64)
    for w in tl.static_range((BLOCK_H + 31) // 32):
        at = group * BLOCK_H // 32 + w
        first = group * BLOCK_H % 32
        count = tl.minimum(HEADS - at * 32 - first, min(BLOCK_H, 32))
        field = ((tl.full([], 1, tl.int64) << tl.maximum(count, 0)) - 1) << first
        word = tl.load(mask + edge * WORDS + tl.minimum(at, WORDS - 1), mask=on, other=0)
        bits |= word.to(tl.int64) & field
    offset = edge[:, None] * WORDS + (heads // 32)[None, :]
    own = tl.load(mask + offset, mask=on[:, None] & (heads < HEADS)[None, :], other=0)
    return bits != 0, ((own >> (heads % 32)[None, :]) & 1) != 0


@triton.jit
def next_edges(
    indices,
    edges,
    bias_index,
    mask,
    start,
    length,
    i,
    group,
    heads,
    EVERY: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """Hops: the next UNROLL edges of each slot, with what the mask says about them.

    Each is (exists, its other node, caller's edge id, bias type, to be read, exists per head).
    Edges that no head keeps are not read, except with EVERY.
    """
    hops = ()
    for u in tl.static_range(UNROLL):
        on, node, edge = edge_at(indices, edges, start, length, i + u)
        kind = edge
        if bias_index is not None:
            kind = tl.load(bias_index + edge, mask=on, other=0).to(tl.int64)
        read = on
        alive = on[:, None]
        if mask is not None:
            some, alive = survivors(mask, edge, on, group, heads, HEADS, BLOCK_H)
            if not EVERY:
                read = some
        hops = hops + ((on, node, edge, kind, read, alive),)
    return hops


@triton.jit
def load_heads(base, node, on, heads, HEADS: tl.constexpr, OTHER: tl.constexpr):
    """One number per head of one node per slot, [SLOTS, BLOCK_H]; OTHER where off."""
    offset = node.to(tl.int64)[:, None] * HEADS + heads[None, :]
    return tl.load(base + offset, mask=on[:, None] & (heads < HEADS)[None, :], other=OTHER)


@triton.jit
def load_all(
    base, hops, heads, FIELD: tl.constexpr, JUMP: tl.constexpr, shift, HEADS: tl.constexpr,
    OTHER: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """``load_heads`` for every hop that is read, at JUMP * hop[FIELD] + shift."""
    found = ()
    for u in tl.static_range(UNROLL):
        at = hops[u][FIELD] * JUMP + shift
        found = found + (load_heads(base, at, hops[u][4], heads, HEADS, OTHER),)
    return found


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
def edge_biases(
    bias,
    bias_index,
    num_types,
    hops,
    heads,
    HEADS: tl.constexpr,
    PER_HEAD: tl.constexpr,
    UNROLL: tl.constexpr,
):
    """Additive logits of every hop; those of a table [HEADS, num_types] by the hop's type."""
    found = ()
    if bias is not None:
        for u in tl.static_range(UNROLL):
            on, node, edge, kind, read, alive = hops[u]
            if bias_index is not None:
                at = heads.to(tl.int64)[None, :] * num_types + kind[:, None]
                there = on[:, None] & (heads < HEADS)[None, :]
                found = found + (tl.load(bias + at, mask=there, other=0.0),)
            else:
                found = found + (edge_bias(bias, edge, on, heads, HEADS, PER_HEAD),)
    return found


@triton.jit
def clip(x, bound):
    """Clamp to [-bound, bound]; unlike min and max it passes NaN on."""
    x = tl.where(x > bound, bound, x)
    return tl.where(x < -bound, -bound, x)


@triton.jit
def repeat(tile, UNROLL: tl.constexpr):
    """The same tile for every hop."""
    tiles = ()
    for _ in tl.static_range(UNROLL):
        tiles = tiles + (tile,)
    return tiles


@triton.jit
def with_gate(tiles, gates, u: tl.constexpr, ACC: tl.constexpr):
    """Features of hop ``u`` in the accumulation dtype, times its gate if there is one."""
    tile = tiles[u].to(ACC)
    if len(gates) > 0:
        tile *= gates[u].to(ACC)
    return tile


@triton.jit
def dots(mine, theirs, gates, features, attrs, ACC: tl.constexpr, UNROLL: tl.constexpr):
    """<mine, theirs * gate> + <feature, attr> of every hop, each [SLOTS, BLOCK_H]."""
    found = ()
    for u in tl.static_range(UNROLL):
        dot = tl.sum(mine * with_gate(theirs, gates, u, ACC), 2)
        if len(features) > 0:
            dot += tl.sum(features[u].to(ACC) * attrs[u].to(ACC), 2)
        found = found + (dot,)
    return found


@triton.jit
def logit_of(raw, biases, u: tl.constexpr, bound, CLAMP: tl.constexpr):
    """Logit of hop ``u``: clamped, then biased."""
    if CLAMP:
        raw = clip(raw, bound)
    if len(biases) > 0:
        raw += biases[u]
    return raw


@triton.jit
def dropout_words(streams, batch, heads, HEADS: tl.constexpr):
    """The two 32-bit hash words of each head, each [BLOCK_H]; () without dropout."""
    if streams is None:
        return ()
    else:
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


@triton.jit
def weigh(logit, shift, gain, delta, edge, words, threshold, kept):
    """Weight of each slot's edge after dropout, and the gradient of its logit.

    p = exp2(logit * log2 e - shift) and p * (gain - delta), gain being 0 where dropout struck.
    """
    p = tl.exp2(logit * LOG2E - shift)
    weight = p
    if len(words) > 0:
        keep = keeps(edge, words, threshold)
        gain = tl.where(keep, gain * kept, 0.0)
        weight = tl.where(keep, p * kept, 0.0)
    return weight, p * (gain - delta)


@triton.jit
def logit_slope(slope, raw, bound, CLAMP: tl.constexpr):
    """Gradient of a logit before its bias and clamp from the one after them."""
    if CLAMP:
        slope = tl.where((raw > bound) | (raw < -bound), 0.0, slope)
    return slope
