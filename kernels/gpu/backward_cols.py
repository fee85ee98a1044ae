"""Column pass of the backward: gradients of keys and values, over the transposed graph."""

import triton
import triton.language as tl

from graphattn.kernels.gpu.blocks import (
    LOG2E,
    clip,
    dropout_words,
    edge_at,
    edge_bias,
    edge_lanes,
    gather,
    head_lanes,
    keeps,
    load_heads,
    real,
    scatter,
    task_slots,
    trip_count,
)


@triton.jit(do_not_specialize=["num_slots", "num_rows", "num_cols", "num_edges", "blocks",
                               "chunk_blocks", "threshold"])  # fmt: skip
def backward_cols(
    grad_out,
    grad_edge_out,
    grad_gated,
    query,
    key,
    value,
    stats,
    bias,
    gate,
    edge_attr,
    edge_query,
    streams,
    grad_key,
    grad_value,
    part_key,
    part_value,
    indices,
    edges,
    slots,
    num_slots: tl.int64,
    num_rows: tl.int64,
    num_cols: tl.int64,
    num_edges: tl.int64,
    blocks: tl.int32,
    chunk_blocks: tl.int32,
    scale: tl.float64,
    clamp: tl.float64,
    keep_scale: tl.float64,
    threshold: tl.int64,
    HEADS: tl.constexpr,
    DK: tl.constexpr,
    DV: tl.constexpr,
    DF: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_F: tl.constexpr,
    EXACT: tl.constexpr,
    SLOTS: tl.constexpr,
    UNROLL: tl.constexpr,
    ACC: tl.constexpr,
    CLAMP: tl.constexpr,
    BIAS_PER_HEAD: tl.constexpr,
):
    """Gradients of SLOTS columns (or hub chunks): p and dS are recomputed from ``stats``."""
    pid = tl.program_id(0)
    unit = pid // blocks
    block = pid - unit * blocks
    batch = (unit // GROUPS).to(tl.int64)
    group = unit % GROUPS
    slot, col, start, length = task_slots(slots, num_slots, block, SLOTS)
    trip = trip_count(slots, num_slots, block, chunk_blocks, SLOTS)
    live = col >= 0
    heads = group * BLOCK_H + tl.arange(0, BLOCK_H)
    lanes_k = head_lanes(group, HEADS, DK, BLOCK_H, BLOCK_K)
    lanes_v = head_lanes(group, HEADS, DV, BLOCK_H, BLOCK_V)
    query += batch * num_rows * (HEADS * DK)
    grad_out += batch * num_rows * (HEADS * DV)
    stats += batch * num_rows * (2 * HEADS)
    node = batch * num_cols + col
    factor = real(scale, ACC)
    bound = real(clamp, ACC)
    k = gather(key, node, live, lanes_k, HEADS * DK, EXACT, BLOCK_K).to(ACC) * factor
    v = gather(value, node, live, lanes_v, HEADS * DV, EXACT, BLOCK_V).to(ACC)
    if edge_attr is not None:
        lanes_f = head_lanes(group, HEADS, DF, BLOCK_H, BLOCK_F)
        lanes_e = edge_lanes(DF, BLOCK_H, BLOCK_F)
        edge_query += batch * num_rows * (HEADS * DF)
        if grad_edge_out is not None:
            grad_edge_out += batch * num_rows * (HEADS * DF)
    if streams is not None:
        words = dropout_words(streams, batch, heads, HEADS)
        kept = real(keep_scale, ACC)
    if grad_gated is not None:
        grad_gated += batch * num_edges * (HEADS * DK)
    acc_k = tl.zeros([SLOTS, BLOCK_H, BLOCK_K], ACC)
    acc_v = tl.zeros([SLOTS, BLOCK_H, BLOCK_V], ACC)
    i = trip * 0
    while i < trip:
        hops = ()
        queries = ()
        grads = ()
        extras = ()
        pulls = ()
        shifts = ()
        deltas = ()
        for u in tl.static_range(UNROLL):
            hops = hops + (edge_at(indices, edges, start, length, i + u),)
        for u in tl.static_range(UNROLL):
            on, row, edge = hops[u]
            queries = queries + (gather(query, row, on, lanes_k, HEADS * DK, EXACT, BLOCK_K),)
            if gate is not None:
                extras = extras + (gather(gate, edge, on, lanes_k, HEADS * DK, EXACT, BLOCK_K),)
            if grad_gated is not None:
                pull = gather(grad_gated, edge, on, lanes_k, HEADS * DK, EXACT, BLOCK_K)
                pulls = pulls + (pull,)
            if edge_attr is not None:
                extras = extras + (gather(edge_attr, edge, on, lanes_e, DF, EXACT, BLOCK_F),)
            shifts = shifts + (load_heads(stats, row * 2, on, heads, HEADS, float("inf")),)
            deltas = deltas + (load_heads(stats, row * 2 + 1, on, heads, HEADS, 0.0),)
        for u in tl.static_range(UNROLL):
            on, row, edge = hops[u]
            grads = grads + (gather(grad_out, row, on, lanes_v, HEADS * DV, EXACT, BLOCK_V),)
        logits = ()
        gains = ()
        # All dot products first: a compiler that delays loads must keep these in flight together.
        for u in tl.static_range(UNROLL):
            on, row, edge = hops[u]
            product = queries[u].to(ACC) * k
            if gate is not None:
                product *= extras[u].to(ACC)
            logit = tl.sum(product, 2)
            if edge_attr is not None:
                eq = gather(edge_query, row, on, lanes_f, HEADS * DF, EXACT, BLOCK_F).to(ACC)
                logit += tl.sum(eq * extras[u].to(ACC), 2)
            logits = logits + (logit,)
        for u in tl.static_range(UNROLL):
            on, row, edge = hops[u]
            gain = tl.sum(grads[u].to(ACC) * v, 2)
            if grad_edge_out is not None:
                geo = gather(grad_edge_out, row, on, lanes_f, HEADS * DF, EXACT, BLOCK_F)
                gain += tl.sum(geo.to(ACC) * extras[u].to(ACC), 2)
            gains = gains + (gain,)
        for u in tl.static_range(UNROLL):
            on, row, edge = hops[u]
            q = queries[u].to(ACC)
            if gate is not None:
                q *= extras[u].to(ACC)
            raw = logits[u]
            logit = raw
            gain = gains[u]
            if CLAMP:
                logit = clip(logit, bound)
            if bias is not None:
                logit += edge_bias(bias, edge, on, heads, HEADS, BIAS_PER_HEAD)
            # Where the slot is exhausted the stored shift reads +inf, so p is 0.
            p = tl.exp2(logit * LOG2E - shifts[u])
            weight = p
            if streams is not None:
                keep = keeps(edge, words, threshold)
                gain = tl.where(keep, gain * kept, 0.0)
                weight = tl.where(keep, p * kept, 0.0)
            acc_v += weight[:, :, None] * grads[u].to(ACC)
            slope = p * (gain - deltas[u])
            if CLAMP:
                slope = tl.where((raw > bound) | (raw < -bound), 0.0, slope)
            pull = slope[:, :, None]
            if grad_gated is not None:
                pull += pulls[u].to(ACC)
            acc_k += pull * q
        i += UNROLL
    acc_k *= factor
    if block < chunk_blocks:
        part = batch * chunk_blocks * SLOTS + slot
        scatter(part_key, part, live, lanes_k, acc_k, HEADS * DK, EXACT)
        scatter(part_value, part, live, lanes_v, acc_v, HEADS * DV, EXACT)
    else:
        scatter(grad_key, node, live, lanes_k, acc_k, HEADS * DK, EXACT)
        scatter(grad_value, node, live, lanes_v, acc_v, HEADS * DV, EXACT)
