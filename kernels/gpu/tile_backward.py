"""Backward kernels on tiles of a grid: by queries, and by keys over the reverse windows.

Each sums its own gradient alone, so there are no atomics. A reverse window is an interval along
each axis too; its union over a tile can be wider than that of windows, which the loops bear.
"""

import triton
import triton.language as tl

from graphattn.kernels.gpu.blocks import LOG2E
from graphattn.kernels.gpu.tiles import (
    STEP,
    biases,
    header,
    inside,
    load_rows,
    other_nodes,
    own_tile,
    store_rows,
    union,
    window_of_planes,
)


@triton.jit
def level_of(lse, at, there):
    """LSE in units of log 2; +inf where a row is empty, so that its weights are 0."""
    level = tl.load(lse + at, mask=there, other=float("inf"))
    return tl.where(level == float("-inf"), float("inf"), level) * LOG2E


@triton.jit
def statistics(lse, delta, node, there, HEADS: tl.constexpr):
    """``level_of`` and delta of one head at [N] nodes."""
    at = node.to(tl.int64) * HEADS
    return level_of(lse, at, there), tl.load(delta + at, mask=there, other=0.0)


@triton.jit(do_not_specialize=["num_own", "num_other", "num_types"])
def tile_backward_rows(
    query,
    key,
    value,
    bias,
    grad_out,
    grad_lse,
    out,
    lse,
    delta,
    grad_query,
    tables,
    num_own: tl.int64,
    num_other: tl.int64,
    num_types: tl.int64,
    scale: tl.float32,
    HEADS: tl.constexpr,
    DK: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
    TILE_Y: tl.constexpr,
    TILE_X: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_X: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradient of one tile of queries and one head; writes delta = <grad_out, out> - grad_lse."""
    (
        batch, head, plane, node, own,
        group_y, own_y, begin_y, count_y, group_x, own_x, begin_x, count_x,
    ) = own_tile(tables, HEADS, TILE_Y, TILE_X)  # fmt: skip
    n = tl.arange(0, BLOCK_N)
    first, last = union(begin_y, count_y)
    left, right = union(begin_x, count_x)
    base, other_base = batch * num_own * HEADS + head, batch * num_other * HEADS + head
    q = load_rows(query + base * DK, node, own, HEADS, DK, BLOCK_K)
    pull = load_rows(grad_out + base * DV, node, own, HEADS, DV, BLOCK_V)
    at = base + node.to(tl.int64) * HEADS
    level = level_of(lse, at, own)
    o = load_rows(out + base * DV, node, own, HEADS, DV, BLOCK_V)
    drop = tl.sum(pull.to(tl.float32) * o.to(tl.float32), 1)
    if grad_lse is not None:
        drop -= tl.load(grad_lse + at, mask=own, other=0.0)
    tl.store(delta + at, drop, mask=own)
    acc = tl.zeros([TILE_Y * TILE_X, BLOCK_K], tl.float32)
    start, planes = window_of_planes(tables, plane)
    for z in range(0, planes):
        other = start + header(tables, 0, STEP) * z
        for corner in range(left, right, BLOCK_X):
            x = corner + n % BLOCK_X
            near_x = inside(x, begin_x, count_x)
            for row in tl.range(first, last, BLOCK_N // BLOCK_X, num_stages=STAGES):
                y = row + n // BLOCK_X
                near, there = other_nodes(tables, other, group_y, y, group_x, x)
                keys = load_rows(key + other_base * DK, near, there, HEADS, DK, BLOCK_K)
                values = load_rows(value + other_base * DV, near, there, HEADS, DV, BLOCK_V)
                logits = tl.dot(q, tl.trans(keys), input_precision=PRECISION) * scale * LOG2E
                on = near_x & inside(y, begin_y, count_y)
                if bias is not None:
                    table = bias + head * num_types
                    logits += biases(table, tables, plane, other, own_y, y, own_x, x, on)
                p = tl.where(on, tl.exp2(logits - level[:, None]), 0.0)
                slope = tl.dot(pull, tl.trans(values), input_precision=PRECISION)
                slope = p * (slope - drop[:, None])
                acc = tl.dot(slope.to(keys.dtype), keys, acc, input_precision=PRECISION)
    store_rows(grad_query + base * DK, node, own, acc * scale, HEADS, DK, BLOCK_K)


@triton.jit(do_not_specialize=["num_own", "num_other", "num_types"])
def tile_backward_cols(
    query,
    key,
    value,
    bias,
    grad_out,
    lse,
    delta,
    grad_key,
    grad_value,
    tables,
    num_own: tl.int64,
    num_other: tl.int64,
    num_types: tl.int64,
    scale: tl.float32,
    HEADS: tl.constexpr,
    DK: tl.constexpr,
    DV: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
    TILE_Y: tl.constexpr,
    TILE_X: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_X: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of one tile of keys and values and one head; ``tables`` list their readers."""
    (
        batch, head, plane, node, own,
        group_y, own_y, begin_y, count_y, group_x, own_x, begin_x, count_x,
    ) = own_tile(tables, HEADS, TILE_Y, TILE_X)  # fmt: skip
    n = tl.arange(0, BLOCK_N)
    first, last = union(begin_y, count_y)
    left, right = union(begin_x, count_x)
    base, other_base = batch * num_own * HEADS + head, batch * num_other * HEADS + head
    k = load_rows(key + base * DK, node, own, HEADS, DK, BLOCK_K)
    v = load_rows(value + base * DV, node, own, HEADS, DV, BLOCK_V)
    key_acc = tl.zeros([TILE_Y * TILE_X, BLOCK_K], tl.float32)
    value_acc = tl.zeros([TILE_Y * TILE_X, BLOCK_V], tl.float32)
    start, planes = window_of_planes(tables, plane)
    for z in range(0, planes):
        other = start + header(tables, 0, STEP) * z
        for corner in range(left, right, BLOCK_X):
            x = corner + n % BLOCK_X
            near_x = inside(x, begin_x, count_x)
            for row in tl.range(first, last, BLOCK_N // BLOCK_X, num_stages=STAGES):
                y = row + n // BLOCK_X
                near, there = other_nodes(tables, other, group_y, y, group_x, x)
                queries = load_rows(query + other_base * DK, near, there, HEADS, DK, BLOCK_K)
                pulls = load_rows(grad_out + other_base * DV, near, there, HEADS, DV, BLOCK_V)
                level, drop = statistics(lse + other_base, delta + other_base, near, there, HEADS)
                logits = tl.dot(k, tl.trans(queries), input_precision=PRECISION) * scale * LOG2E
                on = near_x & inside(y, begin_y, count_y)
                if bias is not None:
                    table = bias + head * num_types
                    logits += biases(table, tables, plane, other, own_y, y, own_x, x, on)
                p = tl.where(on, tl.exp2(logits - level[None, :]), 0.0)
                value_acc = tl.dot(p.to(pulls.dtype), pulls, value_acc, input_precision=PRECISION)
                slope = tl.dot(v, tl.trans(pulls), input_precision=PRECISION)
                slope = p * (slope - drop[None, :])
                key_acc = tl.dot(slope.to(queries.dtype), queries, key_acc,
                                 input_precision=PRECISION)  # fmt: skip
    store_rows(grad_key + base * DK, node, own, key_acc * scale, HEADS, DK, BLOCK_K)
    store_rows(grad_value + base * DV, node, own, value_acc, HEADS, DV, BLOCK_V)
