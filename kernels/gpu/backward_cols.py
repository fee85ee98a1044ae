"""Column pass of the backward: gradients of keys and values, over the transposed graph."""

import triton
import triton.language as tl

from graphattn.kernels.gpu.blocks import (
    all_lanes,
    deliver,
    dots,
    dropout_words,
    edge_biases,
    gather,
    gather_all,
    load_all,
    logit_of,
    logit_slope,
    next_edges,
    real,
    share,
    task_slots,
    trip_count,
    weigh,
    with_gate,
)


@triton.jit(do_not_specialize=["num_slots", "num_rows", "num_cols", "num_edges", "num_types",
                               "blocks", "chunk_blocks", "threshold"])  # fmt: skip
def backward_cols(
    grad_out,
    grad_edge_out,
    grad_gated,
    grad_scores,
    query,
    key,
    value,
    stats,
    bias,
    bias_index,
    gate,
    edge_attr,
    edge_query,
    mask,
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
    num_types: tl.int64,
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
    """Gradients of SLOTS columns (or hub chunks).

    p and dS are recomputed from ``stats``; without a value dS is ``grad_scores``.
    """
    batch, group, block = share(tl.program_id(0), 0, blocks, GROUPS)
    slot, col, start, length = task_slots(slots, num_slots, block, SLOTS)
    trip = trip_count(slots, num_slots, block, chunk_blocks, SLOTS)
    live = col >= 0
    heads, lanes_k, lanes_v, lanes_f, lanes_e = all_lanes(
        group, HEADS, DK, DV, DF, BLOCK_H, BLOCK_K, BLOCK_V, BLOCK_F
    )
    node = batch * num_cols + col
    bound = real(clamp, ACC)
    factor = real(scale, ACC)
    kept = real(keep_scale, ACC)
    words = dropout_words(streams, batch, heads, HEADS)
    k = gather(key, node, live, lanes_k, HEADS * DK, EXACT, BLOCK_K).to(ACC) * factor
    query += batch * num_rows * (HEADS * DK)
    if grad_gated is not None:
        grad_gated += batch * num_edges * (HEADS * DK)
    if mask is not None:
        mask += batch * num_edges * ((HEADS + 31) // 32)
    if edge_attr is not None:
        edge_query += batch * num_rows * (HEADS * DF)
        if grad_edge_out is not None:
            grad_edge_out += batch * num_rows * (HEADS * DF)
    if value is None:
        grad_scores += batch * num_edges * HEADS
    else:
        grad_out += batch * num_rows * (HEADS * DV)
        stats += batch * num_rows * (2 * HEADS)
        v = gather(value, node, live, lanes_v, HEADS * DV, EXACT, BLOCK_V).to(ACC)
        acc_v = tl.zeros([SLOTS, BLOCK_H, BLOCK_V], ACC)
    acc_k = tl.zeros([SLOTS, BLOCK_H, BLOCK_K], ACC)
    i = trip * 0
    while i < trip:
        hops = next_edges(indices, edges, bias_index, mask, start, length, i, group, heads,
                          grad_gated is not None, HEADS, BLOCK_H, UNROLL)  # fmt: skip
        queries = gather_all(query, hops, 1, lanes_k, HEADS * DK, EXACT, BLOCK_K, UNROLL)
        gates = gather_all(gate, hops, 2, lanes_k, HEADS * DK, EXACT, BLOCK_K, UNROLL)
        pulls = gather_all(grad_gated, hops, 2, lanes_k, HEADS * DK, EXACT, BLOCK_K, UNROLL)
        attrs = gather_all(edge_attr, hops, 2, lanes_e, DF, EXACT, BLOCK_F, UNROLL)
        biases = edge_biases(bias, bias_index, num_types, hops, heads, HEADS, BIAS_PER_HEAD, UNROLL)
        if value is None:
            slopes = load_all(grad_scores, hops, heads, 2, 1, 0, HEADS, 0.0, UNROLL)
        else:
            # Where nothing is read the shift is +inf, so p is 0.
            shifts = load_all(stats, hops, heads, 1, 2, 0, HEADS, float("inf"), UNROLL)
            deltas = load_all(stats, hops, heads, 1, 2, 1, HEADS, 0.0, UNROLL)
        grads = gather_all(grad_out, hops, 1, lanes_v, HEADS * DV, EXACT, BLOCK_V, UNROLL)
        features = ()
        if edge_attr is not None:
            features = gather_all(edge_query, hops, 1, lanes_f, HEADS * DF, EXACT, BLOCK_F, UNROLL)
        edge_pulls = gather_all(grad_edge_out, hops, 1, lanes_f, HEADS * DF, EXACT, BLOCK_F, UNROLL)
        # All dot products first: a compiler that delays loads must keep these in flight together.
        raws = dots(k, queries, gates, features, attrs, ACC, UNROLL)
        if value is not None:
            gains = dots(v, grads, (), edge_pulls, attrs, ACC, UNROLL)
        for u in tl.static_range(UNROLL):
            on, row, edge, kind, read, alive = hops[u]
            if value is None:
                slope = slopes[u]
            else:
                logit = logit_of(raws[u], biases, u, bound, CLAMP)
                if mask is not None:
                    logit = tl.where(alive, logit, float("-inf"))
                weight, slope = weigh(
                    logit, shifts[u], gains[u], deltas[u], edge, words, threshold, kept
                )
                acc_v += weight[:, :, None] * grads[u].to(ACC)
            if mask is not None:
                slope = tl.where(alive, slope, 0.0)
            slope = logit_slope(slope, raws[u], bound, CLAMP)
            pull = slope[:, :, None]
            if grad_gated is not None:
                pull += pulls[u].to(ACC)
            acc_k += pull * with_gate(queries, gates, u, ACC)
        i += UNROLL
    acc_k *= factor
    is_part = block < chunk_blocks
    part = batch * chunk_blocks * SLOTS
    deliver(grad_key, part_key, node, slot, part, is_part, live, lanes_k, acc_k,
            HEADS * DK, EXACT)  # fmt: skip
    if value is not None:
        deliver(grad_value, part_value, node, slot, part, is_part, live, lanes_v, acc_v,
                HEADS * DV, EXACT)  # fmt: skip
