"""laplacian_pe on graphs of communities: the answer by way of the communities, and its checks."""

import numpy as np
import pytest
import torch

import graphattn as ga
from graphattn.datasets.generated import communities, grid
from graphattn.encodings import communities as way
from graphattn.encodings import community_space as space
from graphattn.encodings import filters, laplacian_pe, solvers
from graphattn.kernels.cpu import propagate

F64 = {"dtype": torch.float64}


@pytest.fixture(autouse=True)
def on_small_graphs(monkeypatch):
    monkeypatch.setattr(way, "_SMALLEST", 0)


@pytest.fixture
def taken(monkeypatch):
    """Whether each solve went by the communities."""
    found = []

    def watched(*arguments):
        answer = way.community_pairs(*arguments)
        found.append(answer is not None)
        return answer

    monkeypatch.setattr(solvers, "community_pairs", watched)
    return found


def clear(nodes=2000, count=20, seed=0):
    return ga.as_graph(communities(nodes, count, 18, 2, seed=seed)[0], nodes)


@pytest.mark.parametrize("normalization", ["sym", "rw", None])
@pytest.mark.parametrize("k", [1, 4, 12])
def test_values_and_residual(oracle, taken, normalization, k):
    graph = clear()
    values, vectors = laplacian_pe(graph, k, tol=2e-2, normalization=normalization, **F64)
    matrix = oracle(graph, normalization)
    exact = np.linalg.eigvalsh(oracle(graph, "sym" if normalization else None))[1 : k + 1]
    residual = np.linalg.norm(matrix @ vectors.numpy() - vectors.numpy() * values.numpy(), axis=0)
    assert residual.max() <= 1.2 * 2e-2 * float(values[-1])  # "rw": in another norm
    assert (values.numpy() - exact <= 4 * 2e-2 * exact[-1]).all()
    assert (values.numpy() >= exact - 1e-6).all()
    if normalization != "rw":
        gram = vectors.T @ vectors
        torch.testing.assert_close(gram, torch.eye(k, **F64), atol=1e-9, rtol=0)
    assert taken == [True]


def test_several_components_isolated_nodes_and_weights(make, oracle, taken):
    graph = make["disjoint"](clear(), clear(1200, 10, seed=1), make["undirected"]([], 3))
    values, vectors = laplacian_pe(graph, 9, tol=2e-2, drop="all_zero", **F64)
    matrix = oracle(graph)
    exact = np.linalg.eigvalsh(matrix)
    exact = exact[exact > 1e-9][:9]
    assert (np.abs(values.numpy() - exact) <= 4 * 2e-2 * exact[-1]).all()
    residual = matrix @ vectors.numpy() - vectors.numpy() * values.numpy()
    assert np.linalg.norm(residual, axis=0).max() <= 2e-2 * float(values[-1])
    assert taken == [True]


@pytest.mark.parametrize("merged", [2, 5])
@pytest.mark.parametrize("inside", [18, 108])
def test_a_community_that_propagation_missed_is_noticed(monkeypatch, oracle, taken, merged, inside):
    """The vector that tells the merged ones apart is outside their span, however far the rest."""
    edges, truth = communities(2400, 20, inside, inside / 9)
    given = np.unique(np.where(truth < merged, 0, truth), return_inverse=True)[1]
    monkeypatch.setattr(propagate, "propagate_labels", lambda *_: given)
    graph = ga.as_graph(edges, 2400)
    values, _ = laplacian_pe(graph, 6, tol=2e-2, **F64)
    exact = np.linalg.eigvalsh(oracle(graph))[1:7]
    assert (np.abs(values.numpy() - exact) <= 4 * 2e-2 * exact[-1]).all()
    assert taken == [False]


@pytest.mark.parametrize("degree", [20, 200])
@pytest.mark.parametrize("size", [1e3, 1e7])
def test_as_many_steps_as_bring_a_hidden_vector_to_light(degree, size):
    """Of a spectrum 1 +- 2 / sqrt(degree), which a few steps have seen."""

    class Seen:
        values = torch.tensor([1 + 2 / degree**0.5, 1 - 2 / degree**0.5])
        rows = torch.empty(1, 0).expand(1, 0).new_empty(1, 1).expand(1, int(size))

    operator = filters.Operator(lambda x: x, lambda v: 2 - v)
    enough = 0
    for steps in range(1, 40):
        Seen.applied = steps * way._BLOCK
        if way._is_visible(Seen, operator, 0.1):
            enough = steps
            break
    lifted = np.cosh((enough - 1) * np.arccosh(0.9 / (2 / degree**0.5)))
    assert 1.2 * size**0.5 < lifted < 180 * size**0.5


def test_steps_that_do_not_tell_refuse(monkeypatch, taken):
    """As many as fit are no answer."""
    monkeypatch.setattr(way, "_STEPS", 1)
    laplacian_pe(clear(), 6, tol=2e-2)
    assert taken == [False]


def test_another_order_splits_what_the_first_one_merged(monkeypatch, taken):
    """Each merges two others; together they are right."""
    truth, orders = communities(2000, 20, 18, 2)[1].numpy(), []

    def merging(indptr, indices, weights, order, *_):
        orders.append(order)
        first = 2 * len(orders)
        return np.unique(np.where(truth == first, first + 1, truth), return_inverse=True)[1]

    monkeypatch.setattr(propagate, "propagate_labels", merging)
    laplacian_pe(clear(), 6, tol=2e-2)
    assert taken == [True] and len(orders) == 2 and (orders[0] != orders[1]).any()


@pytest.mark.parametrize("check", ["residual", "pull", "mixed"])
def test_every_check_can_refuse(monkeypatch, taken, check):
    if check == "residual":
        monkeypatch.setattr(way, "_PASSES", 0)
    elif check == "pull":
        monkeypatch.setattr(space.Start, "pull", lambda *_: 10.0)
    else:
        monkeypatch.setattr(space, "_MIXED", 0)
    laplacian_pe(clear(), 6, tol=2e-2)
    assert taken == [False]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_whatever_the_default_dtype(taken, dtype):
    before = torch.get_default_dtype()
    graph = clear()
    torch.set_default_dtype(dtype)
    try:
        laplacian_pe(graph, 6, tol=2e-2)
    finally:
        torch.set_default_dtype(before)
    assert taken == [True]


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_weights_of_any_size(oracle, scale):
    graph = clear(1200, 12)
    weight = torch.full((graph.num_edges,), scale, dtype=torch.float64)
    options = {"normalization": None, "edge_weight": weight, "tol": 2e-2}
    values, _ = laplacian_pe(graph, 4, **options, **F64)
    exact = np.linalg.eigvalsh(oracle(graph, None))[1:5] * scale
    np.testing.assert_allclose(values, exact, rtol=4 * 2e-2)


def test_a_community_that_hangs_by_a_thread(make, taken):
    """Its null vector is nearly one of the graph: neither is taken for the other."""
    chain = make["path"](6)
    graph = make["disjoint"](clear(1200, 12), chain)
    joined = torch.tensor([[0, 1200], [1200, 0]])
    graph = ga.as_graph(torch.cat([graph.edge_index(), joined], 1), graph.num_rows)
    values, vectors = laplacian_pe(graph, 6, tol=2e-2, **F64)
    exact, _ = laplacian_pe(graph, 6, method="dense", **F64)
    assert ((values - exact).abs() <= 4 * 2e-2 * exact[-1]).all()


def test_communities_in_pieces_are_as_good(monkeypatch, taken):
    graph, original = clear(), propagate.propagate_labels
    whole, _ = laplacian_pe(graph, 6, tol=2e-2, **F64)

    def split(*arguments):
        labels = original(*arguments)
        return np.unique(2 * labels + np.arange(len(labels)) % 2, return_inverse=True)[1]

    monkeypatch.setattr(propagate, "propagate_labels", split)
    pieces, _ = laplacian_pe(graph, 6, tol=2e-2, **F64)
    torch.testing.assert_close(pieces, whole, rtol=2e-2, atol=0)
    assert taken == [True, True]


def test_communities_without_noise(make, oracle, taken):
    """Cliques joined node by node in a ring: the communities' vectors are eigenvectors."""
    cliques, size = 24, 40
    inside = [(a, b) for a in range(size) for b in range(a)]
    pairs = [(c * size + a, c * size + b) for c in range(cliques) for a, b in inside]
    pairs += [
        (c * size + a, (c + 1) % cliques * size + a) for c in range(cliques) for a in range(size)
    ]
    graph = make["undirected"](pairs, cliques * size)
    values, _ = laplacian_pe(graph, 6, tol=2e-2, **F64)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(oracle(graph))[1:7], rtol=1e-3)
    assert taken == [True]


def test_not_where_they_are_no_use(make, taken):
    random = ga.as_graph(communities(1500, 1, 12, 0)[0], 1500)  # one community
    mesh = ga.as_graph(grid(40, 40, 4), 1600)
    star = make["undirected"]([(0, i) for i in range(1, 900)], 900)
    for graph in (random, mesh, star):
        laplacian_pe(graph, 4, tol=2e-2)
    assert taken == [False] * 3


def test_asking_for_more_vectors_than_communities(oracle, taken):
    graph = clear(1500, 6)
    values, _ = laplacian_pe(graph, 10, tol=2e-2, **F64)
    exact = np.linalg.eigvalsh(oracle(graph))[1:11]
    assert (np.abs(values.numpy() - exact) <= 4 * 2e-2 * exact[-1]).all()
    assert taken == [False]


def test_only_loose_tolerances_and_only_with_numba(monkeypatch, taken):
    graph = clear()
    laplacian_pe(graph, 4, tol=1e-3)
    assert taken == []
    monkeypatch.setattr(way, "has_numba", lambda: False)
    laplacian_pe(graph, 4, tol=2e-2)
    assert taken == [False]


def test_same_bits_on_every_call_and_for_any_number_of_threads(taken):
    graph, threads = clear(), torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 1):
            torch.set_num_threads(count)
            found.append(laplacian_pe(graph, 6, tol=2e-2)[1])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    assert all(taken)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_the_gpu(taken):
    graph = clear()
    here, there = (laplacian_pe(g, 4, tol=2e-2, **F64)[0] for g in (graph, graph.to("cuda")))
    torch.testing.assert_close(there.cpu(), here, rtol=1e-3, atol=0)
    assert all(taken)
