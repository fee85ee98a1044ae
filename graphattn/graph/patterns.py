"""Window partitions and other patterns on grids; how well a graph fills tiles."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from graphattn.graph.axes import Axis, bounds
from graphattn.graph.checks import is_whole
from graphattn.graph.csr import CSRGraph
from graphattn.graph.grid import GridGraph, check_shape, per_axis
from graphattn.graph.product import ProductGraph

Sizes = Sequence[int] | int
P = TypeVar("P", bound=ProductGraph)


def grid_blocks(shape: Sizes, window: Sizes, shift: Sizes = 0) -> ProductGraph:
    """Windows of a partition attend within themselves: Swin's windows, MaxViT's block attention.

    Args:
        shape: Extents of 1, 2 or 3 axes.
        window: Extent of a window per axis; the last one may be smaller.
        shift: Where windows begin, modulo ``window``. A shifted partition has smaller windows at
            both borders, which is what Swin's roll and mask compute; no mask is needed.

    Papers: Liu et al., Swin Transformer (2021); Tu et al., MaxViT (2022); Zhang et al., StyleSwin
    (2022).
    """
    return _blocks(shape, window, shift, 0)


def halo(shape: Sizes, block: Sizes, halo: Sizes) -> ProductGraph:
    """The queries of a block attend to the block and ``halo`` nodes around it (HaloNet, HAT).

    What is outside of the grid is dropped; HAT's overlapping cross attention, which pads with
    zeros, is this with a ``null_logit``. In the interior it is
    ``GridGraph(shape, block + 2 * halo, stride=block)``.

    Papers: Vaswani et al., HaloNet (2021); Chen et al., HAT (2023).
    """
    return _blocks(shape, block, 0, halo)


def _blocks(shape: Sizes, window: Sizes, shift: Sizes, halo: Sizes) -> ProductGraph:
    extents = check_shape(shape)
    windows = per_axis("window", window, len(extents))
    shifts = per_axis("shift", shift, len(extents), least=-(2**31))
    halos = per_axis("halo", halo, len(extents), least=0)
    axes = (
        Axis(x, x, w, rule="blocks", shift=s % w, halo=h)
        for x, w, s, h in zip(extents, windows, shifts, halos, strict=True)
    )
    return ProductGraph(tuple(axes))


def grid_dilated_blocks(shape: Sizes, grid: Sizes) -> GridGraph:
    """MaxViT's grid attention: ``grid`` nodes per axis, evenly spread, attend to one another.

    Raises:
        ValueError: an extent is not a multiple of its ``grid``.
    """
    extents = check_shape(shape)
    sizes = per_axis("grid", grid, len(extents))
    for axis, (extent, size) in enumerate(zip(extents, sizes, strict=True)):
        if extent % size:
            raise ValueError(
                f"grid of axis {axis} must divide its extent {extent}, got {size}; pad the grid"
            )
    return GridGraph(extents, sizes, dilation=[x // g for x, g in zip(extents, sizes, strict=True)])


def complete(num_rows: int, num_cols: int | None = None) -> ProductGraph:
    """Every one of ``num_rows`` queries attends to all ``num_cols`` keys; no edge is stored."""
    cols = num_rows if num_cols is None else num_cols
    for name, count in (("num_rows", num_rows), ("num_cols", cols)):
        if not is_whole(count) or count < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {count!r}")
    return ProductGraph((Axis(num_rows, cols, rule="all"),))


def shared(build: Callable[..., P], *arguments: Any) -> P:
    """``build(*arguments)``; eager calls with the same ones share the graph and what it cached."""
    if torch.compiler.is_compiling():
        return build(*arguments)
    arguments = tuple(tuple(a) if isinstance(a, list) else a for a in arguments)
    try:
        hash(arguments)
    except TypeError:
        return build(*arguments)  # which says what is wrong with an array
    made: P = _known(build, arguments, _kinds(arguments))
    return made


@lru_cache(maxsize=256)
def _known(build: Callable[..., P], arguments: tuple[Any, ...], kinds: Any) -> P:
    return build(*arguments)


def _kinds(value: Any) -> Any:
    """Types of what is in a tuple: 3, 3.0 and True are equal, but not all of them are windows."""
    return tuple(map(_kinds, value)) if isinstance(value, tuple) else type(value)


class TileStats(NamedTuple):
    """How a graph fills tiles of queries by keys.

    ``visited`` tiles hold an edge, ``dense`` ones are edges throughout; ``useful`` is the share of
    the products in visited tiles that are edges.
    """

    visited: int
    dense: int
    useful: float


def tile_stats(graph: CSRGraph | ProductGraph, query_tile: Sizes, key_tile: Sizes) -> TileStats:
    """Count the tiles that a tiled kernel would visit; duplicate edges count once.

    Args:
        graph: Any graph.
        query_tile: Queries of a tile: a number of consecutive nodes, or one number per axis of a
            grid.
        key_tile: Keys of a tile, likewise.

    On grids everything is a product over the axes, so nothing of the size of E is made.
    """
    if isinstance(graph, ProductGraph) and not (
        isinstance(query_tile, int) and isinstance(key_tile, int) and len(graph.axes) > 1
    ):
        dims = len(graph.axes)
        tiles = zip(
            per_axis("query_tile", query_tile, dims),
            per_axis("key_tile", key_tile, dims),
            strict=True,
        )
        parts = [_tiles_of_axis(a, *t) for a, t in zip(graph.axes, tiles, strict=True)]
        return TileStats(*map(prod, zip(*parts, strict=True)))
    csr = graph.to_csr() if isinstance(graph, ProductGraph) else graph
    (rows,), (cols,) = per_axis("query_tile", query_tile, 1), per_axis("key_tile", key_tile, 1)
    pairs = csr.row_index() * csr.num_cols + csr.indices
    pairs = torch.unique_consecutive(pairs)
    return _count(
        pairs // csr.num_cols, pairs % csr.num_cols, csr.num_rows, csr.num_cols, rows, cols
    )


def _tiles_of_axis(axis: Axis, rows: int, cols: int) -> tuple[int, int, float]:
    a, b = bounds(axis)
    query = torch.repeat_interleave(torch.arange(axis.rows), b - a)
    first = torch.repeat_interleave((b - a).cumsum(0) - (b - a), b - a)
    place = a[query] + torch.arange(query.numel()) - first
    group = query % axis.dilation
    size = (axis.cols - group + axis.dilation - 1) // axis.dilation
    return _count(query, group + axis.dilation * (place % size), axis.rows, axis.cols, rows, cols)


def _count(
    query: Tensor, key: Tensor, num_rows: int, num_cols: int, rows: int, cols: int
) -> TileStats:
    """Statistics of distinct edges."""
    per_row = -(-num_cols // cols)
    tile, held = torch.unique(query // rows * per_row + key // cols, return_counts=True)
    full = torch.minimum(num_rows - tile // per_row * rows, torch.tensor(rows))
    full = full * torch.minimum(num_cols - tile % per_row * cols, torch.tensor(cols))
    useful = query.numel() / max(tile.numel() * rows * cols, 1)
    return TileStats(tile.numel(), int((held == full).sum()), useful)
