"""Edits of a graph: PyG as oracle, and edge maps that attributes can follow."""

import pytest
import torch
import torch_geometric.utils as pyg
from torch import Tensor

from graphattn import CSRGraph
from graphattn.graph import edit


def pairs(graph: CSRGraph) -> list[tuple[int, int]]:
    return sorted(map(tuple, graph.edge_index().t().tolist()))


@pytest.fixture
def graph(edge_index: Tensor) -> CSRGraph:
    return CSRGraph.from_edge_index(edge_index, 41)


def test_self_loops_as_pyg(graph: CSRGraph, edge_index: Tensor) -> None:
    with_loops, edge_map = edit.add_self_loops(graph)
    assert torch.equal(with_loops.edge_index(), pyg.add_self_loops(edge_index, num_nodes=41)[0])
    assert edge_map.tolist() == [*range(graph.num_edges), *[-1] * 41]
    without, edge_map = edit.remove_self_loops(graph)
    assert torch.equal(without.edge_index(), pyg.remove_self_loops(edge_index)[0])
    assert torch.equal(edge_index[:, edge_map], without.edge_index())


def test_to_undirected_as_pyg(graph: CSRGraph, edge_index: Tensor) -> None:
    both, edge_map = edit.to_undirected(graph)
    assert pairs(both) == sorted(map(tuple, pyg.to_undirected(edge_index).t().tolist()))
    assert both.is_undirected()
    assert not graph.is_undirected()
    old = edge_index[:, edge_map]
    new = both.edge_index()
    assert torch.equal(old.sort(0).values, new.sort(0).values)


def test_coalesce_maps_old_edges_to_new(graph: CSRGraph, edge_index: Tensor) -> None:
    merged, edge_map = edit.coalesce(graph)
    assert pairs(merged) == sorted(set(pairs(graph)))
    assert torch.equal(merged.edge_index()[:, edge_map], edge_index)
    assert merged.edge_perm is None


def test_union_and_filter(graph: CSRGraph, edge_index: Tensor) -> None:
    other = CSRGraph.from_edge_index(edge_index[:, :7].flip(0), 41)
    joined, edge_map = edit.union(graph, other)
    assert torch.equal(joined.edge_index(), torch.cat([edge_index, edge_index[:, :7].flip(0)], 1))
    assert edge_map.tolist() == list(range(joined.num_edges))
    mask = torch.arange(graph.num_edges) % 3 == 0
    kept, edge_map = edit.filter_edges(graph, mask)
    assert torch.equal(kept.edge_index(), edge_index[:, mask])
    assert torch.equal(edge_map, mask.nonzero().squeeze(1))


def test_reorder(graph: CSRGraph, edge_index: Tensor) -> None:
    order = torch.randperm(41)
    moved, perm = graph.reorder(order)
    assert torch.equal(perm[moved.edge_index()], edge_index)
    ring = torch.arange(200)
    shuffled = torch.randperm(200)
    edges = torch.stack([shuffled[ring], shuffled[(ring + 1) % 200]])
    near, perm = CSRGraph.from_edge_index(edges, 200).reorder("rcm")
    spread = (near.edge_index()[0] - near.edge_index()[1]).abs()
    assert spread.max() <= 2, "a shuffled ring has bandwidth 2 in RCM order"
    assert torch.equal(perm[near.edge_index()], edges)


def test_wrong_edits(graph: CSRGraph) -> None:
    bipartite = CSRGraph.from_edge_index(torch.tensor([[0], [1]]), (3, 2))
    for call in (bipartite.add_self_loops, bipartite.to_undirected, bipartite.remove_self_loops):
        with pytest.raises(ValueError, match="square"):
            call()
    with pytest.raises(ValueError, match="one size"):
        graph.union(bipartite)
    with pytest.raises(ValueError, match="bool of shape"):
        graph.filter(torch.ones(3))
    with pytest.raises(ValueError, match="'rcm' or an integer permutation"):
        graph.reorder("degree")
    with pytest.raises(TypeError, match="edge_mask must be a bool tensor, got list"):
        graph.filter([True])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="as_graph"):
        graph.union(torch.zeros(2, 3))  # type: ignore[arg-type]
    none = CSRGraph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 4)
    assert none.reorder("rcm")[1].shape == (4,)
    with pytest.raises(ValueError, match="permutation of 41"):
        graph.reorder(torch.zeros(41, dtype=torch.int64))
