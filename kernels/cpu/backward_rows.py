"""Backward kernel over rows: grad_query and the gradients of edge tensors.

With p the softmax weight, w = p * keep / (1 - p_drop), t = <grad_out, v> + <grad_edge_out,
edge_attr> and delta = <grad_out, out> + <grad_edge_out, edge_out> - grad_lse, the logit's gradient
is dS = w * t - p * delta. This pass also writes (lse in the unit of the logits, delta) per row
and head, which the pass over columns gathers; neither needs atomics.
"""

import math

from graphattn.kernels.cpu.bend import add_scored, save_scored
from graphattn.kernels.cpu.block import (
    Block,
    finish,
    in_log_2,
    node_table,
    row_edges,
    row_of,
    score,
    score_features,
    stage,
    stage_kept,
    stage_slots,
    stage_streams,
    stage_words,
    unit_of_logits,
)
from graphattn.kernels.cpu.compile import Kernel
from graphattn.kernels.cpu.dots import dots_row, head_values
from graphattn.kernels.cpu.edges import (
    products_of,
    score_keys,
    stage_bias,
    stage_features,
    stage_per_edge,
)
from graphattn.kernels.cpu.gradients import (
    add_gated_gradient,
    save_bias_gradient,
    save_feature_gradient,
    save_gate_gradient,
)
from graphattn.kernels.cpu.handed import hand_over
from graphattn.kernels.cpu.memory import as_wide, keep, row_scale, row_zero, scratch
from graphattn.kernels.cpu.sources import ahead_of
from graphattn.kernels.cpu.sums import weighted_sum, weighted_sum_shared
from graphattn.kernels.cpu.vector import exp2, load, replace, store, store_heads, within


def _backward_rows(
    shape, size, first, last, source, owners, edges, query, key, value, out, lse,
    grad_out, grad_lse, grad_scores, grad_query, stats, scale, att, clamp, bias, bias_index,
    gate, grad_gated, edge_attr, edge_query, edge_out, grad_edge_out, mask, threshold, factor,
    streams, grad_gate, grad_edge_attr, grad_edge_query, handed, grad_summed,
):  # fmt: skip
    """Rows ``first`` to ``last``; without a value, the logit's gradient is ``grad_scores``.

    ``grad_summed``: gradient of the bias or of ``att``, a copy of its own for each piece of rows
    where many edges add to one number.
    """
    columns, ids = scratch(shape.slot_bytes), scratch(shape.slot_bytes)
    bits = scratch(shape.slot_bytes)
    slots, words = scratch(shape.slot_bytes), scratch(shape.slot_bytes)
    scores, pulls = scratch(shape.score_bytes), scratch(shape.score_bytes)
    slopes, biases = scratch(shape.score_bytes), scratch(shape.score_bytes)
    stream_one, stream_two = scratch(128), scratch(128)
    total, feature_total = scratch(shape.keys.wide.bytes), scratch(shape.features.bytes)
    staged, spare = scratch(shape.keys.wide.block_bytes), scratch(shape.keys.wide.spare_bytes)
    scaled, feature_spare = scratch(shape.keys.wide.bytes), scratch(shape.shared.bytes)
    bent = scratch(shape.keys.wide.block_bytes)
    widened, widened_pull = scratch(shape.keys.wide.bytes), scratch(shape.values.wide.bytes)
    staged_features = scratch(shape.shared.block_bytes)
    ahead = ahead_of(source)
    stage_slots(shape, slots)
    for part in range(size.batch * size.groups):
        b, group = part // size.groups, part % size.groups
        keys = node_table(shape.keys, size, b, group, key, columns)
        if value is not None:
            values = node_table(shape.values, size, b, group, value, columns)
        pulled = None
        if grad_gated is not None:
            pulled = products_of(shape, size, b, grad_gated)
        if threshold is not None:
            stage_streams(shape, size, b, group, streams, stream_one, stream_two)
        for i in range(first, last):
            row = row_of(owners, i)
            at = (b * size.rows + row) * size.groups + group
            to = (b * size.outputs + i) * size.groups + group
            own = as_wide(shape.keys, query + at * shape.keys.bytes, widened)
            pull_at = at * shape.values.bytes
            feature_at, head_at = at * shape.features.bytes, at * shape.head_bytes
            begin, end = row_edges(size, source, i)
            if value is not None:
                pull = as_wide(shape.values, grad_out + pull_at, widened_pull)
                delta = dots_row(shape.values, pull, out + pull_at)
                if grad_edge_out is not None:
                    pull_features = grad_edge_out + feature_at
                    delta = delta + dots_row(shape.features, pull_features, edge_out + feature_at)
                if grad_lse is not None:
                    delta = delta - head_values(shape, grad_lse + head_at)
                # A row without weight has lse -inf; +inf makes its recomputed weights 0, not NaN.
                level = head_values(shape, lse + head_at) * (1.0 / unit_of_logits(bias))
                level = replace(level, -math.inf, math.inf)
                if owners is None:
                    store_heads(shape, stats + 2 * head_at, level)
                    store_heads(shape, stats + 2 * head_at + shape.head_bytes, delta)
            row_zero(shape.keys.wide, total)
            if grad_gate is not None:
                row_scale(shape.keys.wide, scaled, own, scale)
            if edge_attr is not None:
                row_zero(shape.features, feature_total)
            for start in range(begin, end, shape.block):
                block = Block(min(shape.block, end - start), start, columns, ids)
                if mask is None:
                    stage(shape, block, source, edges, row)
                else:
                    block = stage_kept(
                        shape, size, block, source, edges, row, mask, bits, b, group,
                        grad_gated is not None,
                    )  # fmt: skip
                near = score_keys(
                    shape.keys, size, block, scores, own, keys, ahead, scale, att, edges, gate,
                    group, spare, slots, staged, bent,
                )  # fmt: skip
                if grad_scores is not None:
                    stage_per_edge(shape, size, block, b, group, grad_scores, pulls)
                if value is not None:
                    score(shape.values, block, pulls, pull, values, ahead, None)
                if edge_attr is not None:
                    features = stage_features(
                        shape.shared, size, block, edges, edge_attr, slots, staged_features
                    )
                    score_features(shape, block, scores, edge_query + feature_at, features)
                    if grad_edge_out is not None:
                        score_features(shape, block, pulls, grad_edge_out + feature_at, features)
                if bias is not None:
                    stage_bias(shape, size, block, bias, bias_index, group, biases)
                if threshold is not None:
                    stage_words(block, words)
                for p in range(0, block.count, shape.tree):
                    place = p * shape.head_bytes
                    raw, slope = load(shape, scores + place), load(shape, pulls + place)
                    if value is not None:
                        logits = finish(shape, raw, clamp, bias, biases, p, mask, bits)
                        chance = exp2(in_log_2(logits - level, bias))
                        weight = chance
                        if threshold is not None:
                            weight = chance * keep(
                                shape, words + 8 * p, stream_one, stream_two, threshold, factor
                            )
                        slope = weight * slope - chance * delta
                        if handed is not None:
                            store(pulls + place, weight)
                    if grad_summed is not None:
                        store(slopes + place, slope)
                    if clamp is not None:
                        slope = within(raw, clamp, slope)
                    store(scores + place, slope)
                if handed is not None:
                    hand_over(shape, size, block, b, group, pulls, scores, handed)
                add_scored(shape.keys, total, scores, near, block.count, att, bent)
                if grad_gated is not None:
                    add_gated_gradient(shape.keys, size, block, near, pulled, group, spare, total)
                if grad_edge_query is not None:
                    weighted_sum_shared(
                        shape.features, feature_total, scores, features, block.count
                    )
                if grad_summed is not None:
                    if att is not None:
                        target = grad_summed + group * shape.keys.wide.bytes
                        weighted_sum(shape.keys.wide, target, scores, near, block.count)
                    if bias is not None:
                        again = b > 0 or (group > 0 and size.bias_head == 0) or size.table != 0
                        save_bias_gradient(
                            shape, size, block, group, again, slopes, bias_index, grad_summed
                        )
                if grad_gate is not None:
                    save_gate_gradient(
                        shape.keys, size, block, keys, scaled, scores, pulled, group, b > 0,
                        spare, grad_gate,
                    )  # fmt: skip
                if grad_edge_attr is not None:
                    save_feature_gradient(
                        shape, size, block, scores, pulls, edge_query + feature_at,
                        None if grad_edge_out is None else grad_edge_out + feature_at,
                        part > 0, feature_spare, grad_edge_attr,
                    )  # fmt: skip
            target = grad_query + to * shape.keys.wide.bytes
            save_scored(shape.keys, target, total, scale, att, group)
            if grad_edge_query is not None:
                target = grad_edge_query + to * shape.features.bytes
                row_scale(shape.features, target, feature_total, 1.0)


backward_rows = Kernel(_backward_rows)
