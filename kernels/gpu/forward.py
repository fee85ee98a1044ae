"""Forward kernel: online softmax over the edges of a few rows at once."""

import triton
import triton.language as tl

from graphattn.kernels.gpu.blocks import (
    LN2,
    LOG2E,
    clip,
    dropout_words,
    edge_at,
    edge_bias,
    edge_lanes,
    gather,
    head_lanes,
    keeps,
    real,
    scatter,
    store_heads,
    task_slots,
    trip_count,
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


@triton.jit(do_not_specialize=["num_slots", "num_rows", "num_cols", "num_edges", "blocks",
                               "chunk_blocks", "threshold"])  # fmt: skip
def attention_rows(
    query,
    key,
    value,
    bias,
    gate,
    edge_attr,
    edge_query,
    streams,
    out,
    lse,
    edge_out,
    gated,
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
    """Attention of SLOTS rows (or hub chunks) for one batch entry and one group of heads."""
    pid = tl.program_id(0)
    unit = pid // blocks
    block = pid - unit * blocks
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
    q = gather(query, node, live, lanes_k, HEADS * DK, EXACT, BLOCK_K).to(ACC) * real(scale, ACC)
    bound = real(clamp, ACC)
    lanes_f = lanes_v
    lanes_e = lanes_v
    edge_acc = 0.0
    if edge_attr is not None:
        lanes_f = head_lanes(group, HEADS, DF, BLOCK_H, BLOCK_F)
        lanes_e = edge_lanes(DF, BLOCK_H, BLOCK_F)
        eq = gather(edge_query, node, live, lanes_f, HEADS * DF, EXACT, BLOCK_F).to(ACC)
        edge_acc = tl.zeros([SLOTS, BLOCK_H, BLOCK_F], ACC)
    if streams is not None:
        words = dropout_words(streams, batch, heads, HEADS)
    if gated is not None:
        gated += batch * num_edges * (HEADS * DK)
    top = tl.full([SLOTS, BLOCK_H], float("-inf"), ACC)
    total = tl.zeros([SLOTS, BLOCK_H], ACC)
    acc = tl.zeros([SLOTS, BLOCK_H, BLOCK_V], ACC)
    i = trip * 0
    while i < trip:
        # All loads of UNROLL edges are issued before the first of them is used.
        hops = ()
        keys = ()
        values = ()
        extras = ()
        for u in tl.static_range(UNROLL):
            hops = hops + (edge_at(indices, edges, start, length, i + u),)
        for u in tl.static_range(UNROLL):
            on, col, edge = hops[u]
            keys = keys + (gather(key, col, on, lanes_k, HEADS * DK, EXACT, BLOCK_K),)
            if gate is not None:
                extras = extras + (gather(gate, edge, on, lanes_k, HEADS * DK, EXACT, BLOCK_K),)
            if edge_attr is not None:
                extras = extras + (gather(edge_attr, edge, on, lanes_e, DF, EXACT, BLOCK_F),)
        for u in tl.static_range(UNROLL):
            on, col, edge = hops[u]
            values = values + (gather(value, col, on, lanes_v, HEADS * DV, EXACT, BLOCK_V),)
        logits = ()
        highest = top
        for u in tl.static_range(UNROLL):
            on, col, edge = hops[u]
            product = q * keys[u].to(ACC)
            if gate is not None:
                product *= extras[u].to(ACC)
            if gated is not None:
                scatter(gated, edge, on, lanes_k, product, HEADS * DK, EXACT)
            logit = tl.sum(product, 2)
            if edge_attr is not None:
                logit += tl.sum(eq * extras[u].to(ACC), 2)
            if CLAMP:
                logit = clip(logit, bound)
            if bias is not None:
                logit += edge_bias(bias, edge, on, heads, HEADS, BIAS_PER_HEAD)
            logit = tl.where(on[:, None], logit, float("-inf"))
            highest = tl.maximum(highest, logit)
            logits = logits + (logit,)
        shift = tl.where(highest == float("-inf"), 0.0, highest) * LOG2E
        rescale = tl.exp2(top * LOG2E - shift)
        top = highest
        total *= rescale
        acc *= rescale[:, :, None]
        if edge_attr is not None:
            edge_acc *= rescale[:, :, None]
        for u in tl.static_range(UNROLL):
            on, col, edge = hops[u]
            p = tl.exp2(logits[u] * LOG2E - shift)
            total += p
            if streams is not None:
                p = tl.where(keeps(edge, words, threshold), p, 0.0)
            acc += p[:, :, None] * values[u].to(ACC)
            if edge_attr is not None:
                edge_acc += p[:, :, None] * extras[u].to(ACC)
        i += UNROLL
    empty = total == 0.0
    divisor = tl.where(empty, 1.0, total)
    log_total = tl.where(empty, float("-inf"), top + tl.log2(divisor) * LN2)
    share = real(keep_scale, ACC) / divisor
    acc *= share[:, :, None]
    if edge_attr is not None:
        edge_acc *= share[:, :, None]
    if block < chunk_blocks:
        part = batch * chunk_blocks * SLOTS + slot
        store_rows(part_out, part_lse, part_edge, part, live, heads, lanes_v, lanes_f,
                   acc, log_total, edge_acc, HEADS, DV, DF, EXACT)  # fmt: skip
    else:
        store_rows(out, lse, edge_out, node, live, heads, lanes_v, lanes_f,
                   acc, log_total, edge_acc, HEADS, DV, DF, EXACT)  # fmt: skip
