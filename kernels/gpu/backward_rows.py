"""Row pass of the backward: gradients of the query side and of every edge tensor."""

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
    scatter_edges,
    store_heads,
    task_slots,
    trip_count,
)


@triton.jit(do_not_specialize=["num_slots", "num_rows", "num_cols", "num_edges", "blocks",
                               "chunk_blocks", "threshold", "first_unit"])  # fmt: skip
def backward_rows(
    grad_out,
    grad_lse,
    grad_edge_out,
    grad_gated,
    query,
    key,
    value,
    out,
    lse,
    edge_out,
    bias,
    gate,
    edge_attr,
    edge_query,
    streams,
    grad_query,
    grad_edge_query,
    part_query,
    part_edge_query,
    stats,
    grad_bias,
    grad_gate,
    grad_edge_attr,
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
    first_unit: tl.int32,
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
    ADD: tl.constexpr,
):
    """Gradients of SLOTS rows (or hub chunks), and (LSE * log2 e, Delta) for the column pass.

    dS = p * (<grad_out, v> + <grad_edge_out, edge_attr> - Delta), Delta from the saved output.
    With ADD the gradients of edge tensors are added to what earlier launches left.
    """
    pid = tl.program_id(0)
    unit = pid // blocks
    block = pid - unit * blocks
    unit += first_unit
    batch = (unit // GROUPS).to(tl.int64)
    group = unit % GROUPS
    slot, row, start, length = task_slots(slots, num_slots, block, SLOTS)
    trip = trip_count(slots, num_slots, block, chunk_blocks, SLOTS)
    live = row >= 0
    heads = group * BLOCK_H + tl.arange(0, BLOCK_H)
    lanes_k = head_lanes(group, HEADS, DK, BLOCK_H, BLOCK_K)
    lanes_v = head_lanes(group, HEADS, DV, BLOCK_H, BLOCK_V)
    key += batch * num_cols * (HEADS * DK)
    value += batch * num_cols * (HEADS * DV)
    node = batch * num_rows + row
    factor = real(scale, ACC)
    bound = real(clamp, ACC)
    q = gather(query, node, live, lanes_k, HEADS * DK, EXACT, BLOCK_K).to(ACC) * factor
    go = gather(grad_out, node, live, lanes_v, HEADS * DV, EXACT, BLOCK_V).to(ACC)
    delta = tl.sum(go * gather(out, node, live, lanes_v, HEADS * DV, EXACT, BLOCK_V).to(ACC), 2)
    log_total = load_heads(lse, node, live, heads, HEADS, float("-inf"))
    if edge_attr is not None:
        lanes_f = head_lanes(group, HEADS, DF, BLOCK_H, BLOCK_F)
        lanes_e = edge_lanes(DF, BLOCK_H, BLOCK_F)
        eq = gather(edge_query, node, live, lanes_f, HEADS * DF, EXACT, BLOCK_F).to(ACC)
        edge_acc = tl.zeros([SLOTS, BLOCK_H, BLOCK_F], ACC)
        if grad_edge_out is not None:
            geo = gather(grad_edge_out, node, live, lanes_f, HEADS * DF, EXACT, BLOCK_F).to(ACC)
            eo = gather(edge_out, node, live, lanes_f, HEADS * DF, EXACT, BLOCK_F).to(ACC)
            delta += tl.sum(geo * eo, 2)
    if grad_lse is not None:
        delta -= load_heads(grad_lse, node, live, heads, HEADS, 0.0)
    if streams is not None:
        words = dropout_words(streams, batch, heads, HEADS)
        kept = real(keep_scale, ACC)
    if grad_gated is not None:
        grad_gated += batch * num_edges * (HEADS * DK)
    # A row without a finite logit: p = exp2(-inf) = 0, and no gradient through its LSE.
    dead = log_total == float("-inf")
    shift = tl.where(dead, float("inf"), log_total * LOG2E)
    delta = tl.where(dead, 0.0, delta)
    store_heads(stats, node * 2, live, heads, shift, HEADS)
    store_heads(stats, node * 2 + 1, live, heads, delta, HEADS)
    acc = tl.zeros([SLOTS, BLOCK_H, BLOCK_K], ACC)
    i = trip * 0
    while i < trip:
        hops = ()
        keys = ()
        values = ()
        extras = ()
        pulls = ()
        for u in tl.static_range(UNROLL):
            hops = hops + (edge_at(indices, edges, start, length, i + u),)
        for u in tl.static_range(UNROLL):
            on, col, edge = hops[u]
            keys = keys + (gather(key, col, on, lanes_k, HEADS * DK, EXACT, BLOCK_K),)
            if gate is not None:
                extras = extras + (gather(gate, edge, on, lanes_k, HEADS * DK, EXACT, BLOCK_K),)
            if grad_gated is not None:
                pull = gather(grad_gated, edge, on, lanes_k, HEADS * DK, EXACT, BLOCK_K)
                pulls = pulls + (pull,)
            if edge_attr is not None:
                extras = extras + (gather(edge_attr, edge, on, lanes_e, DF, EXACT, BLOCK_F),)
        for u in tl.static_range(UNROLL):
            on, col, edge = hops[u]
            values = values + (gather(value, col, on, lanes_v, HEADS * DV, EXACT, BLOCK_V),)
        logits = ()
        gains = ()
        # All dot products first: a compiler that delays loads must keep these in flight together.
        for u in tl.static_range(UNROLL):
            product = q * keys[u].to(ACC)
            if gate is not None:
                product *= extras[u].to(ACC)
            logit = tl.sum(product, 2)
            if edge_attr is not None:
                logit += tl.sum(eq * extras[u].to(ACC), 2)
            logits = logits + (logit,)
        for u in tl.static_range(UNROLL):
            gain = tl.sum(go * values[u].to(ACC), 2)
            if grad_edge_out is not None:
                gain += tl.sum(geo * extras[u].to(ACC), 2)
            gains = gains + (gain,)
        for u in tl.static_range(UNROLL):
            on, col, edge = hops[u]
            k = keys[u].to(ACC)
            if gate is not None:
                k *= extras[u].to(ACC)
            raw = logits[u]
            logit = raw
            gain = gains[u]
            if CLAMP:
                logit = clip(logit, bound)
            if bias is not None:
                logit += edge_bias(bias, edge, on, heads, HEADS, BIAS_PER_HEAD)
            logit = tl.where(on[:, None], logit, float("-inf"))
            p = tl.exp2(logit * LOG2E - shift)
            weight = p
            if streams is not None:
                keep = keeps(edge, words, threshold)
                gain = tl.where(keep, gain * kept, 0.0)
                weight = tl.where(keep, p * kept, 0.0)
            slope = p * (gain - delta)
            if grad_bias is not None:
                if BIAS_PER_HEAD:
                    if ADD:
                        slope_sum = slope + load_heads(grad_bias, edge, on, heads, HEADS, 0.0)
                        store_heads(grad_bias, edge, on, heads, slope_sum, HEADS)
                    else:
                        store_heads(grad_bias, edge, on, heads, slope, HEADS)
                else:
                    slope_sum = tl.sum(slope, 1)
                    if ADD:
                        slope_sum += tl.load(grad_bias + edge, mask=on, other=0.0)
                    tl.store(grad_bias + edge, slope_sum, mask=on)
            if CLAMP:
                slope = tl.where((raw > bound) | (raw < -bound), 0.0, slope)
            pull = slope[:, :, None]
            if grad_gated is not None:
                pull += pulls[u].to(ACC)
            acc += pull * k
            if grad_gate is not None:
                change = pull * q * keys[u].to(ACC)
                scatter_edges(grad_gate, edge, on, lanes_k, change, HEADS * DK, EXACT, ADD)
            if edge_attr is not None:
                edge_acc += slope[:, :, None] * extras[u].to(ACC)
            if grad_edge_attr is not None:
                grad_attr = slope[:, :, None] * eq
                if grad_edge_out is not None:
                    grad_attr += weight[:, :, None] * geo
                shared = tl.reshape(tl.sum(grad_attr, 1), [SLOTS, 1, BLOCK_F])
                lanes = edge_lanes(DF, 1, BLOCK_F)
                scatter_edges(grad_edge_attr, edge, on, lanes, shared, DF, EXACT, ADD)
        i += UNROLL
    acc *= factor
    if block < chunk_blocks:
        part = batch * chunk_blocks * SLOTS + slot
        scatter(part_query, part, live, lanes_k, acc, HEADS * DK, EXACT)
        if part_edge_query is not None:
            scatter(part_edge_query, part, live, lanes_f, edge_acc, HEADS * DF, EXACT)
    else:
        scatter(grad_query, node, live, lanes_k, acc, HEADS * DK, EXACT)
        if grad_edge_query is not None:
            scatter(grad_edge_query, node, live, lanes_f, edge_acc, HEADS * DF, EXACT)
