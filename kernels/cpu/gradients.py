"""Gradients of edge tensors, written once per edge by the row pass; summed over the batch."""

from numba.core import types

from graphattn.kernels.cpu.compile import helper
from graphattn.kernels.cpu.edges import (
    bias_place,
    edge_row,
    is_padded,
    load_edge_row,
    save_edge_row,
)
from graphattn.kernels.cpu.memory import (
    mix_heads,
    read,
    read_integer,
    row_add_product,
    row_add_weighed,
    row_multiply,
    row_weigh,
    row_zero,
    write,
)


@helper(types.void)
def save_bias_gradient(shape, size, block, group, again, slopes, bias_index, grad_bias):
    """grad_bias[e(, h)] = (sum over heads of) slopes[p, h]; added when ``again``."""
    heads = min(shape.heads, size.heads - group * shape.heads)
    for p in range(block.count):
        place = bias_place(size, block, p, bias_index) + group * shape.heads * size.bias_head
        for h in range(heads):
            found = read(shape, slopes, p * shape.heads + h)
            if again or (size.bias_head == 0 and h > 0):
                found += read(shape, grad_bias, place + h * size.bias_head)
            write(shape, grad_bias, place + h * size.bias_head, found)


@helper(types.void)
def save_gate_gradient(
    row, size, block, table, scaled, slopes, grad_gated, group, again, spare, grad_gate
):
    """grad_gate[e] = (slope + grad_gated[e]) * scaled query * key; ``spare``: three rows."""
    product, copied, held = spare, spare + row.bytes, spare + 2 * row.bytes
    for p in range(block.count):
        edge, weights = read_integer(block.ids, p), slopes + p * row.shape.head_bytes
        row_multiply(row, product, scaled, table.base + read_integer(table.index, p) * table.stride)
        target = edge_row(row, size.heads, size.key, grad_gate, edge, group)
        if is_padded(row, size.heads, size.key):
            target = held
        if again:
            load_edge_row(row, size.heads, size.key, grad_gate, edge, group, held)
            row_add_weighed(row, target, product, weights)
        else:
            row_weigh(row, target, product, weights)
        if grad_gated is not None:
            found = load_edge_row(row, size.heads, size.key, grad_gated, edge, group, copied)
            row_add_product(row, target, found, product)
        save_edge_row(row, size.heads, size.key, grad_gate, edge, group, held)


@helper(types.void)
def add_gated_gradient(row, size, block, table, grad_gated, group, spare, total):
    """total += grad_gated[e] * table row, for the gradient through the returned products."""
    for p in range(block.count):
        edge = read_integer(block.ids, p)
        found = load_edge_row(row, size.heads, size.key, grad_gated, edge, group, spare)
        source = table.base + read_integer(table.index, p) * table.stride
        row_add_product(row, total, found, source)


@helper(types.void)
def save_feature_gradient(
    shape, size, block, slopes, weights, edge_query, grad_edge_out, again, spare, grad_edge_attr
):
    """grad_edge_attr[e] = sum_h slope edge_query[h] + weight grad_edge_out[h]."""
    row = shape.shared
    for p in range(block.count):
        edge, at = read_integer(block.ids, p), p * shape.head_bytes
        target = edge_row(row, 1, size.feature, grad_edge_attr, edge, 0)
        if is_padded(row, 1, size.feature):
            target = spare
        if again:
            load_edge_row(row, 1, size.feature, grad_edge_attr, edge, 0, spare)
        else:
            row_zero(row, target)
        mix_heads(shape.features, target, edge_query, slopes + at)
        if grad_edge_out is not None:
            mix_heads(shape.features, target, grad_edge_out, weights + at)
        save_edge_row(row, 1, size.feature, grad_edge_attr, edge, 0, spare)
