"""Forward kernels of aggregation: all reductions of a few rows at once, in one pass.

The state of a run of edges is a handful of tiles: a sum; shift, mean and moment (means are counted
from the first message, so that they do not round each other's differences); extremes and ties.
Chunks of hub rows store their states, which ``merge_reductions`` combines in order.
"""

import triton
import triton.language as tl

from graphattn.kernels.gpu.bend import before_bend, bend
from graphattn.kernels.gpu.blocks import (
    edge_at,
    gather,
    load_heads,
    scatter,
    share,
    task_slots,
    trip_count,
)
from graphattn.kernels.gpu.merge import merge_task

# As kernels/reference/aggregate.py: std is 0 up to this variance.
LEAST_VARIANCE = tl.constexpr(1e-5)


@triton.jit
def slice_lanes(
    group, HEADS: tl.constexpr, WIDTH: tl.constexpr, WIDTH_GROUPS: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """Offset of each lane inside one node's [HEADS, WIDTH] features, and whether it exists."""
    lane = tl.arange(0, BLOCK_H * BLOCK_W)
    head = group // WIDTH_GROUPS * BLOCK_H + lane // BLOCK_W
    column = group % WIDTH_GROUPS * BLOCK_W + lane % BLOCK_W
    return head * WIDTH + column, (head < HEADS) & (column < WIDTH)


@triton.jit
def ratio(a, b):
    """a / b, and 0 / 0 = 0 for what has no edges."""
    return a / tl.where(b == 0.0, 1.0, b)


@triton.jit
def moment_of(first, second, count):
    """Mean and moment from the sums of distances and of their squares."""
    away = ratio(first, count)
    moment = second - first * away
    # Rounding alone makes it negative; NaN is not below 0 and stays.
    return away, tl.where(moment < 0.0, 0.0, moment)


@triton.jit
def better_of(best, ties, found, found_ties, on, LARGEST: tl.constexpr):
    """Take one more value, reached by ``found_ties`` edges, into an extreme; NaN wins."""
    ahead = found > best if LARGEST else found < best
    ahead = on & (ahead | (found != found))
    ties = tl.where(on & (found == best), ties + found_ties, ties)
    return tl.where(ahead, found, best), tl.where(ahead, found_ties, ties)


@triton.jit
def store_results(
    out, stats, plane, node, on, lanes, count, total, mean, moment, top, top_ties, bottom,
    bottom_ties, STRIDE: tl.constexpr, EXACT: tl.constexpr, SUM: tl.constexpr, MEAN: tl.constexpr,
    MIN: tl.constexpr, MAX: tl.constexpr, VAR: tl.constexpr, STD: tl.constexpr,
):  # fmt: skip
    """Store the reductions in the order of REDUCTIONS, then the statistics; 0 without edges."""
    empty = count == 0.0
    if MAX:
        top = tl.where(empty, 0.0, top)
    if MIN:
        bottom = tl.where(empty, 0.0, bottom)
    if VAR or STD:
        variance = ratio(moment, count)
    if SUM:
        scatter(out, node, on, lanes, total, STRIDE, EXACT)
        out += plane
    if MEAN:
        scatter(out, node, on, lanes, ratio(total, count), STRIDE, EXACT)
        out += plane
    if MIN:
        scatter(out, node, on, lanes, bottom, STRIDE, EXACT)
        out += plane
    if MAX:
        scatter(out, node, on, lanes, top, STRIDE, EXACT)
        out += plane
    if VAR:
        scatter(out, node, on, lanes, variance, STRIDE, EXACT)
        out += plane
    if STD:
        deviation = tl.where(variance <= LEAST_VARIANCE, 0.0, tl.sqrt(variance))
        scatter(out, node, on, lanes, deviation, STRIDE, EXACT)
    if VAR or STD:
        scatter(stats, node, on, lanes, mean, STRIDE, EXACT)
        scatter(stats + plane, node, on, lanes, variance, STRIDE, EXACT)
        stats += 2 * plane
    if MAX:
        scatter(stats, node, on, lanes, top, STRIDE, EXACT)
        ties = tl.where(top != top, top, top_ties)
        scatter(stats + plane, node, on, lanes, ties, STRIDE, EXACT)
        stats += 2 * plane
    if MIN:
        scatter(stats, node, on, lanes, bottom, STRIDE, EXACT)
        ties = tl.where(bottom != bottom, bottom, bottom_ties)
        scatter(stats + plane, node, on, lanes, ties, STRIDE, EXACT)


@triton.jit
def store_states(
    states, part, on, lanes, total, shift, mean, moment, top, top_ties, bottom, bottom_ties,
    STATES: tl.constexpr, STRIDE: tl.constexpr, EXACT: tl.constexpr, LINEAR: tl.constexpr,
    SPREAD: tl.constexpr, MAX: tl.constexpr, MIN: tl.constexpr,
):  # fmt: skip
    """Store the state of a part: STATES tiles side by side."""
    JUMP: tl.constexpr = STATES * STRIDE
    if LINEAR:
        scatter(states, part, on, lanes, total, JUMP, EXACT)
        states += STRIDE
    if SPREAD:
        scatter(states, part, on, lanes, shift, JUMP, EXACT)
        scatter(states + STRIDE, part, on, lanes, mean, JUMP, EXACT)
        scatter(states + 2 * STRIDE, part, on, lanes, moment, JUMP, EXACT)
        states += 3 * STRIDE
    if MAX:
        scatter(states, part, on, lanes, top, JUMP, EXACT)
        scatter(states + STRIDE, part, on, lanes, top_ties, JUMP, EXACT)
        states += 2 * STRIDE
    if MIN:
        scatter(states, part, on, lanes, bottom, JUMP, EXACT)
        scatter(states + STRIDE, part, on, lanes, bottom_ties, JUMP, EXACT)


@triton.jit(do_not_specialize=["num_slots", "num_rows", "num_cols", "weight_batch", "plane",
                               "blocks", "chunk_blocks"])  # fmt: skip
def reduce_rows(
    own,
    x,
    weight,
    attr,
    proj,
    out,
    stats,
    states,
    indices,
    edges,
    slots,
    num_slots: tl.int64,
    num_rows: tl.int64,
    num_cols: tl.int64,
    weight_batch: tl.int64,
    plane: tl.int64,
    blocks: tl.int32,
    chunk_blocks: tl.int32,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH_GROUPS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    EXACT: tl.constexpr,
    SLOTS: tl.constexpr,
    UNROLL: tl.constexpr,
    ACC: tl.constexpr,
    STATES: tl.constexpr,
    SUM: tl.constexpr,
    MEAN: tl.constexpr,
    MIN: tl.constexpr,
    MAX: tl.constexpr,
    VAR: tl.constexpr,
    STD: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SLOPE: tl.constexpr,
    FEATURES: tl.constexpr,
):
    """Reductions of SLOTS rows (or states of hub chunks) for one batch entry and one slice.

    With ``own`` a message is phi(own + gathered + projected features) in place of what is gathered.
    """
    LINEAR: tl.constexpr = SUM or MEAN
    SPREAD: tl.constexpr = VAR or STD
    STRIDE: tl.constexpr = HEADS * WIDTH
    batch, group, block = share(tl.program_id(0), 0, blocks, GROUPS)
    slot, row, start, length = task_slots(slots, num_slots, block, SLOTS)
    trip = trip_count(slots, num_slots, block, chunk_blocks, SLOTS)
    live = row >= 0
    lanes = slice_lanes(group, HEADS, WIDTH, WIDTH_GROUPS, BLOCK_H, BLOCK_W)
    heads = group // WIDTH_GROUPS * BLOCK_H + tl.arange(0, BLOCK_H)
    x += batch * num_cols * STRIDE
    if own is not None:
        mine = gather(own, batch * num_rows + row, live, lanes, STRIDE, EXACT, BLOCK_W).to(ACC)
    if weight is not None:
        weight += batch * weight_batch
    zero = tl.zeros([SLOTS, BLOCK_H, BLOCK_W], ACC)
    total = zero
    shift = zero
    first = zero
    second = zero
    top = zero + float("-inf")
    top_ties = zero
    bottom = zero + float("inf")
    bottom_ties = zero
    if SPREAD:
        on, col, edge = edge_at(indices, edges, start, length, trip * 0)
        shift = gather(x, col, on, lanes, STRIDE, EXACT, BLOCK_W).to(ACC)
        if own is not None:
            z = before_bend(mine, shift, attr, proj, edge, on, lanes, FEATURES, STRIDE, BLOCK_H,
                            BLOCK_W, ACC)  # fmt: skip
            # A row without edges has a mean of 0, not phi of its own numbers.
            shift = tl.where(on[:, None, None], bend(z, ACTIVATION, SLOPE), 0.0)
        if weight is not None:
            shift *= load_heads(weight, edge, on, heads, HEADS, 0.0)[:, :, None]
    i = trip * 0
    while i < trip:
        # All loads of UNROLL edges are issued before the first of them is used.
        hops = ()
        tiles = ()
        factors = ()
        for u in tl.static_range(UNROLL):
            hops = hops + (edge_at(indices, edges, start, length, i + u),)
        for u in tl.static_range(UNROLL):
            on, col, edge = hops[u]
            tiles = tiles + (gather(x, col, on, lanes, STRIDE, EXACT, BLOCK_W),)
            if weight is not None:
                factors = factors + (load_heads(weight, edge, on, heads, HEADS, 0.0),)
        for u in tl.static_range(UNROLL):
            there = hops[u][0][:, None, None]
            message = tiles[u].to(ACC)
            if own is not None:
                z = before_bend(mine, message, attr, proj, hops[u][2], hops[u][0], lanes, FEATURES,
                                STRIDE, BLOCK_H, BLOCK_W, ACC)  # fmt: skip
                message = tl.where(there, bend(z, ACTIVATION, SLOPE), 0.0)
            if weight is not None:
                message *= factors[u][:, :, None]
            if LINEAR:
                total += message
            if SPREAD:
                away = tl.where(there, message - shift, 0.0)
                first += away
                second += away * away
            if MAX:
                top, top_ties = better_of(top, top_ties, message, 1.0, there, True)
            if MIN:
                bottom, bottom_ties = better_of(bottom, bottom_ties, message, 1.0, there, False)
        i += UNROLL
    count = length.to(ACC)[:, None, None]
    mean, moment = moment_of(first, second, count)
    if block < chunk_blocks:
        part = batch * chunk_blocks * SLOTS + slot
        store_states(states, part, live, lanes, total, shift, mean, moment, top, top_ties, bottom,
                     bottom_ties, STATES, STRIDE, EXACT, LINEAR, SPREAD, MAX, MIN)  # fmt: skip
    else:
        store_results(out, stats, plane, batch * num_rows + row, live, lanes, count, total,
                      shift + mean, moment, top, top_ties, bottom, bottom_ties, STRIDE, EXACT,
                      SUM, MEAN, MIN, MAX, VAR, STD)  # fmt: skip


@triton.jit(do_not_specialize=["num_tasks", "num_parts", "num_dest", "plane"])
def merge_reductions(
    states,
    counts,
    out,
    stats,
    into,
    into_counts,
    tasks,
    num_tasks: tl.int32,
    num_parts: tl.int64,
    num_dest: tl.int64,
    plane: tl.int64,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH_GROUPS: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    EXACT: tl.constexpr,
    ACC: tl.constexpr,
    STATES: tl.constexpr,
    SUM: tl.constexpr,
    MEAN: tl.constexpr,
    MIN: tl.constexpr,
    MAX: tl.constexpr,
    VAR: tl.constexpr,
    STD: tl.constexpr,
    FINAL: tl.constexpr,
):
    """Combine the states of consecutive parts, in order; moments by Chan et al. (1983)."""
    LINEAR: tl.constexpr = SUM or MEAN
    SPREAD: tl.constexpr = VAR or STD
    STRIDE: tl.constexpr = HEADS * WIDTH
    JUMP: tl.constexpr = STATES * STRIDE
    batch, group, task = share(tl.program_id(0), 0, num_tasks, GROUPS)
    start, number, dest = merge_task(tasks, num_tasks, task, FINAL)
    lanes = slice_lanes(group, HEADS, WIDTH, WIDTH_GROUPS, BLOCK_H, BLOCK_W)
    one = tl.arange(0, 1)
    live = one == 0
    always = live[:, None, None]
    zero = tl.zeros([1, BLOCK_H, BLOCK_W], ACC)
    total = zero
    shift = zero
    mean = zero
    moment = zero
    top = zero + float("-inf")
    top_ties = zero
    bottom = zero + float("inf")
    bottom_ties = zero
    count = tl.zeros([1, 1, 1], ACC)
    i = number * 0
    while i < number:
        part = batch * num_parts + start + i + one
        size = tl.load(counts + start + i)
        source = states
        if LINEAR:
            total += gather(source, part, live, lanes, JUMP, EXACT, BLOCK_W)
            source += STRIDE
        if SPREAD:
            origin = gather(source, part, live, lanes, JUMP, EXACT, BLOCK_W)
            apart = gather(source + STRIDE, part, live, lanes, JUMP, EXACT, BLOCK_W)
            more = gather(source + 2 * STRIDE, part, live, lanes, JUMP, EXACT, BLOCK_W)
            source += 3 * STRIDE
            shift = tl.where(i == 0, origin, shift)
            apart += origin - shift - mean
            joint = count + size
            moment += more + apart * (count * size / joint) * apart
            mean += apart * (size / joint)
        if MAX:
            found = gather(source, part, live, lanes, JUMP, EXACT, BLOCK_W)
            ties = gather(source + STRIDE, part, live, lanes, JUMP, EXACT, BLOCK_W)
            top, top_ties = better_of(top, top_ties, found, ties, always, True)
            source += 2 * STRIDE
        if MIN:
            found = gather(source, part, live, lanes, JUMP, EXACT, BLOCK_W)
            ties = gather(source + STRIDE, part, live, lanes, JUMP, EXACT, BLOCK_W)
            bottom, bottom_ties = better_of(bottom, bottom_ties, found, ties, always, False)
        count += size
        i += 1
    node = batch * num_dest + dest + one
    if FINAL:
        store_results(out, stats, plane, node, live, lanes, count, total, shift + mean, moment,
                      top, top_ties, bottom, bottom_ties, STRIDE, EXACT,
                      SUM, MEAN, MIN, MAX, VAR, STD)  # fmt: skip
    else:
        tl.store(into_counts + dest + one, tl.reshape(count, [1]))
        store_states(into, node, live, lanes, total, shift, mean, moment, top, top_ties, bottom,
                     bottom_ties, STATES, STRIDE, EXACT, LINEAR, SPREAD, MAX, MIN)  # fmt: skip
