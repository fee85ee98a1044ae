"""Backward kernel over columns: grad_key and grad_value.

Here a key node owns its edges, and query rows, grad_out rows and (lse, delta) are gathered. The
formulas are those of backward_rows.py.
"""

from graphattn.kernels.cpu.bend import add_scored, save_scored
from graphattn.kernels.cpu.block import (
    Block,
    finish,
    in_log_2,
    node_table,
    row_edges,
    row_of,
    score,
    stage,
    stage_kept,
    stage_slots,
    stage_streams,
    stage_words,
)
from graphattn.kernels.cpu.compile import Kernel
from graphattn.kernels.cpu.dots import head_table
from graphattn.kernels.cpu.edges import products_of, score_keys, stage_bias, stage_per_edge
from graphattn.kernels.cpu.gradients import add_gated_gradient
from graphattn.kernels.cpu.memory import as_wide, keep, row_scale, row_zero, scratch
from graphattn.kernels.cpu.sources import ahead_of
from graphattn.kernels.cpu.sums import weighted_sum
from graphattn.kernels.cpu.tables import Table, prefetch
from graphattn.kernels.cpu.vector import exp2, load, store, within


def _backward_columns(
    shape, size, first, last, source, owners, edges, query, key, value, grad_out,
    grad_scores, stats, grad_key, grad_value, scale, att, clamp, bias, bias_index, gate,
    grad_gated, mask, threshold, factor, streams,
):  # fmt: skip
    """Columns ``first`` to ``last``; without a value, the logit's gradient is ``grad_scores``."""
    rows, ids = scratch(shape.slot_bytes), scratch(shape.slot_bytes)
    bits = scratch(shape.slot_bytes)
    slots, words = scratch(shape.slot_bytes), scratch(shape.slot_bytes)
    scores, pulls = scratch(shape.score_bytes), scratch(shape.score_bytes)
    biases = scratch(shape.score_bytes)
    stream_one, stream_two = scratch(128), scratch(128)
    key_total, value_total = scratch(shape.keys.wide.bytes), scratch(shape.values.wide.bytes)
    staged, spare = scratch(shape.keys.wide.block_bytes), scratch(shape.keys.wide.spare_bytes)
    bent = scratch(shape.keys.wide.block_bytes)
    widened, widened_value = scratch(shape.keys.wide.bytes), scratch(shape.values.wide.bytes)
    ahead = ahead_of(source)
    stage_slots(shape, slots)
    for part in range(size.batch * size.groups):
        b, group = part // size.groups, part % size.groups
        queries = node_table(shape.keys, size, b, group, query, rows)
        if value is not None:
            grads = node_table(shape.values, size, b, group, grad_out, rows)
            levels = node_table(shape.stats, size, b, group, stats, rows)
            deltas = Table(levels.base + shape.head_bytes, rows, levels.stride)
        if threshold is not None:
            stage_streams(shape, size, b, group, streams, stream_one, stream_two)
        for i in range(first, last):
            row = row_of(owners, i)
            at = (b * size.rows + row) * size.groups + group
            to = (b * size.outputs + i) * size.groups + group
            own_key = as_wide(shape.keys, key + at * shape.keys.bytes, widened)
            if value is not None:
                own_value = as_wide(shape.values, value + at * shape.values.bytes, widened_value)
            begin, end = row_edges(size, source, i)
            row_zero(shape.keys.wide, key_total)
            row_zero(shape.values.wide, value_total)
            for start in range(begin, end, shape.block):
                block = Block(min(shape.block, end - start), start, rows, ids)
                if mask is None:
                    stage(shape, block, source, edges, row)
                else:
                    block = stage_kept(
                        shape, size, block, source, edges, row, mask, bits, b, group,
                        grad_gated is not None,
                    )  # fmt: skip
                if value is not None:
                    for p in range(0, block.count, shape.tree):
                        prefetch(shape.stats, levels, ahead, start + p)
                near = score_keys(
                    shape.keys, size, block, scores, own_key, queries, ahead, scale, att, edges,
                    gate, group, spare, slots, staged, bent,
                )  # fmt: skip
                if grad_scores is not None:
                    stage_per_edge(shape, size, block, b, group, grad_scores, pulls)
                if value is not None:
                    score(shape.values, block, pulls, own_value, grads, ahead, None)
                if bias is not None:
                    stage_bias(shape, size, block, bias, bias_index, group, biases)
                if threshold is not None:
                    stage_words(block, words)
                for p in range(0, block.count, shape.tree):
                    place = p * shape.head_bytes
                    raw, slope = load(shape, scores + place), load(shape, pulls + place)
                    if value is not None:
                        logits = finish(shape, raw, clamp, bias, biases, p, mask, bits)
                        chance = exp2(in_log_2(logits - head_table(shape, levels, p), bias))
                        weight = chance
                        if threshold is not None:
                            weight = chance * keep(
                                shape, words + 8 * p, stream_one, stream_two, threshold, factor
                            )
                        slope = weight * slope - chance * head_table(shape, deltas, p)
                        store(pulls + place, weight)
                    if clamp is not None:
                        slope = within(raw, clamp, slope)
                    store(scores + place, slope)
                add_scored(shape.keys, key_total, scores, near, block.count, att, bent)
                if value is not None:
                    weighted_sum(shape.values, value_total, pulls, grads, block.count)
                if grad_gated is not None:
                    pulled = products_of(shape, size, b, grad_gated)
                    add_gated_gradient(
                        shape.keys, size, block, near, pulled, group, spare, key_total
                    )
            target = grad_key + to * shape.keys.wide.bytes
            save_scored(shape.keys, target, key_total, scale, att, group)
            if value is not None:
                target = grad_value + to * shape.values.wide.bytes
                row_scale(shape.values.wide, target, value_total, 1.0)


backward_columns = Kernel(_backward_columns)
