"""Merging the partial results of hub rows: LSE-weighted for the forward pass, sums for gradients.

One program merges one run of consecutive partial results, in order, so no atomics and no race.
"""

import triton
import triton.language as tl

from graphattn.kernels.gpu.blocks import LN2, LOG2E, gather, head_lanes, load_heads, share
from graphattn.kernels.gpu.forward import store_rows


@triton.jit
def merge_task(tasks, num_tasks, task, FINAL: tl.constexpr):
    """First partial result, their number and the destination (row, or position if not FINAL)."""
    first = tl.load(tasks + task)
    count = tl.load(tasks + num_tasks + task).to(tl.int32)
    if FINAL:
        return first, count, tl.load(tasks + num_tasks.to(tl.int64) * 2 + task)
    else:
        return first, count, task.to(tl.int64)


@triton.jit(do_not_specialize=["num_tasks", "num_parts", "num_dest"])
def merge_softmax(
    part_out,
    part_lse,
    part_edge,
    out,
    lse,
    edge_out,
    tasks,
    num_tasks: tl.int32,
    num_parts: tl.int64,
    num_dest: tl.int64,
    HEADS: tl.constexpr,
    DV: tl.constexpr,
    DF: tl.constexpr,
    GROUPS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_F: tl.constexpr,
    EXACT: tl.constexpr,
    UNROLL: tl.constexpr,
    ACC: tl.constexpr,
    FINAL: tl.constexpr,
):
    """Mean of partial outputs weighted by exp(lse), and the LSE of them all."""
    batch, group, task = share(tl.program_id(0), 0, num_tasks, GROUPS)
    first, count, dest = merge_task(tasks, num_tasks, task, FINAL)
    one = tl.arange(0, 1)
    heads = group * BLOCK_H + tl.arange(0, BLOCK_H)
    lanes_v = head_lanes(group, HEADS, DV, BLOCK_H, BLOCK_V)
    lanes_f = head_lanes(group, HEADS, DF, BLOCK_H, BLOCK_F)
    top = tl.full([1, BLOCK_H], float("-inf"), ACC)
    total = tl.zeros([1, BLOCK_H], ACC)
    acc = tl.zeros([1, BLOCK_H, BLOCK_V], ACC)
    edge_acc = tl.zeros([1, BLOCK_H, BLOCK_F], ACC)
    i = count * 0
    while i < count:
        logs = ()
        tiles = ()
        extras = ()
        highest = top
        for u in tl.static_range(UNROLL):
            on = one + (i + u) < count
            node = batch * num_parts + first + (one + (i + u))
            log = load_heads(part_lse, node, on, heads, HEADS, float("-inf"))
            highest = tl.maximum(highest, log)
            logs = logs + (log,)
            tiles = tiles + (gather(part_out, node, on, lanes_v, HEADS * DV, EXACT, BLOCK_V),)
            if part_edge is not None:
                tile = gather(part_edge, node, on, lanes_f, HEADS * DF, EXACT, BLOCK_F)
                extras = extras + (tile,)
        shift = tl.where(highest == float("-inf"), 0.0, highest) * LOG2E
        rescale = tl.exp2(top * LOG2E - shift)
        top = highest
        total *= rescale
        acc *= rescale[:, :, None]
        edge_acc *= rescale[:, :, None]
        for u in tl.static_range(UNROLL):
            p = tl.exp2(logs[u] * LOG2E - shift)
            total += p
            acc += p[:, :, None] * tiles[u]
            if part_edge is not None:
                edge_acc += p[:, :, None] * extras[u]
        i += UNROLL
    empty = total == 0.0
    divisor = tl.where(empty, 1.0, total)
    log_total = tl.where(empty, float("-inf"), top + tl.log2(divisor) * LN2)
    node = batch * num_dest + dest + one
    acc /= divisor[:, :, None]
    edge_acc /= divisor[:, :, None]
    store_rows(out, lse, edge_out, node, one == 0, heads, lanes_v, lanes_f,
               acc, log_total, edge_acc, HEADS, DV, DF, EXACT)  # fmt: skip


@triton.jit(do_not_specialize=["num_tasks", "num_parts", "num_dest"])
def merge_sum(
    part,
    out,
    tasks,
    num_tasks: tl.int32,
    num_parts: tl.int64,
    num_dest: tl.int64,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    GROUPS: tl.constexpr,
    UNROLL: tl.constexpr,
    FINAL: tl.constexpr,
):
    """Sum of partial gradients of WIDTH numbers each, BLOCK of them per program."""
    batch, group, task = share(tl.program_id(0), 0, num_tasks, GROUPS)
    first, count, dest = merge_task(tasks, num_tasks, task, FINAL)
    column = group * BLOCK + tl.arange(0, BLOCK)
    source = part + (batch * num_parts + first) * WIDTH + column
    acc = tl.zeros([BLOCK], part.dtype.element_ty)
    i = count * 0
    while i < count:
        tiles = ()
        for u in tl.static_range(UNROLL):
            on = column < tl.where(i + u < count, WIDTH, 0)
            tiles = tiles + (tl.load(source + (i + u) * WIDTH, mask=on, other=0.0),)
        for u in tl.static_range(UNROLL):
            acc += tiles[u]
        i += UNROLL
    target = out + (batch * num_dest + dest) * WIDTH + column
    tl.store(target, acc.to(out.dtype.element_ty), mask=column < WIDTH)
