"""Backward kernel of non-linear messages: over rows for a, over columns for b."""

import triton
import triton.language as tl

from graphattn.kernels.gpu.bend import (
    before_bend,
    bend,
    feature_at,
    projection_of,
    slope_of,
)
from graphattn.kernels.gpu.blocks import (
    edge_at,
    gather,
    load_heads,
    scatter,
    share,
    store_heads,
    task_slots,
    trip_count,
)
from graphattn.kernels.gpu.pull import share_of
from graphattn.kernels.gpu.reduce import slice_lanes


@triton.jit(do_not_specialize=["num_slots", "num_own", "num_near", "weight_batch", "blocks",
                               "chunk_blocks", "first_unit", "feature"])  # fmt: skip
def change_rows(
    own,
    near,
    pulls,
    weight,
    attr,
    proj,
    grad,
    grad_weight,
    grad_attr,
    part,
    indices,
    edges,
    slots,
    num_slots: tl.int64,
    num_own: tl.int64,
    num_near: tl.int64,
    weight_batch: tl.int64,
    blocks: tl.int32,
    chunk_blocks: tl.int32,
    first_unit: tl.int32,
    feature: tl.int32,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH_GROUPS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    EXACT: tl.constexpr,
    SLOTS: tl.constexpr,
    UNROLL: tl.constexpr,
    ACC: tl.constexpr,
    TERMS: tl.constexpr,
    LINEAR: tl.constexpr,
    SPREAD: tl.constexpr,
    MAX: tl.constexpr,
    MIN: tl.constexpr,
    ADD: tl.constexpr,
    ADD_ATTR: tl.constexpr,
    BY_ROWS: tl.constexpr,
    BY_FEATURE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SLOPE: tl.constexpr,
    FEATURES: tl.constexpr,
):
    """SLOTS rows (or hub chunks) for one batch entry and one slice; see ``message_pulls``.

    By rows the terms of the gradient are the row's own ``pulls``; by columns ``near`` has them
    behind its numbers. BY_FEATURE weighs what is summed up by one edge feature.
    """
    STRIDE: tl.constexpr = HEADS * WIDTH
    EXTREMES: tl.constexpr = LINEAR + 2 * SPREAD
    FIRST: tl.constexpr = 0 if BY_ROWS else 1
    JUMP: tl.constexpr = STRIDE if BY_ROWS else (TERMS + 1) * STRIDE
    batch, group, block = share(tl.program_id(0), first_unit, blocks, GROUPS)
    slot, row, start, length = task_slots(slots, num_slots, block, SLOTS)
    trip = trip_count(slots, num_slots, block, chunk_blocks, SLOTS)
    live = row >= 0
    lanes = slice_lanes(group, HEADS, WIDTH, WIDTH_GROUPS, BLOCK_H, BLOCK_W)
    heads = group // WIDTH_GROUPS * BLOCK_H + tl.arange(0, BLOCK_H)
    node = batch * num_own + row
    near += batch * num_near * JUMP
    if weight is not None:
        weight += batch * weight_batch
    if grad_weight is not None:
        grad_weight += batch * weight_batch
    mine = gather(own, node, live, lanes, STRIDE, EXACT, BLOCK_W).to(ACC)
    held = ()
    if BY_ROWS:
        # A row without edges has shares of 0 / 0, which nobody may read.
        some = live & (length > 0)
        for t in tl.static_range(TERMS):
            base = pulls + t * STRIDE
            held = held + (gather(base, node, some, lanes, TERMS * STRIDE, EXACT, BLOCK_W),)
    acc = tl.zeros([SLOTS, BLOCK_H, BLOCK_W], ACC)
    i = trip * 0
    while i < trip:
        hops = ()
        tiles = ()
        terms = ()
        factors = ()
        for u in tl.static_range(UNROLL):
            hops = hops + (edge_at(indices, edges, start, length, i + u),)
        for u in tl.static_range(UNROLL):
            on, other, edge = hops[u]
            tiles = tiles + (gather(near, other, on, lanes, JUMP, EXACT, BLOCK_W),)
            for t in tl.static_range(TERMS):
                if BY_ROWS:
                    terms = terms + (held[t],)
                else:
                    base = near + (FIRST + t) * STRIDE
                    terms = terms + (gather(base, other, on, lanes, JUMP, EXACT, BLOCK_W),)
            if weight is not None:
                factors = factors + (load_heads(weight, edge, on, heads, HEADS, 0.0),)
        for u in tl.static_range(UNROLL):
            on, other, edge = hops[u]
            z = before_bend(mine, tiles[u], attr, proj, edge, on, lanes, FEATURES, STRIDE,
                            BLOCK_H, BLOCK_W, ACC)  # fmt: skip
            value = bend(z, ACTIVATION, SLOPE)
            message = value
            if weight is not None:
                message = value * factors[u][:, :, None]
            pull = tl.zeros([SLOTS, BLOCK_H, BLOCK_W], ACC)
            if LINEAR:
                pull += terms[u * TERMS].to(ACC)
            if SPREAD:
                away = message - terms[u * TERMS + LINEAR + 1].to(ACC)
                pull += terms[u * TERMS + LINEAR].to(ACC) * away
            if MAX:
                extreme = terms[u * TERMS + EXTREMES].to(ACC)
                pull += share_of(message, extreme, terms[u * TERMS + EXTREMES + 1].to(ACC))
            if MIN:
                extreme = terms[u * TERMS + TERMS - 2].to(ACC)
                pull += share_of(message, extreme, terms[u * TERMS + TERMS - 1].to(ACC))
            pull = tl.where(on[:, None, None], pull, 0.0)
            if grad_weight is not None:
                # Lanes that are padding have a gradient of 0, but phi(0) may be anything.
                found = tl.sum(pull * value, 2)
                if ADD:
                    found += load_heads(grad_weight, edge, on, heads, HEADS, 0.0)
                store_heads(grad_weight, edge, on, heads, found, HEADS)
            change = pull * slope_of(z, ACTIVATION, SLOPE)
            if weight is not None:
                change *= factors[u][:, :, None]
            if grad_attr is not None:
                for f in range(FEATURES):
                    by = projection_of(proj, f, lanes, STRIDE, BLOCK_H, BLOCK_W, ACC)
                    total = tl.sum(tl.sum(change * by, 2), 1)
                    at = grad_attr + edge * FEATURES + f
                    if ADD_ATTR:
                        total += tl.load(at, mask=on, other=0.0)
                    tl.store(at, total, mask=on)
            if BY_FEATURE:
                change *= feature_at(attr, edge, on, feature, FEATURES, ACC)[:, None, None]
            acc += change
        i += UNROLL
    if grad is not None:
        if block < chunk_blocks:
            place = batch * chunk_blocks * SLOTS + slot
            scatter(part, place, live, lanes, acc, STRIDE, EXACT)
        else:
            scatter(grad, node, live, lanes, acc, STRIDE, EXACT)
