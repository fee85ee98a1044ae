"""Forward kernel: online softmax over the edges of a few rows at once, or their logits alone."""

import triton
import triton.language as tl

from graphattn.kernels.gpu.blocks import (
    LN2,
    LOG2E,
    all_lanes,
    dots,
    dropout_words,
    edge_biases,
    gather,
    gather_all,
    keeps,
    logit_of,
    next_edges,
    real,
    repeat,
    scatter,
    share,
    store_heads,
    task_slots,
    trip_count,
    with_gate,
)


@triton.jit
def store_rows(
    out,
    lse,
    edge_out,
    node,
    on,
    heads,
    lanes_v,
    lanes_f,
    tile,
    log_total,
    edge_tile,
    HEADS: tl.constexpr,
    DV: tl.constexpr,
    DF: tl.constexpr,
    EXACT: tl.constexpr,
):
    """Store output, LSE and edge output of one node per slot (a row, or a partial result)."""
    scatter(out, node, on, lanes_v, tile, HEADS * DV, EXACT)
    store_heads(lse, node, on, heads, log_total, HEADS)
    if edge_out is not None:
        scatter(edge_out, node, on, lanes_f, edge_tile, HEADS * DF, EXACT)


@triton.jit(do_not_specialize=["num_slots", "num_rows", "num_cols", "num_edges", "num_types",
                               "blocks", "chunk_blocks", "threshold"])  # fmt: skip
def attention_rows(
    query,
    key,
    value,
    bias,
    bias_index,
    gate,
    edge_attr,
    edge_query,
    mask,
    streams,
    out,
    lse,
    edge_out,
    gated,
    scores,
    part_out,
    part_lse,
    part_edge,
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
    """Attention of SLOTS rows (or hub chunks) for one batch entry and one group of heads.

    Without a value the logits are stored, edge by edge, and there is nothing to merge.
    """
    batch, group, block = share(tl.program_id(0), 0, blocks, GROUPS)
    slot, row, start, length = task_slots(slots, num_slots, block, SLOTS)
    trip = trip_count(slots, num_slots, block, chunk_blocks, SLOTS)
    live = row >= 0
    heads, lanes_k, lanes_v, lanes_f, lanes_e = all_lanes(
        group, HEADS, DK, DV, DF, BLOCK_H, BLOCK_K, BLOCK_V, BLOCK_F
    )
    key += batch * num_cols * (HEADS * DK)
    node = batch * num_rows + row
    q = gather(query, node, live, lanes_k, HEADS * DK, EXACT, BLOCK_K).to(ACC) * real(scale, ACC)
    bound = real(clamp, ACC)
    words = dropout_words(streams, batch, heads, HEADS)
    features = ()
    if edge_attr is not None:
        eq = gather(edge_query, node, live, lanes_f, HEADS * DF, EXACT, BLOCK_F).to(ACC)
        features = repeat(eq, UNROLL)
    if mask is not None:
        mask += batch * num_edges * ((HEADS + 31) // 32)
    if gated is not None:
        gated += batch * num_edges * (HEADS * DK)
    edge_acc = 0.0
    if value is None:
        scores += batch * num_edges * HEADS
    else:
        value += batch * num_cols * (HEADS * DV)
        top = tl.full([SLOTS, BLOCK_H], float("-inf"), ACC)
        total = tl.zeros([SLOTS, BLOCK_H], ACC)
        acc = tl.zeros([SLOTS, BLOCK_H, BLOCK_V], ACC)
        if edge_attr is not None:
            edge_acc = tl.zeros([SLOTS, BLOCK_H, BLOCK_F], ACC)
    i = trip * 0
    while i < trip:
        # All loads of UNROLL edges are issued before the first of them is used.
        hops = next_edges(indices, edges, bias_index, mask, start, length, i, group, heads,
                          gated is not None, HEADS, BLOCK_H, UNROLL)  # fmt: skip
        keys = gather_all(key, hops, 1, lanes_k, HEADS * DK, EXACT, BLOCK_K, UNROLL)
        gates = gather_all(gate, hops, 2, lanes_k, HEADS * DK, EXACT, BLOCK_K, UNROLL)
        attrs = gather_all(edge_attr, hops, 2, lanes_e, DF, EXACT, BLOCK_F, UNROLL)
        biases = edge_biases(bias, bias_index, num_types, hops, heads, HEADS, BIAS_PER_HEAD, UNROLL)
        values = gather_all(value, hops, 1, lanes_v, HEADS * DV, EXACT, BLOCK_V, UNROLL)
        raws = dots(q, keys, gates, features, attrs, ACC, UNROLL)
        logits = ()
        for u in tl.static_range(UNROLL):
            on, col, edge, kind, read, alive = hops[u]
            if gated is not None:
                product = q * with_gate(keys, gates, u, ACC)
                scatter(gated, edge, on, lanes_k, product, HEADS * DK, EXACT)
            logit = logit_of(raws[u], biases, u, bound, CLAMP)
            logit = tl.where(alive, logit, float("-inf"))
            if value is None:
                store_heads(scores, edge, on, heads, logit, HEADS)
            logits = logits + (logit,)
        if value is not None:
            highest = top
            for u in tl.static_range(UNROLL):
                highest = tl.maximum(highest, logits[u])
            shift = tl.where(highest == float("-inf"), 0.0, highest) * LOG2E
            rescale = tl.exp2(top * LOG2E - shift)
            top = highest
            total *= rescale
            acc *= rescale[:, :, None]
            if edge_attr is not None:
                edge_acc *= rescale[:, :, None]
            for u in tl.static_range(UNROLL):
                p = tl.exp2(logits[u] * LOG2E - shift)
                total += p
                if streams is not None:
                    p = tl.where(keeps(hops[u][2], words, threshold), p, 0.0)
                acc += p[:, :, None] * values[u].to(ACC)
                if edge_attr is not None:
                    edge_acc += p[:, :, None] * attrs[u].to(ACC)
        i += UNROLL
    if value is not None:
        empty = total == 0.0
        divisor = tl.where(empty, 1.0, total)
        log_total = tl.where(empty, float("-inf"), top + tl.log2(divisor) * LN2)
        share_of_one = real(keep_scale, ACC) / divisor
        acc *= share_of_one[:, :, None]
        if edge_attr is not None:
            edge_acc *= share_of_one[:, :, None]
        if block < chunk_blocks:
            part = batch * chunk_blocks * SLOTS + slot
            store_rows(part_out, part_lse, part_edge, part, live, heads, lanes_v, lanes_f,
                       acc, log_total, edge_acc, HEADS, DV, DF, EXACT)  # fmt: skip
        else:
            store_rows(out, lse, edge_out, node, live, heads, lanes_v, lanes_f,
                       acc, log_total, edge_acc, HEADS, DV, DF, EXACT)  # fmt: skip
