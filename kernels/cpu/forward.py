"""Forward kernel: softmax attention of rows over their neighbours, one pass over the edges."""

import math

from numba.core import types

from graphattn.kernels.cpu.block import (
    Block,
    finish,
    in_log_2,
    limit,
    node_table,
    row_edges,
    row_of,
    score_features,
    stage,
    stage_kept,
    stage_slots,
    stage_streams,
    stage_words,
    unit_of_logits,
)
from graphattn.kernels.cpu.compile import Kernel, helper
from graphattn.kernels.cpu.edges import (
    edge_row,
    is_padded,
    products_of,
    save_edge_row,
    save_per_edge,
    score_keys,
    stage_bias,
    stage_features,
)
from graphattn.kernels.cpu.memory import (
    as_wide,
    keep,
    read,
    read_integer,
    row_multiply,
    row_scale,
    row_weigh,
    row_zero,
    scratch,
    write,
)
from graphattn.kernels.cpu.sources import ahead_of
from graphattn.kernels.cpu.sums import weighted_sum_ahead, weighted_sum_shared
from graphattn.kernels.cpu.vector import (
    exp2,
    fold_max,
    fold_sum,
    head_of_lanes,
    load,
    replace,
    splat,
    store,
)

LOWEST_SINGLE, LOWEST_DOUBLE = -3.4028234663852886e38, -1.7976931348623157e308


@helper(types.void)
def save_gated(row, size, block, table, own, scale, group, spare, gated):
    """Write scale * own * table row of each edge; ``spare`` is scratch for two rows."""
    scaled, copied = spare, spare + row.bytes
    row_scale(row, scaled, own, scale)
    for p in range(block.count):
        edge = read_integer(block.ids, p)
        target = edge_row(row, size.heads, size.key, gated, edge, group)
        if is_padded(row, size.heads, size.key):
            target = copied
        row_multiply(row, target, scaled, table.base + read_integer(table.index, p) * table.stride)
        save_edge_row(row, size.heads, size.key, gated, edge, group, copied)


@helper(types.void)
def save_lse(shape, top, unit, mass, spare, lse):
    """lse = top * unit + log mass, per head; ``spare``: two vectors."""
    store(spare, top)
    store(spare + 64, mass)
    for h in range(shape.heads):
        write(shape, lse, h, read(shape, spare, h) * unit + math.log(read(shape, spare + 64, h)))


def _forward(
    shape, size, first, last, source, owners, edges, query, key, value, out, lse,
    logits_out, scale, att, clamp, bias, bias_index, gate, gated, edge_attr, edge_query, edge_out,
    mask, threshold, factor, streams,
):  # fmt: skip
    """Rows ``first`` to ``last``: logits of a block, running max, weights, weighted sums."""
    columns, ids = scratch(shape.slot_bytes), scratch(shape.slot_bytes)
    bits = scratch(shape.slot_bytes)
    slots, words = scratch(shape.slot_bytes), scratch(shape.slot_bytes)
    scores, biases = scratch(shape.score_bytes), scratch(shape.score_bytes)
    per_head, stream_one, stream_two = scratch(128), scratch(128), scratch(128)
    total, feature_total = scratch(shape.values.wide.bytes), scratch(shape.features.bytes)
    staged, spare = scratch(shape.keys.wide.block_bytes), scratch(shape.keys.wide.spare_bytes)
    widened = scratch(shape.keys.wide.bytes)
    staged_features = scratch(shape.shared.block_bytes)
    ahead = ahead_of(source)
    lowest = LOWEST_DOUBLE if shape.itemsize == 8 else LOWEST_SINGLE
    stage_slots(shape, slots)
    for part in range(size.batch * size.groups):
        b, group = part // size.groups, part % size.groups
        keys = node_table(shape.keys, size, b, group, key, columns)
        if value is not None:
            values = node_table(shape.values, size, b, group, value, columns)
        if threshold is not None:
            stage_streams(shape, size, b, group, streams, stream_one, stream_two)
        for i in range(first, last):
            at = (b * size.outputs + i) * size.groups + group
            row = row_of(owners, i)
            own_at = (b * size.rows + row) * size.groups + group
            own = as_wide(shape.keys, query + own_at * shape.keys.bytes, widened)
            feature_at = at * shape.features.bytes
            begin, end = row_edges(size, source, i)
            top, mass = splat(shape, lowest), splat(shape, 0.0)
            row_zero(shape.values.wide, total)
            if edge_attr is not None:
                row_zero(shape.features, feature_total)
            for start in range(begin, end, shape.block):
                block = Block(min(shape.block, end - start), start, columns, ids)
                if mask is None:
                    stage(shape, block, source, edges, row)
                else:
                    block = stage_kept(
                        shape,
                        size,
                        block,
                        source,
                        edges,
                        row,
                        mask,
                        bits,
                        b,
                        group,
                        gated is not None,
                    )
                near = score_keys(
                    shape.keys, size, block, scores, own, keys, ahead, scale, att, edges, gate,
                    group, spare, slots, staged, None,
                )  # fmt: skip
                if gated is not None:
                    to = products_of(shape, size, b, gated)
                    save_gated(shape.keys, size, block, near, own, scale, group, spare, to)
                if edge_attr is not None:
                    features = stage_features(
                        shape.shared, size, block, edges, edge_attr, slots, staged_features
                    )
                    score_features(
                        shape, block, scores, edge_query + own_at * shape.features.bytes, features
                    )
                if bias is not None:
                    stage_bias(shape, size, block, bias, bias_index, group, biases)
                if logits_out is not None:
                    for p in range(0, block.count, shape.tree):
                        place = scores + p * shape.head_bytes
                        store(place, limit(shape, load(shape, place), clamp, bias, biases, p))
                    save_per_edge(shape, size, block, b, group, scores, logits_out)
                if value is not None:
                    before = top
                    for p in range(0, block.count, shape.tree):
                        place = scores + p * shape.head_bytes
                        logits = finish(
                            shape, load(shape, place), clamp, bias, biases, p, mask, bits
                        )
                        logits = head_of_lanes(logits, (block.count - p) * shape.heads, -math.inf)
                        store(place, logits)
                        top = max(top, logits)
                    top = fold_max(shape, top)
                    if start > begin:
                        shrink = exp2(in_log_2(before - top, bias))
                        mass = mass * shrink
                        store(per_head, shrink)
                        row_weigh(shape.values.wide, total, total, per_head)
                        if edge_attr is not None:
                            row_weigh(shape.features, feature_total, feature_total, per_head)
                    if threshold is not None:
                        stage_words(block, words)
                    for p in range(0, block.count, shape.tree):
                        place = scores + p * shape.head_bytes
                        weights = exp2(in_log_2(load(shape, place) - top, bias))
                        mass = mass + weights
                        if threshold is not None:
                            weights = weights * keep(
                                shape, words + 8 * p, stream_one, stream_two, threshold, factor
                            )
                        store(place, weights)
                    weighted_sum_ahead(
                        shape.values, total, scores, values, block.count, ahead, start
                    )
                    if edge_attr is not None:
                        weighted_sum_shared(
                            shape.features, feature_total, scores, features, block.count
                        )
            if value is not None:
                mass = fold_sum(shape, mass)
                unit = unit_of_logits(bias)
                save_lse(shape, top, unit, mass, per_head, lse + at * shape.head_bytes)
                store(per_head, replace(1.0 / mass, math.inf, 0.0))
                row_weigh(shape.values.wide, out + at * shape.values.wide.bytes, total, per_head)
                if edge_attr is not None:
                    row_weigh(shape.features, edge_out + feature_at, feature_total, per_head)


forward = Kernel(_forward)
