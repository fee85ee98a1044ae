"""Backward over columns with what the pass over rows hands over: no logit is made again.

The gradients of key j are sums over its edges, grad_key = scale sum_i dS_ij q_i (times the gate)
and grad_value = sum_i w_ij grad_out_i. Where edges have features, making dS and w again would
gather two more rows per edge, of the projected query and of its gradient; two numbers per edge and
head are less.
"""

from numba.core import types

from graphattn.kernels.cpu.block import Block, node_table, row_edges, row_of, stage, stage_slots
from graphattn.kernels.cpu.compile import Kernel, helper
from graphattn.kernels.cpu.dots import head_table
from graphattn.kernels.cpu.edges import ask_edge_row, edge_row, products_of, stage_gated
from graphattn.kernels.cpu.gradients import add_gated_gradient
from graphattn.kernels.cpu.memory import read_integer, row_scale, row_zero, scratch
from graphattn.kernels.cpu.sources import ahead_of
from graphattn.kernels.cpu.sums import weighted_sum, weighted_sum_ahead
from graphattn.kernels.cpu.tables import Table
from graphattn.kernels.cpu.vector import load, store, store_heads


@helper(types.void)
def hand_over(shape, size, block, b, group, weights, slopes, handed):
    """Write (w, dS) of a block's edges to ``handed`` [B, E, H', 2], heads beside each other."""
    heads = size.groups * shape.heads
    base = handed + b * (size.last + 1) * size.groups * shape.stats.bytes
    for p in range(block.count):
        to = edge_row(shape.stats, heads, 2, base, read_integer(block.ids, p), group)
        place = p * shape.head_bytes
        store_heads(shape, to, load(shape, weights + place))
        store_heads(shape, to + shape.head_bytes, load(shape, slopes + place))


@helper(types.void)
def _take(shape, block, pairs, second, weights, slopes):
    """The numbers of a block's edges, neighbour-major."""
    for p in range(0, block.count, shape.tree):
        store(weights + p * shape.head_bytes, head_table(shape, pairs, p))
        store(slopes + p * shape.head_bytes, head_table(shape, second, p))


def _columns_handed(
    shape, size, first, last, source, owners, edges, query, grad_out, handed, grad_key,
    grad_value, scale, gate, grad_gated,
):  # fmt: skip
    """Columns ``first`` to ``last``; no gradient of values without ``grad_out``."""
    rows, ids = scratch(shape.slot_bytes), scratch(shape.slot_bytes)
    slots = scratch(shape.slot_bytes)
    weights, slopes = scratch(shape.score_bytes), scratch(shape.score_bytes)
    key_total, value_total = scratch(shape.keys.wide.bytes), scratch(shape.values.wide.bytes)
    staged, spare = scratch(shape.keys.wide.block_bytes), scratch(shape.keys.wide.spare_bytes)
    pair_jump, heads = size.groups * shape.stats.bytes, size.groups * shape.heads
    ahead = ahead_of(source)
    stage_slots(shape, slots)
    for part in range(size.batch * size.groups):
        b, group = part // size.groups, part % size.groups
        queries = node_table(shape.keys, size, b, group, query, rows)
        if grad_out is not None:
            grads = node_table(shape.values, size, b, group, grad_out, rows)
        if grad_gated is not None:
            pulled = products_of(shape, size, b, grad_gated)
        numbers = handed + b * (size.last + 1) * pair_jump
        pairs = Table(numbers + group * shape.stats.bytes, ids, pair_jump)
        second = Table(pairs.base + shape.head_bytes, ids, pair_jump)
        for i in range(first, last):
            to = (b * size.outputs + i) * size.groups + group
            begin, end = row_edges(size, source, i)
            row_zero(shape.keys.wide, key_total)
            row_zero(shape.values.wide, value_total)
            for start in range(begin, end, shape.block):
                block = Block(min(shape.block, end - start), start, rows, ids)
                stage(shape, block, source, edges, row_of(owners, i))
                for p in range(block.count):
                    position = start + p + shape.block
                    ask_edge_row(shape.stats, size, heads, 2, numbers, edges, group, position)
                _take(shape, block, pairs, second, weights, slopes)
                near = queries
                if gate is None:
                    weighted_sum_ahead(
                        shape.keys, key_total, slopes, queries, block.count, ahead, start
                    )
                if gate is not None:
                    near = stage_gated(
                        shape.keys, size, block, queries, ahead, edges, gate, group, spare, slots,
                        staged,
                    )  # fmt: skip
                    weighted_sum(shape.keys, key_total, slopes, near, block.count)
                if grad_gated is not None:
                    add_gated_gradient(
                        shape.keys, size, block, near, pulled, group, spare, key_total
                    )
                if grad_out is not None:
                    weighted_sum_ahead(
                        shape.values, value_total, weights, grads, block.count, ahead, start
                    )
            row_scale(shape.keys.wide, grad_key + to * shape.keys.wide.bytes, key_total, scale)
            if grad_out is not None:
                target = grad_value + to * shape.values.wide.bytes
                row_scale(shape.values.wide, target, value_total, 1.0)


columns_handed = Kernel(_columns_handed)
