"""Device functions of the grid kernels, and the forward one: tiles of queries on tensor cores.

A program owns TILE_Y x TILE_X neighbouring nodes of one residue class of the last two axes, in one
plane of the first, and walks the union of their windows in blocks of keys: BLOCK_X columns wide,
so that the test along x is made once per column block and only the one along y in the loop.
Positions count inside a class. Windows come from the tables of kernels/grid.py; a key outside of
the grid is outside of every window, so loads alone need a bound.
"""

import triton
import triton.language as tl

from graphattn.kernels.gpu.blocks import LN2, LOG2E

# The fields of kernels/grid.py, which a kernel can only read as constants of its own module.
FIELDS = tl.constexpr(8)
EXTENT, OTHER, STEP, FIRST = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(6)
WIDTH, SLOPE = tl.constexpr(4), tl.constexpr(5)
START, COUNT = tl.constexpr(0), tl.constexpr(1)


@triton.jit
def header(tables, AXIS: tl.constexpr, FIELD: tl.constexpr):
    """A field of an axis; nodes are fewer than 2^31, and half the registers count."""
    return tl.load(tables + AXIS * FIELDS + FIELD).to(tl.int32)


@triton.jit
def classes(tables, AXIS: tl.constexpr, SIZE: tl.constexpr):
    """Residue classes of an axis, and tiles of SIZE positions in the longest of them."""
    step = header(tables, AXIS, STEP)
    longest = (header(tables, AXIS, EXTENT) + step - 1) // step
    return step, (longest + SIZE - 1) // SIZE


@triton.jit
def place(tables, HEADS: tl.constexpr, TILE_Y: tl.constexpr, TILE_X: tl.constexpr):
    """This program's batch entry, head, plane, classes and tiles; heads are next to each other."""
    step_y, tiles_y = classes(tables, 1, TILE_Y)
    step_x, tiles_x = classes(tables, 2, TILE_X)
    item = tl.program_id(0)
    head = item % HEADS
    item //= HEADS
    tile_x = item % tiles_x
    item //= tiles_x
    group_x = item % step_x
    item //= step_x
    tile_y = item % tiles_y
    item //= tiles_y
    group_y = item % step_y
    item //= step_y
    planes = header(tables, 0, EXTENT)
    batch = (item // planes).to(tl.int64)
    return batch, head, item % planes, group_y, tile_y, group_x, tile_x


@triton.jit
def windows(tables, AXIS: tl.constexpr, group, position):
    """First position, number of keys and coordinate along an axis; no keys beyond the grid."""
    step = header(tables, AXIS, STEP)
    at = group + step * position
    there = at < header(tables, AXIS, EXTENT)
    entry = tables + (header(tables, AXIS, FIRST) + at) * FIELDS
    begin = tl.load(entry + START, mask=there, other=0).to(tl.int32) // step
    count = tl.load(entry + COUNT, mask=there, other=0).to(tl.int32)
    return begin, count, at, there


@triton.jit
def own_tile(tables, HEADS: tl.constexpr, TILE_Y: tl.constexpr, TILE_X: tl.constexpr):
    """This program's batch entry, head and plane, the nodes [M] of its tile and which exist.

    Then along y and along x: the class, positions, first positions and sizes of windows.
    """
    batch, head, plane, group_y, tile_y, group_x, tile_x = place(tables, HEADS, TILE_Y, TILE_X)
    m = tl.arange(0, TILE_Y * TILE_X)
    own_y, own_x = tile_y * TILE_Y + m // TILE_X, tile_x * TILE_X + m % TILE_X
    begin_y, count_y, at_y, on_y = windows(tables, 1, group_y, own_y)
    begin_x, count_x, at_x, on_x = windows(tables, 2, group_x, own_x)
    node = (plane * header(tables, 1, EXTENT) + at_y) * header(tables, 2, EXTENT) + at_x
    return (
        batch, head, plane, node, on_y & on_x,
        group_y, own_y, begin_y, count_y, group_x, own_x, begin_x, count_x,
    )  # fmt: skip


@triton.jit
def window_of_planes(tables, plane):
    """First plane of a plane's window, and how many it has."""
    entry = tables + (header(tables, 0, FIRST) + plane) * FIELDS
    return tl.load(entry + START).to(tl.int32), tl.load(entry + COUNT).to(tl.int32)


@triton.jit
def union(begin, count):
    """First position and end of the union of windows, [] each; 0, 0 if there is none."""
    low = tl.min(tl.where(count > 0, begin, 2147483647), 0)
    high = tl.max(tl.where(count > 0, begin + count, 0), 0)
    return tl.minimum(low, high), high


@triton.jit
def inside(position, begin, count):
    """Which of [N] positions are in which of [M] windows: one unsigned comparison."""
    gap = (position[None, :] - begin[:, None]).to(tl.uint32, bitcast=True)
    return gap < count[:, None].to(tl.uint32, bitcast=True)


@triton.jit
def other_nodes(tables, plane, group_y, y, group_x, x):
    """Numbers of the nodes at [N] positions, and which of them there are."""
    at_y = group_y + header(tables, 1, STEP) * y
    at_x = group_x + header(tables, 2, STEP) * x
    size_y, size_x = header(tables, 1, OTHER), header(tables, 2, OTHER)
    return (plane * size_y + at_y) * size_x + at_x, (at_y < size_y) & (at_x < size_x)


@triton.jit
def relative(tables, AXIS: tl.constexpr, own, other):
    """Relative position along an axis of [N] listed positions to [M] owning ones, [M, N]."""
    gap = (other[None, :] - own[:, None]) * header(tables, AXIS, SLOPE)
    return gap + header(tables, AXIS, WIDTH) // 2


@triton.jit
def biases(table, tables, plane, other, own_y, y, own_x, x, on):
    """Entries [M, N] of a head's table of relative positions, in units of log 2."""
    step = header(tables, 0, STEP)
    at = (other - plane) // step * header(tables, 0, SLOPE) + header(tables, 0, WIDTH) // 2
    at = at * header(tables, 1, WIDTH) + relative(tables, 1, own_y, y)
    at = at * header(tables, 2, WIDTH) + relative(tables, 2, own_x, x)
    return tl.load(table + at, mask=on, other=0.0) * LOG2E


@triton.jit
def load_rows(base, node, there, HEADS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Rows [N, BLOCK] of one head's features, 0 where there is no node or column."""
    column = tl.arange(0, BLOCK)
    at = node.to(tl.int64)[:, None] * (HEADS * WIDTH) + column[None, :]
    return tl.load(base + at, mask=there[:, None] & (column < WIDTH)[None, :], other=0.0)


@triton.jit
def store_rows(
    base, node, there, tile, HEADS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr
):
    """Store rows [N, BLOCK] of one head's features."""
    column = tl.arange(0, BLOCK)
    at = node.to(tl.int64)[:, None] * (HEADS * WIDTH) + column[None, :]
    tile = tile.to(base.dtype.element_ty)
    tl.store(base + at, tile, mask=there[:, None] & (column < WIDTH)[None, :])


@triton.jit(do_not_specialize=["num_own", "num_other", "num_types"])
def tile_forward(
    query,
    key,
    value,
    bias,
    out,
    lse,
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
    """Attention of one tile of queries and one head: online softmax over blocks of keys."""
    (
        batch, head, plane, node, own,
        group_y, own_y, begin_y, count_y, group_x, own_x, begin_x, count_x,
    ) = own_tile(tables, HEADS, TILE_Y, TILE_X)  # fmt: skip
    n = tl.arange(0, BLOCK_N)
    first, last = union(begin_y, count_y)
    left, right = union(begin_x, count_x)
    query += (batch * num_own * HEADS + head) * DK
    key += (batch * num_other * HEADS + head) * DK
    value += (batch * num_other * HEADS + head) * DV
    q = load_rows(query, node, own, HEADS, DK, BLOCK_K)
    top = tl.full([TILE_Y * TILE_X], float("-inf"), tl.float32)
    total = tl.zeros([TILE_Y * TILE_X], tl.float32)
    acc = tl.zeros([TILE_Y * TILE_X, BLOCK_V], tl.float32)
    start, planes = window_of_planes(tables, plane)
    for z in range(0, planes):
        other = start + header(tables, 0, STEP) * z
        for corner in range(left, right, BLOCK_X):
            x = corner + n % BLOCK_X
            near_x = inside(x, begin_x, count_x)
            for row in tl.range(first, last, BLOCK_N // BLOCK_X, num_stages=STAGES):
                y = row + n // BLOCK_X
                near, there = other_nodes(tables, other, group_y, y, group_x, x)
                keys = load_rows(key, near, there, HEADS, DK, BLOCK_K)
                values = load_rows(value, near, there, HEADS, DV, BLOCK_V)
                logits = tl.dot(q, tl.trans(keys), input_precision=PRECISION) * scale * LOG2E
                on = near_x & inside(y, begin_y, count_y)
                if bias is not None:
                    table = bias + head * num_types
                    logits += biases(table, tables, plane, other, own_y, y, own_x, x, on)
                logits = tl.where(on, logits, float("-inf"))
                highest = tl.maximum(top, tl.max(logits, 1))
                shift = tl.where(highest == float("-inf"), 0.0, highest)
                p = tl.exp2(logits - shift[:, None])
                rescale = tl.exp2(top - shift)
                total = total * rescale + tl.sum(p, 1)
                acc = acc * rescale[:, None]
                acc = tl.dot(p.to(values.dtype), values, acc, input_precision=PRECISION)
                top = highest
    empty = total == 0.0
    divisor = tl.where(empty, 1.0, total)
    out += (batch * num_own * HEADS + head) * DV
    store_rows(out, node, own, acc / divisor[:, None], HEADS, DV, BLOCK_V)
    level = tl.where(empty, float("-inf"), (top + tl.log2(divisor)) * LN2)
    tl.store(lse + (batch * num_own + node) * HEADS + head, level, mask=own)
