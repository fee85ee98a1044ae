"""Launchers of the tile kernels: attention over grids whose edges are never written down."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from graphattn.kernels.gpu.launch import launch_with, on_device_of, warp_size
from graphattn.kernels.gpu.tile_backward import tile_backward_cols, tile_backward_rows
from graphattn.kernels.gpu.tile_table import tile_table_gradient
from graphattn.kernels.gpu.tiles import tile_forward
from graphattn.kernels.gpu.tuning import power_of_two
from graphattn.kernels.grid import AXES, EXTENT, STEP, WIDTH
from graphattn.kernels.layout import Layout
from graphattn.kernels.score import Gradients, Results, Score

TILE = 64
"""Nodes of a tile."""
TABLE_WARPS, TABLE_BLOCK = 4, 32
"""For a table's gradient: warps of a program, and queries that it takes at a time."""
SHARES, SMALLEST_SHARE = 64, 1024
"""Into how many shares the queries are cut for a table's gradient, and their least size."""


class Tiles(NamedTuple):
    """Shape of a tile and of the blocks that it meets, and the number of tiles of a grid."""

    y: int
    x: int
    block: int
    block_x: int
    count: int


def tiles_of(plan: Tensor, block: int) -> Tiles:
    """Tiles for one orientation; ``plan``: its headers [3, 8], on the host.

    A tile of x nodes with windows of k meets x + k - 1 columns, and up to k // 2 more at a border;
    x is chosen so that these mostly fill 16 or 32. Sequences have no rows to tile.
    """
    heads = plan.tolist()
    window = (heads[2][WIDTH] + 1) // 2
    if heads[1][EXTENT] == 1:
        x, block_x = TILE, block
    elif window <= 9:
        x, block_x = 8, 16
    elif window <= 13:
        x, block_x = 4, 16
    else:
        x, block_x = 16 if window <= 17 else 8, 32
    y, count = TILE // x, heads[0][EXTENT]
    for head, size in zip(heads[1:], (y, x), strict=True):
        longest = -(-head[EXTENT] // head[STEP])
        count *= head[STEP] * -(-longest // size)
    return Tiles(y, x, block, min(block_x, block), count)


class Tiling(NamedTuple):
    """How a kernel goes over tiles: nodes met at a time, pipeline stages, warps."""

    block: int
    stages: int
    warps: int


def tiling(kind: str, width: int, itemsize: int, biased: bool) -> Tiling:
    """Configuration for padded heads of ``width``; the best of those measured on an H200.

    Two warps beat four by a fifth to a quarter in the forward pass of heads of up to 128 bytes, and
    in the pass over columns of those in half precision, although the widest products need four and
    a few registers spill.
    """
    if biased:  # places in a table take registers too
        return Tiling(16, 1, 4)
    wide = width * itemsize > 128
    if itemsize == 4:
        small = Tiling(16, 1, 4) if wide else Tiling(32, 1, 4)
        return Tiling(16, 2, 2) if kind == "forward" and not wide else small
    if wide:
        return Tiling(32, 2, 4)
    return Tiling(32, 3, 4) if kind == "rows" else Tiling(32, 2, 2)


def _arguments(
    kind: str, query: Tensor, key: Tensor, value: Tensor, layout: Layout, score: Score
) -> tuple[dict[str, Any], int, int]:
    """What all tile kernels take, and numbers of programs and warps; ``layout``: who owns tiles."""
    batch, _, heads, width = query.shape
    padded = [max(power_of_two(t.shape[3]), 16) for t in (query, value)]
    size, biased = query.element_size(), score.bias is not None
    block, stages, warps = tiling(kind, max(padded), size, biased)
    tiles = tiles_of(layout.plan[0][:AXES], block)
    assert layout.tables is not None
    arguments = {
        "query": query,
        "key": key,
        "value": value,
        "bias": None if score.bias is None else score.bias.contiguous(),
        "num_types": 0 if score.bias is None else score.bias.shape[1],
        "tables": layout.tables[0],
        "num_own": layout.indptr.shape[0] - 1,
        "scale": score.scale,
        "HEADS": heads,
        "DK": width,
        "DV": value.shape[3],
        "BLOCK_K": padded[0],
        "BLOCK_V": padded[1],
        "TILE_Y": tiles.y,
        "TILE_X": tiles.x,
        "BLOCK_N": tiles.block,
        "BLOCK_X": tiles.block_x,
        "STAGES": stages,
        # Three products of TensorFloat-32 are as exact as one of float32, which has no fast path
        # on NVIDIA; AMD has one.
        "PRECISION": "ieee" if query.element_size() == 2 or warp_size() == 64 else "tf32x3",
    }
    return arguments, batch * heads * tiles.count, warps


def attention_forward(
    query: Tensor, key: Tensor, value: Tensor, rows: Layout, score: Score
) -> Results:
    """Softmax attention of every node over its window, [B, N, H, D] each; see ``Results``.

    Of the score's options there may be a bias table of relative positions.
    """
    out = value.new_empty((*query.shape[:3], value.shape[3]))
    lse = query.new_empty(query.shape[:3], dtype=torch.float32)
    arguments, programs, warps = _arguments("forward", query, key, value, rows, score)
    with on_device_of(query):
        own = {"out": out, "lse": lse, "num_other": key.shape[1]}
        launch_with(tile_forward, programs, arguments | own, warps)
    return Results(out=out, lse=lse)


def attention_backward(
    grads: Results,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    done: Results,
    rows: Layout,
    cols: Layout,
    score: Score,
    table: bool = False,
) -> Gradients:
    """Gradients of ``attention_forward``; allocates them and one number per row and head.

    ``table``: whether that of the bias is wanted; it is summed in up to 64 copies of the table.
    """
    assert done.lse is not None
    found = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    common = {"grad_out": grads.out, "lse": done.lse, "delta": torch.empty_like(done.lse)}
    with on_device_of(query):
        arguments, programs, warps = _arguments("rows", query, key, value, rows, score)
        own = common | {"grad_query": found[0], "num_other": key.shape[1]}
        own |= {"out": done.out, "grad_lse": grads.lse}
        launch_with(tile_backward_rows, programs, arguments | own, warps)
        arguments, programs, warps = _arguments("columns", query, key, value, cols, score)
        own = common | {"grad_key": found[1], "grad_value": found[2], "num_other": query.shape[1]}
        launch_with(tile_backward_cols, programs, arguments | own, warps)
        bias = _table_gradient(arguments, common, rows, query) if table else None
    return Gradients(*found, bias, None, None, None)


def _table_gradient(
    arguments: dict[str, Any], common: dict[str, Tensor], rows: Layout, query: Tensor
) -> Tensor:
    """Gradient of the bias table [H, T] in float32."""
    table, items = arguments["bias"], query.shape[0] * query.shape[1]
    shares = max(1, min(SHARES, items // SMALLEST_SHARE))
    share = -(-items // shares)
    parts = table.new_empty((shares, *table.shape), dtype=torch.float32)
    names = ("query", "key", "value", "bias", "num_types", "scale", "HEADS", "DK", "DV")
    own = {name: arguments[name] for name in (*names, "BLOCK_K", "BLOCK_V")} | common
    assert rows.tables is not None
    own |= {
        "tables": rows.tables[0],
        "num_own": query.shape[1],
        "num_other": arguments["key"].shape[1],
        "parts": parts,
        "items": items,
        "share": share,
        "BLOCK_N": TABLE_BLOCK,
    }
    launch_with(tile_table_gradient, parts.numel(), own, TABLE_WARPS)
    return parts.sum(0)
