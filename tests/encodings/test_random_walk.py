"""random_walk_pe against dense powers and PyG."""

import pytest
import torch

import graphattn as ga
from graphattn.encodings import random_walk_pe


def dense(graph, k, weight=None):
    source, target = graph.edge_index()
    adjacency = torch.zeros(graph.num_rows, graph.num_rows, dtype=torch.float64)
    weight = torch.ones(graph.num_edges) if weight is None else weight
    adjacency.index_put_((source, target), weight.double(), accumulate=True)
    degree = adjacency.sum(1, keepdim=True)
    step = adjacency / torch.where(degree > 0, degree, 1.0)
    return torch.stack([torch.matrix_power(step, t).diagonal() for t in range(1, k + 1)], dim=1)


@pytest.mark.parametrize("k", [1, 2, 7])
@pytest.mark.parametrize("edges", [0, 20, 300])
@pytest.mark.parametrize("max_entries", [1, 500, 1 << 24])
@pytest.mark.parametrize("directed", [False, True])
def test_dense_powers(make, k, edges, max_entries, directed):
    graph = make["random"](41, edges, seed=edges)
    if directed:
        graph = ga.CSRGraph.from_edge_index(graph.edge_index()[:, edges // 3 :], 41)
    pe = random_walk_pe(graph, k, max_entries=max_entries, dtype=torch.float64)
    torch.testing.assert_close(pe, dense(graph, k), atol=1e-12, rtol=0)


def test_weights_in_the_callers_order(make):
    graph = make["random"](19, 60, seed=4)
    weight = torch.rand(120)
    pe = random_walk_pe(graph, 5, edge_weight=weight, dtype=torch.float64)
    torch.testing.assert_close(pe, dense(graph, 5, weight), atol=1e-12, rtol=0)


@pytest.mark.parametrize("size", [0.1, 1e-320, 1e6])
def test_the_unit_of_weights_does_not_matter(make, size):
    graph = make["random"](19, 60, seed=4)
    weight = torch.full((120,), size, dtype=torch.float64)
    pe = random_walk_pe(graph, 5, edge_weight=weight, dtype=torch.float64)
    torch.testing.assert_close(pe, dense(graph, 5), atol=1e-12, rtol=0)
    assert not random_walk_pe(graph, 5, edge_weight=0 * weight).any()


@pytest.mark.parametrize("nodes", [150, 2100])
def test_pyg_on_both_of_its_code_paths(make, nodes):
    from torch_geometric.data import Data
    from torch_geometric.transforms import AddRandomWalkPE

    edge_index = make["random"](nodes, 2 * nodes, seed=1).coalesce().edge_index()
    data = Data(edge_index=edge_index[:, ::2], num_nodes=nodes)
    expected = AddRandomWalkPE(5)(data).random_walk_pe
    pe = random_walk_pe(ga.as_graph(data.edge_index, nodes), 5)
    torch.testing.assert_close(pe, expected, atol=1e-6, rtol=0)


def test_a_mesh_stays_sparse(make):
    """A cycle of n nodes: returns after 2 a steps with binomial(2 a, a) / 4^a."""
    pe = random_walk_pe(make["cycle"](30_001), 6, dtype=torch.float64)
    row = torch.tensor([0, 1 / 2, 0, 3 / 8, 0, 5 / 16], dtype=torch.float64)
    torch.testing.assert_close(pe, row.expand(30_001, 6), atol=1e-12, rtol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.5])
def test_weights_that_are_no_weights(make, bad):
    with pytest.raises(ValueError, match="edge_weight must be finite and not negative"):
        random_walk_pe(make["path"](4), 2, edge_weight=torch.tensor([1.0, 1, bad, 1, 1, 1]))


def test_wrong_arguments(make):
    with pytest.raises(TypeError, match=r"k must be an integer, got 2.5"):
        random_walk_pe(make["path"](4), 2.5)
    with pytest.raises(ValueError, match="k must be at least 1"):
        random_walk_pe(make["path"](4), 0)
    bipartite = ga.CSRGraph.from_edge_index(torch.tensor([[0], [1]]), (2, 3))
    with pytest.raises(ValueError, match="square graph"):
        random_walk_pe(bipartite, 2)
