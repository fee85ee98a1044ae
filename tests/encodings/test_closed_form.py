"""Closed forms against dense algebra, and graphs that only look like one."""

import numpy as np
import pytest
import torch

import graphattn as ga
from graphattn.encodings import laplacian_pe, solvers
from graphattn.encodings.closed_form import closed_pairs
from graphattn.encodings.operator import build_laplacian, symmetric_adjacency


def product(height, width, down, within):
    """A grid numbered row by row whose axes are paths or cycles."""
    index = torch.arange(height * width).view(height, width)
    pairs = [
        torch.stack([a.reshape(-1), b.reshape(-1)])
        for a, b in ((index[1:], index[:-1]), (index[:, 1:], index[:, :-1]))
    ]
    pairs += [torch.stack([index[0], index[-1]])] * down
    pairs += [torch.stack([index[:, 0], index[:, -1]])] * within
    edges = torch.cat(pairs, dim=1)
    return ga.as_graph(torch.cat([edges, edges.flip(0)], dim=1), height * width)


def complete(nodes):
    full = torch.ones(nodes, nodes) - torch.eye(nodes)
    return ga.as_graph(full.nonzero().t(), nodes)


def shuffled(graph):
    order = torch.randperm(graph.num_rows, generator=torch.Generator().manual_seed(1))
    return ga.as_graph(order[graph.edge_index()], graph.num_rows)


def closed(graph, normalization, count, weight=None):
    adjacency = symmetric_adjacency(graph, weight)
    return closed_pairs(build_laplacian(adjacency, normalization is not None), count)


def check(oracle, graph, normalization, factor=1.0):
    count = min(11, graph.num_rows - 1)
    weight = None if factor == 1.0 else torch.full((graph.num_edges,), factor)
    values, vectors = closed(graph, normalization, count, weight)
    scale = 1.0 if normalization else factor
    matrix = oracle(graph, normalization) * scale
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix)[1 : count + 1], atol=1e-11)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(count), atol=1e-11)
    np.testing.assert_allclose(matrix @ vectors, vectors * values, atol=1e-11)


@pytest.mark.parametrize("normalization", ["sym", None])
@pytest.mark.parametrize("nodes", [4, 5, 12, 31])
@pytest.mark.parametrize("shape", ["path", "cycle", "complete"])
def test_lines_and_complete_graphs(make, oracle, shape, nodes, normalization):
    graph = complete(nodes) if shape == "complete" else make[shape](nodes)
    check(oracle, graph, normalization)
    check(oracle, shuffled(graph), normalization)
    check(oracle, graph, normalization, factor=2.5)


@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (7, 5), (6, 9)])
@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize("within", [False, True])
def test_products(oracle, shape, down, within):
    graph = product(*shape, down, within)
    check(oracle, graph, None)
    check(oracle, graph, None, factor=0.3)
    if down and within:
        check(oracle, graph, "sym")
    else:
        assert closed(graph, "sym", 3) is None


def test_graphs_that_only_look_like_one(make):
    grid = product(6, 5, False, False)
    assert closed(shuffled(grid), None, 3) is None
    edges = grid.edge_index()
    inner = ((edges == 13) | (edges == 14)).sum(0) == 2
    assert closed(ga.as_graph(edges[:, ~inner], 30), None, 3) is None
    chord = torch.cat([edges, torch.tensor([[12, 18], [18, 12]])], dim=1)
    assert closed(ga.as_graph(chord, 30), None, 3) is None
    cycle = make["cycle"](30)
    row, column = cycle.edge_index()
    weight = 1.0 + (row + column == 1).float()
    assert closed(cycle, None, 3, weight) is None and closed(cycle, "sym", 3, weight) is None
    assert closed(make["disjoint"](make["path"](9), make["path"](9)), None, 3) is None
    assert closed(make["random"](30, 90), "sym", 3) is None


@pytest.mark.parametrize("normalization", ["sym", "rw", None])
def test_auto_takes_them_and_agrees_with_the_iteration(make, span, monkeypatch, normalization):
    graph = shuffled(make["path"](900))
    options = {"normalization": normalization, "dtype": torch.float64}
    expected, exact = laplacian_pe(graph, 5, method="shift-invert", tol=1e-9, **options)
    monkeypatch.setattr(solvers, "DeviceLaplacian", None)  # no iteration
    values, vectors = laplacian_pe(graph, 5, **options)
    np.testing.assert_allclose(values, expected, rtol=1e-7)
    np.testing.assert_allclose(span(vectors), span(exact), atol=1e-5)


def test_a_large_torus_at_once():
    values, vectors = laplacian_pe(product(300, 300, True, True), 4, dtype=torch.float64)
    expected = (1 - np.cos(2 * np.pi / 300)) / 2
    np.testing.assert_allclose(values, np.full(4, expected), rtol=1e-9)
    assert vectors.shape == (90_000, 4)
