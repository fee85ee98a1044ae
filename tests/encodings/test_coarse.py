"""coarse_laplacian_pe against dense algebra and the exact encoding."""

import sys

import numpy as np
import pytest
import torch
from scipy.sparse import csgraph

import graphattn as ga
from graphattn.encodings import coarse, coarse_laplacian_pe, laplacian_pe
from graphattn.encodings.operator import symmetric_adjacency

F64 = {"dtype": torch.float64}


def board(height, width):
    return ga.GridGraph((height, width), 3, border="truncate").to_csr().remove_self_loops()


def test_one_node_per_cluster_is_the_exact_encoding(make, span):
    graph = make["random"](83, 200, seed=1)
    alone = graph.degree() == 0
    zeros = int((laplacian_pe(graph, 83, drop=None)[0] == 0).sum())
    k = zeros + 4
    values, vectors = coarse_laplacian_pe(graph, k, parts=torch.arange(83), smoothing=0, **F64)
    expected, exact = laplacian_pe(graph, k, method="dense", **F64)
    np.testing.assert_allclose(values, expected, atol=1e-9)
    np.testing.assert_allclose(span(vectors), span(exact), atol=1e-6)
    assert not vectors[alone].any()


@pytest.mark.parametrize("smoothing", [0, 3])
def test_the_definition_with_dense_algebra(make, oracle, span, smoothing):
    graph = make["random"](60, 240, seed=3)
    part = torch.arange(60) % 7
    degree = np.diag(oracle(graph, None))
    member = np.eye(7)[part.numpy()]
    p = np.sqrt(degree)[:, None] * member / np.sqrt(member.T @ degree)
    matrix = oracle(graph)
    mu, y = np.linalg.eigh(p.T @ matrix @ p)
    start = np.linalg.matrix_power(np.eye(60) - matrix / 2, smoothing) @ p @ y[:, 1:5]
    values, vectors = coarse_laplacian_pe(graph, 4, parts=part, smoothing=smoothing, **F64)
    np.testing.assert_allclose(span(vectors), span(start), atol=1e-8)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(4), atol=1e-9)
    vectors = vectors.numpy()
    np.testing.assert_allclose((vectors * (matrix @ vectors)).sum(0), values, atol=1e-9)
    if not smoothing:
        np.testing.assert_allclose(values, mu[1:5], atol=1e-9)


def test_close_to_the_exact_encoding_on_a_mesh_and_never_below():
    graph = board(60, 70)
    exact, true = laplacian_pe(graph, 4, **F64)
    values, vectors = coarse_laplacian_pe(graph, 4, parts=120, **F64)
    rough, _ = coarse_laplacian_pe(graph, 4, parts=120, smoothing=0, **F64)
    assert (values >= exact - 1e-12).all() and (values <= 1.6 * exact).all()
    assert (values < rough).all()
    assert (true.T @ vectors).norm(dim=0).min() > 0.9


def test_components_isolated_nodes_and_few_clusters(make):
    graph = make["disjoint"](make["path"](30), make["cycle"](20), make["undirected"]([], 5))
    part = torch.cat([torch.zeros(30), torch.ones(20), torch.full((5,), 2)]).long()
    values, vectors = coarse_laplacian_pe(graph, 4, parts=part, **F64)
    assert abs(float(values[0])) < 1e-12 and values[1:].isnan().all()
    assert not vectors[50:].any() and not vectors[:, 1:].any()
    scaled = vectors[:50, 0] / graph.degree()[:50].double().sqrt()
    assert scaled[:30].std() < 1e-12 and scaled[30:].std() < 1e-12
    assert scaled[0] * scaled[-1] < 0


@pytest.mark.parametrize("nodes", [0, 1, 9])
def test_small_and_empty_graphs(make, nodes):
    values, vectors = coarse_laplacian_pe(make["undirected"]([], nodes), 2)
    assert vectors.shape == (nodes, 2) and not vectors.any() and values.isnan().all()


@pytest.mark.parametrize("nodes", [30, 200, 700])
def test_small_graphs_have_enough_clusters_by_default(make, nodes):
    graph = make["random"](nodes, 4 * nodes, seed=2)
    exact, _ = laplacian_pe(graph, 5, drop="first", **F64)
    values, vectors = coarse_laplacian_pe(graph, 5, **F64)
    assert (values >= exact - 1e-12).all() and (values <= 2 * exact + 1e-12).all()
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(5), atol=1e-9)


def test_clusters_are_the_nearest_seeds_nodes(make):
    """Distances by scipy's search from each seed alone."""
    graph = make["disjoint"](make["random"](200, 350, seed=4), make["path"](90))
    adjacency = symmetric_adjacency(graph, None)
    cluster = coarse._nearest_seed(adjacency, 12)
    seeds = np.random.default_rng(0).permutation(290)[:12]
    np.testing.assert_array_equal(cluster[seeds], np.arange(12))
    far = csgraph.shortest_path(adjacency, unweighted=True, indices=seeds)
    inside = cluster < 12
    assert (inside == np.isfinite(far.min(axis=0))).all()
    np.testing.assert_array_equal(far[cluster[inside], inside], far.min(axis=0)[inside])
    for number in np.unique(cluster):
        members = np.flatnonzero(cluster == number)
        assert csgraph.connected_components(adjacency[members][:, members])[0] == 1


def test_clusters_of_a_long_path_in_few_passes(make):
    """Not one pass over the edges for each of the thousands of steps away from a seed."""
    adjacency = symmetric_adjacency(make["path"](5000), None)
    calls = []
    sys.setprofile(lambda frame, event, what: calls.append(event))
    try:
        coarse._nearest_seed(adjacency, 1)
    finally:
        sys.setprofile(None)
    assert len(calls) < 5000


def test_an_unconverged_cluster_graph_warns(monkeypatch):
    solve = coarse.solve
    monkeypatch.setattr(coarse, "solve", lambda *a, **k: (*solve(*a, **k)[:2], 0.25))
    with pytest.warns(RuntimeWarning, match=r"cluster graph.*residual 2.5e-01") as caught:
        coarse_laplacian_pe(board(20, 30), 3)
    assert caught[0].filename == __file__


def test_weights_and_dtypes(make):
    graph = make["random"](40, 150, seed=5)
    doubled = ga.CSRGraph.from_edge_index(graph.edge_index().repeat(1, 2), 40)
    part = torch.arange(40) // 5
    weight = torch.full((300,), 2.0)
    expected = coarse_laplacian_pe(doubled, 3, parts=part)
    found = coarse_laplacian_pe(graph, 3, parts=part, edge_weight=weight)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": 0}, ValueError, "k must be at least 1"),
        ({"smoothing": -1}, ValueError, "smoothing must be at least 0"),
        ({"parts": 2.5}, TypeError, "parts must be a number"),
        ({"parts": 100}, ValueError, r"parts must be in \[1, 9\]"),
        ({"parts": torch.zeros(9)}, TypeError, "parts must hold integers"),
        ({"parts": torch.zeros(8).long()}, ValueError, "one cluster number"),
        ({"parts": torch.full((9,), -1)}, ValueError, "minimum -1"),
    ],
)
def test_wrong_arguments(make, options, error, message):
    with pytest.raises(error, match=message):
        coarse_laplacian_pe(make["path"](9), **{"k": 2, **options})


def test_directed_graph():
    with pytest.raises(ValueError, match=r"to_undirected\(\)"):
        coarse_laplacian_pe(torch.tensor([[0, 1], [1, 2]]), 1)
