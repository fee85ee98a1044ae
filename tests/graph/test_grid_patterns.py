"""Window partitions and their aliases; how a graph fills tiles."""

import pytest
import torch

import graphattn as ga
from graphattn import CSRGraph, GridGraph
from tests.graph.test_grid import lists


def test_maxvit_block_and_grid_attention() -> None:
    """Both are sliding windows in disguise, and equal the partitions by reshaping."""
    nodes = torch.arange(8 * 12).view(8, 12)
    blocks = nodes.view(2, 4, 3, 4).transpose(1, 2).reshape(6, 16)
    spread = nodes.view(4, 2, 4, 3).permute(1, 3, 0, 2).reshape(6, 16)
    for graph, groups in (
        (ga.grid_blocks((8, 12), 4), blocks),
        (GridGraph((8, 12), 4, stride=4), blocks),
        (ga.grid_dilated_blocks((8, 12), 4), spread),
    ):
        found = lists(graph)
        for group in groups:
            assert all(found[node] == sorted(group.tolist()) for node in group)
    with pytest.raises(ValueError, match="axis 1 must divide its extent 10"):
        ga.grid_dilated_blocks((8, 10), 4)


def test_shifted_windows_are_the_partition_that_roll_and_mask_make() -> None:
    height, width, w, shift = 8, 12, 4, 2
    nodes = torch.arange(height * width).view(height, width)
    rolled = nodes.roll((-shift, -shift), (0, 1))
    region = torch.zeros(height, width)
    for y in (slice(0, -w), slice(-w, -shift), slice(-shift, None)):
        for x in (slice(0, -w), slice(-w, -shift), slice(-shift, None)):
            region[y, x] = region.max() + 1
    found = lists(ga.grid_blocks((height, width), w, shift))
    cut = [t.unfold(0, w, w).unfold(1, w, w).reshape(-1, w * w) for t in (rolled, region)]
    for window, part in zip(*cut, strict=True):
        for node, own in zip(window, part, strict=True):
            assert found[node] == sorted(window[part == own].tolist())


def test_blocks_that_do_not_divide_are_smaller_at_the_end() -> None:
    assert lists(ga.grid_blocks(7, 3)) == [[0, 1, 2]] * 3 + [[3, 4, 5]] * 3 + [[6]]
    assert lists(ga.grid_blocks(7, 3, 1)) == [[0]] + [[1, 2, 3]] * 3 + [[4, 5, 6]] * 3


def test_halo_is_a_block_and_its_surroundings() -> None:
    assert lists(ga.halo(8, 4, 1)) == [[0, 1, 2, 3, 4]] * 4 + [[3, 4, 5, 6, 7]] * 4
    inside = lists(GridGraph((16, 16), 8, stride=4))
    halo = lists(ga.halo((16, 16), 4, 2))
    for y in range(4, 12):
        assert halo[16 * y + 4 : 16 * y + 12] == inside[16 * y + 4 : 16 * y + 12]
    assert int(ga.halo((16, 16), 4, 2).degree().min()) == 36


def test_complete_graph() -> None:
    graph = ga.complete(3, 2)
    assert lists(graph) == [[0, 1]] * 3
    assert (graph.num_rows, graph.num_cols, graph.num_edges) == (3, 2, 6)
    indptr = graph.cols_layout("cpu").indptr
    assert indptr.shape == (3,)
    with pytest.raises(ValueError, match="num_cols"):
        ga.complete(3, 0)


@pytest.mark.parametrize(
    ("graph", "tiles"),
    [
        (GridGraph(23, 5), ((4,), (3,))),
        (GridGraph((9, 14), (3, 5), is_causal=(True, False)), ((4, 4), (2, 8))),
        (GridGraph((6, 8), 3, border="wrap"), ((2, 2), (3, 4))),
        (ga.grid_blocks((8, 8), 4), ((4, 4), (4, 4))),
        (GridGraph((8, 8), 2, dilation=4), ((2, 2), (2, 2))),
    ],
    ids=repr,
)
def test_tile_statistics_equal_a_count_over_the_edges(
    graph: GridGraph, tiles: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    csr = graph.to_csr()
    shape, (query_tile, key_tile) = torch.tensor(graph.shape), map(torch.tensor, tiles)
    dense = torch.zeros(csr.num_rows, csr.num_cols, dtype=torch.bool)
    dense[csr.row_index(), csr.indices.long()] = True

    def tile_of(node: torch.Tensor, tile: torch.Tensor) -> torch.Tensor:
        place = torch.stack(torch.unravel_index(node, graph.shape), -1) // tile
        return (place * torch.tensor([1000**n for n in range(len(shape))])).sum(-1)

    nodes = torch.arange(csr.num_rows)
    by_row, by_col = tile_of(nodes, query_tile), tile_of(nodes, key_tile)
    visited = full = 0
    for row in by_row.unique():
        for col in by_col.unique():
            part = dense[by_row == row][:, by_col == col]
            visited, full = visited + bool(part.any()), full + bool(part.all())
    found = ga.tile_stats(graph, *tiles)
    assert found[:2] == (visited, full)
    products = visited * int(query_tile.prod()) * int(key_tile.prod())
    assert found.useful == pytest.approx(csr.num_edges / products)


def test_block_sparse_strides_fill_their_tiles() -> None:
    """The generative-model sizes that NATTEN names are dense with its tiles and strides."""
    flat = ga.tile_stats(GridGraph((256, 256), 80, stride=16), (16, 16), (16, 8))
    video = ga.tile_stats(
        GridGraph((30, 48, 80), (18, 24, 24), stride=(16, 8, 8)), (2, 8, 8), (2, 8, 8)
    )
    for stats in (flat, video):
        assert stats.visited == stats.dense and stats.useful == 1.0
    assert ga.tile_stats(GridGraph((256, 256), 80), (16, 16), (16, 8)).useful < 0.75


def test_tile_statistics_of_any_graph() -> None:
    graph = CSRGraph.from_edge_index(torch.tensor([[0, 1, 0, 1, 1, 4], [0, 0, 1, 1, 1, 2]]), (5, 3))
    stats = ga.tile_stats(graph, 2, 2)
    assert stats[:2] == (2, 2)  # the tile of row 2 and column 4 is one edge, and the only one
    assert stats.useful == pytest.approx(5 / 8)
    grid = GridGraph((4, 4), 2, stride=2)
    assert ga.tile_stats(grid, 4, 4) == ga.tile_stats(grid.to_csr(), 4, 4)
