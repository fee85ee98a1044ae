"""Backward kernel of aggregation over columns: gradients of x and of the edges' weights."""

import triton
import triton.language as tl

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
from graphattn.kernels.gpu.reduce import slice_lanes


@triton.jit
def share_of(message, extreme, share):
    """The gradient of an extreme, at the edges that reach it; NaN goes to all edges."""
    return tl.where((message == extreme) | (extreme != extreme), share, 0.0)


@triton.jit(do_not_specialize=["num_slots", "num_rows", "num_cols", "weight_batch", "blocks",
                               "chunk_blocks", "first_unit"])  # fmt: skip
def pull_cols(
    pulls,
    x,
    weight,
    grad_x,
    grad_weight,
    part_x,
    indices,
    edges,
    slots,
    num_slots: tl.int64,
    num_rows: tl.int64,
    num_cols: tl.int64,
    weight_batch: tl.int64,
    blocks: tl.int32,
    chunk_blocks: tl.int32,
    first_unit: tl.int32,
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
):
    """SLOTS columns (or hub chunks) for one batch entry and one slice; see ``message_pulls``."""
    STRIDE: tl.constexpr = HEADS * WIDTH
    CURVED: tl.constexpr = SPREAD or MAX or MIN
    EXTREMES: tl.constexpr = LINEAR + 2 * SPREAD
    batch, group, block = share(tl.program_id(0), first_unit, blocks, GROUPS)
    slot, col, start, length = task_slots(slots, num_slots, block, SLOTS)
    trip = trip_count(slots, num_slots, block, chunk_blocks, SLOTS)
    live = col >= 0
    lanes = slice_lanes(group, HEADS, WIDTH, WIDTH_GROUPS, BLOCK_H, BLOCK_W)
    heads = group // WIDTH_GROUPS * BLOCK_H + tl.arange(0, BLOCK_H)
    node = batch * num_cols + col
    pulls += batch * num_rows * (TERMS * STRIDE)
    if weight is not None:
        weight += batch * weight_batch
    if grad_weight is not None:
        grad_weight += batch * weight_batch
    if CURVED or grad_weight is not None:
        own = gather(x, node, live, lanes, STRIDE, EXACT, BLOCK_W).to(ACC)
    acc = tl.zeros([SLOTS, BLOCK_H, BLOCK_W], ACC)
    i = trip * 0
    while i < trip:
        hops = ()
        terms = ()
        factors = ()
        for u in tl.static_range(UNROLL):
            hops = hops + (edge_at(indices, edges, start, length, i + u),)
        for u in tl.static_range(UNROLL):
            on, row, edge = hops[u]
            for t in tl.static_range(TERMS):
                base = pulls + t * STRIDE
                tile = gather(base, row, on, lanes, TERMS * STRIDE, EXACT, BLOCK_W)
                terms = terms + (tile,)
            if weight is not None:
                factors = factors + (load_heads(weight, edge, on, heads, HEADS, 0.0),)
        for u in tl.static_range(UNROLL):
            on, row, edge = hops[u]
            if CURVED:
                message = own
                if weight is not None:
                    message = own * factors[u][:, :, None]
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
            if CURVED:
                pull = tl.where(on[:, None, None], pull, 0.0)
            if grad_weight is not None:
                found = tl.sum(pull * own, 2)
                if ADD:
                    found += load_heads(grad_weight, edge, on, heads, HEADS, 0.0)
                store_heads(grad_weight, edge, on, heads, found, HEADS)
            if weight is not None:
                pull *= factors[u][:, :, None]
            acc += pull
        i += UNROLL
    if grad_x is not None:
        if block < chunk_blocks:
            part = batch * chunk_blocks * SLOTS + slot
            scatter(part_x, part, live, lanes, acc, STRIDE, EXACT)
        else:
            scatter(grad_x, node, live, lanes, acc, STRIDE, EXACT)
