"""Row pass of the backward: gradients of the query side and of every edge tensor."""

import triton
import triton.language as tl

from graphattn.kernels.gpu.blocks import (
    LOG2E,
    all_lanes,
    deliver,
    dots,
    dropout_words,
    edge_biases,
    edge_lanes,
    gather,
    gather_all,
    load_all,
    load_heads,
    logit_of,
    logit_slope,
    next_edges,
    real,
    repeat,
    scatter_edges,
    share,
    store_heads,
    task_slots,
    trip_count,
    weigh,
    with_gate,
)


@triton.jit
def store_sums(table, first, hops, heads, sums, slopes, HEADS: tl.constexpr, UNROLL: tl.constexpr):
    """Add the slopes of all hops to ``sums``, what the table held for their types before.

    Hops of one slot may share a type: each carries what the earlier ones added, and is stored
    after them. The barrier lets every thread of the program see them at its next load.
    """
    for u in tl.static_range(UNROLL):
        total = sums[u] + slopes[u]
        for v in tl.static_range(u):
            same = hops[u][3] == hops[v][3]
            total += tl.where(same[:, None], slopes[v], 0.0)
        store_heads(table, first + hops[u][3], hops[u][4], heads, total, HEADS)
    tl.debug_barrier()


@triton.jit
def store_bias(
    grad_bias, slope, edge, on, heads,
    HEADS: tl.constexpr, PER_HEAD: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    """Gradient of a bias [E, HEADS] or, summed over the heads, [E]."""
    if PER_HEAD:
        if ADD:
            slope += load_heads(grad_bias, edge, on, heads, HEADS, 0.0)
        store_heads(grad_bias, edge, on, heads, slope, HEADS)
    else:
        total = tl.sum(slope, 1)
        if ADD:
            total += tl.load(grad_bias + edge, mask=on, other=0.0)
        tl.store(grad_bias + edge, total, mask=on)


@triton.jit(do_not_specialize=["num_slots", "num_rows", "num_cols", "num_edges", "num_types",
                               "blocks", "chunk_blocks", "threshold", "first_unit",
                               "items"])  # fmt: skip
def backward_rows(
    grad_out,
    grad_lse,
    grad_edge_out,
    grad_gated,
    grad_scores,
    query,
    key,
    value,
    out,
    lse,
    edge_out,
    bias,
    bias_index,
    gate,
    edge_attr,
    edge_query,
    mask,
    streams,
    grad_query,
    grad_edge_query,
    part_query,
    part_edge_query,
    stats,
    grad_bias,
    grad_table,
    grad_gate,
    grad_edge_attr,
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
    first_unit: tl.int32,
    items: tl.int32,
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

    dS = p * (<grad_out, v> + <grad_edge_out, edge_attr> - Delta), Delta from the saved output;
    without a value dS = grad_scores. With ADD the gradients of edge tensors are added to what
    earlier launches left. The gradient of a bias table is summed in ``grad_table`` [programs *
    SLOTS, types, HEADS], one copy per slot, by as many programs as there is room for: each then
    takes every n-th item, a block of slots for one batch entry and group of heads.
    """
    item = tl.program_id(0)
    table_row = (item.to(tl.int64) * SLOTS + tl.arange(0, SLOTS)) * num_types
    while item < items:  # once, except for a table
        batch, group, block = share(item, first_unit, blocks, GROUPS)
        slot, row, start, length = task_slots(slots, num_slots, block, SLOTS)
        trip = trip_count(slots, num_slots, block, chunk_blocks, SLOTS)
        live = row >= 0
        heads, lanes_k, lanes_v, lanes_f, lanes_e = all_lanes(
            group, HEADS, DK, DV, DF, BLOCK_H, BLOCK_K, BLOCK_V, BLOCK_F
        )
        node = batch * num_rows + row
        bound = real(clamp, ACC)
        factor = real(scale, ACC)
        kept = real(keep_scale, ACC)
        words = dropout_words(streams, batch, heads, HEADS)
        q = gather(query, node, live, lanes_k, HEADS * DK, EXACT, BLOCK_K).to(ACC) * factor
        keys_of = key + batch * num_cols * (HEADS * DK)
        values_of = value
        pulls_of = grad_gated
        mask_of = mask
        if grad_gated is not None:
            pulls_of = grad_gated + batch * num_edges * (HEADS * DK)
        if mask is not None:
            mask_of = mask + batch * num_edges * ((HEADS + 31) // 32)
        features = ()
        edge_pulls = ()
        if edge_attr is not None:
            eq = gather(edge_query, node, live, lanes_f, HEADS * DF, EXACT, BLOCK_F).to(ACC)
            features = repeat(eq, UNROLL)
            edge_acc = tl.zeros([SLOTS, BLOCK_H, BLOCK_F], ACC)
        if value is None:
            slopes_of = grad_scores + batch * num_edges * HEADS
        else:
            values_of = value + batch * num_cols * (HEADS * DV)
            go = gather(grad_out, node, live, lanes_v, HEADS * DV, EXACT, BLOCK_V).to(ACC)
            o = gather(out, node, live, lanes_v, HEADS * DV, EXACT, BLOCK_V).to(ACC)
            delta = tl.sum(go * o, 2)
            log_total = load_heads(lse, node, live, heads, HEADS, float("-inf"))
            if grad_edge_out is not None:
                geo = gather(grad_edge_out, node, live, lanes_f, HEADS * DF, EXACT, BLOCK_F)
                eo = gather(edge_out, node, live, lanes_f, HEADS * DF, EXACT, BLOCK_F).to(ACC)
                delta += tl.sum(geo.to(ACC) * eo, 2)
                edge_pulls = repeat(geo.to(ACC), UNROLL)
            if grad_lse is not None:
                delta -= load_heads(grad_lse, node, live, heads, HEADS, 0.0)
            # A row without a finite logit: p = exp2(-inf) = 0, and no gradient through its LSE.
            dead = log_total == float("-inf")
            shift = tl.where(dead, float("inf"), log_total * LOG2E)
            delta = tl.where(dead, 0.0, delta)
            store_heads(stats, node * 2, live, heads, shift, HEADS)
            store_heads(stats, node * 2 + 1, live, heads, delta, HEADS)
        acc = tl.zeros([SLOTS, BLOCK_H, BLOCK_K], ACC)
        i = trip * 0
        while i < trip:
            hops = next_edges(indices, edges, bias_index, mask_of, start, length, i, group, heads,
                              grad_gated is not None, HEADS, BLOCK_H, UNROLL)  # fmt: skip
            if grad_table is not None:
                sums = load_all(grad_table, hops, heads, 3, 1, table_row, HEADS, 0.0, UNROLL)
            if value is None:
                given = load_all(slopes_of, hops, heads, 2, 1, 0, HEADS, 0.0, UNROLL)
            keys = gather_all(keys_of, hops, 1, lanes_k, HEADS * DK, EXACT, BLOCK_K, UNROLL)
            gates = gather_all(gate, hops, 2, lanes_k, HEADS * DK, EXACT, BLOCK_K, UNROLL)
            pulls = gather_all(pulls_of, hops, 2, lanes_k, HEADS * DK, EXACT, BLOCK_K, UNROLL)
            attrs = gather_all(edge_attr, hops, 2, lanes_e, DF, EXACT, BLOCK_F, UNROLL)
            biases = edge_biases(bias, bias_index, num_types, hops, heads, HEADS, BIAS_PER_HEAD,
                                 UNROLL)  # fmt: skip
            values = gather_all(values_of, hops, 1, lanes_v, HEADS * DV, EXACT, BLOCK_V, UNROLL)
            # All dot products first: a compiler that delays loads must keep these in flight.
            raws = dots(q, keys, gates, features, attrs, ACC, UNROLL)
            if value is not None:
                gains = dots(go, values, (), edge_pulls, attrs, ACC, UNROLL)
            slopes = ()
            for u in tl.static_range(UNROLL):
                on, col, edge, kind, read, alive = hops[u]
                if value is None:
                    slope = given[u]
                else:
                    logit = logit_of(raws[u], biases, u, bound, CLAMP)
                    logit = tl.where(alive, logit, float("-inf"))
                    weight, slope = weigh(
                        logit, shift, gains[u], delta, edge, words, threshold, kept
                    )
                if mask is not None:
                    slope = tl.where(alive, slope, 0.0)
                slopes = slopes + (slope,)
                if grad_bias is not None:
                    store_bias(grad_bias, slope, edge, on, heads, HEADS, BIAS_PER_HEAD, ADD)
                slope = logit_slope(slope, raws[u], bound, CLAMP)
                pull = slope[:, :, None]
                if grad_gated is not None:
                    pull += pulls[u].to(ACC)
                acc += pull * with_gate(keys, gates, u, ACC)
                if grad_gate is not None:
                    change = pull * q * keys[u].to(ACC)
                    scatter_edges(grad_gate, edge, on, lanes_k, change, HEADS * DK, EXACT, ADD)
                if edge_attr is not None:
                    edge_acc += slope[:, :, None] * attrs[u].to(ACC)
                if grad_edge_attr is not None:
                    grad_attr = slope[:, :, None] * eq
                    if grad_edge_out is not None:
                        grad_attr += weight[:, :, None] * edge_pulls[u]
                    shared = tl.reshape(tl.sum(grad_attr, 1), [SLOTS, 1, BLOCK_F])
                    lanes = edge_lanes(DF, 1, BLOCK_F)
                    scatter_edges(grad_edge_attr, edge, on, lanes, shared, DF, EXACT, ADD)
            if grad_table is not None:
                store_sums(grad_table, table_row, hops, heads, sums, slopes, HEADS, UNROLL)
            i += UNROLL
        acc *= factor
        is_part = block < chunk_blocks
        part = batch * chunk_blocks * SLOTS
        deliver(grad_query, part_query, node, slot, part, is_part, live, lanes_k, acc,
                HEADS * DK, EXACT)  # fmt: skip
        if grad_edge_query is not None:
            deliver(grad_edge_query, part_edge_query, node, slot, part, is_part, live, lanes_f,
                    edge_acc, HEADS * DF, EXACT)  # fmt: skip
        if grad_table is None:
            item = items
        else:
            item += tl.num_programs(0)
