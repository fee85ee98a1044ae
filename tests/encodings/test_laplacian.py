"""laplacian_pe against closed forms, dense algebra, scipy and PyG."""

import numpy as np
import pytest
import threadpoolctl
import torch
from scipy.linalg import eigvalsh
from scipy.sparse.linalg import eigsh

import graphattn as ga
from graphattn.encodings import laplacian_pe, solvers

F64 = {"dtype": torch.float64}
METHODS = ("dense", "lanczos", "chebyshev", "shift-invert")


def residuals(matrix, values, vectors):
    return np.linalg.norm(matrix @ vectors.numpy() - vectors.numpy() * values.numpy(), axis=0)


def exact_values(oracle, graph, normalization):
    """D^-1 A and D^-1/2 A D^-1/2 are similar: one symmetric solve serves both."""
    return eigvalsh(oracle(graph, "sym" if normalization else None))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("nodes", [97, 801])
def test_cycle_closed_form_and_residual(make, oracle, span, method, nodes):
    graph = make["cycle"](nodes)
    values, vectors = laplacian_pe(graph, 6, method=method, **F64)
    order = np.array([1, 1, 2, 2, 3, 3])
    np.testing.assert_allclose(values, 1 - np.cos(2 * np.pi * order / nodes), rtol=0, atol=1e-11)
    assert residuals(oracle(graph), values, vectors).max() < 1e-6
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(6), atol=1e-8)
    angle = 2 * np.pi * np.arange(nodes) / nodes
    waves = np.stack([f(m * angle) for m in (1, 2, 3) for f in (np.cos, np.sin)], axis=1)
    np.testing.assert_allclose(span(vectors), span(waves), atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_path_closed_form(make, oracle, method):
    nodes = 211
    graph = make["path"](nodes)
    values, vectors = laplacian_pe(graph, 7, method=method, drop=None, **F64)
    expected = 1 - np.cos(np.pi * np.arange(7) / (nodes - 1))
    np.testing.assert_allclose(values, expected, atol=1e-11)
    assert residuals(oracle(graph), values, vectors).max() < 1e-6


@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize("copies", [1, 2])
def test_every_copy_of_a_repeated_eigenvalue_is_found(make, method, copies):
    """ARPACK's Lanczos returns one vector of each four-dimensional eigenspace here."""
    side = 25
    graph = make["disjoint"](*[make["torus"](side, side)] * copies)
    waves = (np.cos(2 * np.pi * np.arange(side) / side)[:, None] + 1) / 2
    exact = np.sort((1 - (waves + waves.T - 1).reshape(-1)).repeat(copies))[copies:]
    k = 8 * copies
    values, vectors = laplacian_pe(graph, k, method=method, drop="all_zero", tol=1e-8, **F64)
    np.testing.assert_allclose(values, exact[:k], atol=1e-10)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(k), atol=1e-8)


@pytest.mark.parametrize("normalization", ["sym", "rw", None])
@pytest.mark.parametrize("drop", ["first", "all_zero", None])
@pytest.mark.parametrize("edges", [0, 9, 35, 140])
def test_small_graphs_agree_with_dense_algebra(make, oracle, normalization, drop, edges):
    """Isolated nodes, several components, duplicates, self-loops, fewer than k pairs."""
    graph, k = make["random"](37, edges, seed=edges), 36
    matrix = oracle(graph, normalization)
    exact = exact_values(oracle, graph, normalization)
    skip = {"first": 1, "all_zero": int((exact < 1e-9).sum()), None: 0}[drop]
    values, vectors = laplacian_pe(graph, k, normalization=normalization, drop=drop, **F64)
    found = min(k, 37 - skip)
    np.testing.assert_allclose(values[:found], exact[skip : skip + found], atol=1e-9)
    assert residuals(matrix, values[:found], vectors[:, :found]).max(initial=0) < 1e-9
    np.testing.assert_allclose(vectors[:, :found].norm(dim=0), 1, atol=1e-12)
    assert values[found:].isnan().all() and not vectors[:, found:].any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("normalization", ["sym", "rw", None])
def test_methods_agree_on_a_graph_with_everything(make, oracle, method, normalization):
    graph = make["random"](640, 700, seed=3)
    matrix, exact = oracle(graph, normalization), exact_values(oracle, graph, normalization)
    zeros = int((exact < 1e-9).sum())
    assert zeros > 2
    values, vectors = laplacian_pe(
        graph, zeros + 5, method=method, normalization=normalization, drop="first", **F64
    )
    np.testing.assert_allclose(values, exact[1 : zeros + 6], atol=1e-9)
    assert residuals(matrix, values, vectors).max() < 1e-6


def test_scipy_finds_the_same_subspace(make, oracle, span):
    graph = make["random"](301, 1500, seed=5)
    matrix = oracle(graph)
    start = np.random.default_rng(1).standard_normal(301)
    exact, expected = eigsh(matrix, k=7, which="SA", v0=start)
    values, vectors = laplacian_pe(graph, 6, method="lanczos", tol=1e-9, **F64)
    np.testing.assert_allclose(values, np.sort(exact)[1:], atol=1e-10)
    np.testing.assert_allclose(span(vectors), span(expected[:, np.argsort(exact)[1:]]), atol=1e-6)


def test_pyg_finds_the_same_vectors_up_to_sign(make):
    from torch_geometric.data import Data
    from torch_geometric.transforms import AddLaplacianEigenvectorPE

    graph = make["random"](60, 150, seed=2)
    data = Data(edge_index=graph.edge_index(), num_nodes=60)
    expected = AddLaplacianEigenvectorPE(4, is_undirected=True)(data).laplacian_eigenvector_pe
    _, vectors = laplacian_pe(graph, 4)
    torch.testing.assert_close(vectors.abs(), expected.abs().float(), atol=1e-4, rtol=0)


def test_two_components_all_zero_has_no_constant_vector(make):
    graph = make["disjoint"](make["path"](13), make["cycle"](9))
    values, vectors = laplacian_pe(graph, 5, drop="all_zero", **F64)
    assert values.min() > 1e-3
    weight = graph.degree().double().sqrt()[:, None]
    for part in (slice(0, 13), slice(13, 22)):
        np.testing.assert_allclose((weight * vectors)[part].sum(0), 0, atol=1e-10)
    values, vectors = laplacian_pe(graph, 5, drop="first", **F64)
    assert values[0] == 0 and values[1] > 1e-3
    per_part = vectors[:, 0] / weight[:, 0]
    assert per_part[:13].std() < 1e-12 and per_part[13:].std() < 1e-12
    assert per_part[0] * per_part[13] < 0


@pytest.mark.parametrize("edges", [[], [(0, 0)]])
@pytest.mark.parametrize("normalization", ["sym", "rw", None])
def test_one_node(make, edges, normalization):
    values, vectors = laplacian_pe(make["undirected"](edges, 1), 3, normalization=normalization)
    assert values.isnan().all() and vectors.shape == (1, 3) and not vectors.any()


def test_no_nodes(make):
    values, vectors = laplacian_pe(make["undirected"]([], 0), 2)
    assert values.isnan().all() and vectors.shape == (0, 2)


def test_a_large_graph_without_edges(make):
    values, vectors = laplacian_pe(make["undirected"]([], 2000), 3)
    assert (values == 1).all()
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(3))


def test_edge_weights_as_pyg(make):
    from torch_geometric.utils import get_laplacian, to_dense_adj

    graph = make["random"](23, 70, seed=8)
    weight = torch.rand(70, dtype=torch.float64).repeat(2)
    index, entries = get_laplacian(graph.edge_index(), weight, "sym", num_nodes=23)
    exact = torch.linalg.eigvalsh(to_dense_adj(index, edge_attr=entries, max_num_nodes=23)[0])
    values, _ = laplacian_pe(graph, 22, edge_weight=weight, **F64)
    torch.testing.assert_close(values, exact[1:], atol=1e-9, rtol=0)


@pytest.mark.parametrize("method", [*METHODS, "multigrid"])
def test_same_bits_for_any_number_of_blas_threads(make, method):
    if method == "multigrid":
        pytest.importorskip("pyamg")
    graph = make["torus"](29, 31)
    results = []
    for threads in (1, 2, 3):
        with threadpoolctl.threadpool_limits(threads):
            results.append(laplacian_pe(graph, 6, method=method)[1])
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_repeatable_and_signed(make):
    graph = make["torus"](29, 31)
    first, second = (laplacian_pe(graph, 6)[1] for _ in range(2))
    assert torch.equal(first, second)
    lead = first.abs().max(dim=0).values
    assert (first.max(dim=0).values >= lead * (1 - 1e-5)).all()


def test_result_dtype_and_package_name(make):
    values, vectors = ga.laplacian_pe(make["path"](9).edge_index(), 2)
    assert values.dtype == vectors.dtype == torch.float32
    assert not vectors.requires_grad


def routes_taken(monkeypatch):
    taken, run = [], solvers._Route.run

    def spy(self, method):
        taken.append(method)
        return run(self, method)

    monkeypatch.setattr(solvers._Route, "run", spy)
    return taken


def test_auto_chooses_by_shape(make, monkeypatch):
    """Lanczos goes on with the steps that estimated the gap, without a call of its own."""
    taken = routes_taken(monkeypatch)
    laplacian_pe(make["undirected"]([(i, i + 1) for i in range(2999)] + [(0, 2)], 3000), 3)
    laplacian_pe(ga.GridGraph((40, 60), 3, border="truncate"), 3)
    assert taken == ["shift-invert"] * 2
    laplacian_pe(make["random"](4000, 40_000), 3)
    assert len(taken) == 2


def test_a_factor_that_does_not_fit(make, monkeypatch):
    def full(laplacian):
        raise MemoryError("factor")

    graph = ga.GridGraph((25, 31), 3, border="truncate")
    expected, _ = laplacian_pe(graph, 3, method="shift-invert", **F64)
    monkeypatch.setattr(solvers.filters, "factorise", full)
    np.testing.assert_allclose(laplacian_pe(graph, 3, **F64)[0], expected, atol=1e-10)
    with pytest.raises(MemoryError):
        laplacian_pe(graph, 3, method="shift-invert")


def test_out_of_iterations_warns_with_the_residual(make, oracle):
    graph = make["torus"](30, 40)
    with pytest.warns(RuntimeWarning, match=r"relative residual \d.*tol=1e-06.*max_iter"):
        values, vectors = laplacian_pe(graph, 5, method="lanczos", max_iter=40, **F64)
    assert vectors.isfinite().all()
    np.testing.assert_allclose(vectors.norm(dim=0), 1, atol=1e-9)


def test_residual_is_relative(make, oracle):
    graph = make["torus"](35, 35)
    for tol in (1e-2, 1e-5):
        values, vectors = laplacian_pe(graph, 5, method="lanczos", tol=tol, **F64)
        assert residuals(oracle(graph), values, vectors).max() <= tol * values[-1]


def test_directed_graph_names_the_remedy():
    graph = ga.CSRGraph.from_edge_index(torch.tensor([[0, 1, 2], [1, 2, 0]]))
    with pytest.raises(ValueError, match=r"3 of its 3 edges.*to_undirected\(\)"):
        laplacian_pe(graph, 1)
    laplacian_pe(graph.to_undirected(), 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be at least 1"),
        ({"max_iter": 0}, "max_iter must be at least 1"),
        ({"normalization": "none"}, "normalization must be one of"),
        ({"drop": "zero"}, "drop must be one of"),
        ({"method": "arpack"}, "method must be one of"),
        ({"tol": 0.0}, "tol must be positive"),
        ({"edge_weight": torch.ones(3)}, "one number per edge"),
        ({"edge_weight": -torch.ones(16)}, "not negative"),
        ({"edge_weight": torch.full((16,), float("nan"))}, "finite"),
    ],
)
def test_wrong_arguments(make, options, message):
    with pytest.raises(ValueError, match=message):
        laplacian_pe(make["path"](9), **{"k": 2, **options})


def test_k_is_an_integer(make):
    with pytest.raises(TypeError, match=r"k must be an integer, got 2.5"):
        laplacian_pe(make["path"](9), 2.5)
    assert laplacian_pe(make["path"](9), np.int64(2))[0].shape == (2,)


def test_bipartite_graph():
    graph = ga.CSRGraph.from_edge_index(torch.tensor([[0, 1], [1, 0]]), (2, 3))
    with pytest.raises(ValueError, match="square graph, got 3 rows and 2 columns"):
        laplacian_pe(graph, 1)


@pytest.mark.shared_data
def test_minesweeper_grid(data_root, oracle):
    with np.load(data_root / "heterophilous/minesweeper/raw/minesweeper.npz") as file:
        edges = torch.from_numpy(file["edges"]).long().t()
    graph = ga.as_graph(torch.cat([edges, edges.flip(0)], dim=1), 10_000)
    values, _ = laplacian_pe(graph, 8, **F64)
    loose, _ = laplacian_pe(graph, 8, method="lanczos", tol=1e-3, **F64)
    np.testing.assert_allclose(values[0], values[1], rtol=1e-9)  # the square's symmetry
    np.testing.assert_allclose(values, loose, rtol=1e-4)


def test_loose_tolerances_use_single_precision_and_keep_their_promise(monkeypatch) -> None:
    from graphattn.datasets.generated import communities

    graph = ga.as_graph(communities(3000, 10, 12, 2)[0], 3000)
    exact, _ = ga.laplacian_pe(graph, 6, method="dense")
    used, lanczos = [], solvers.block_lanczos

    def spy(search, basis=None):
        used.append(search.dtype)
        return lanczos(search, basis)

    monkeypatch.setattr(solvers, "block_lanczos", spy)
    values, vectors = ga.laplacian_pe(graph, 6, tol=1e-2, dtype=torch.float64)
    ga.laplacian_pe(graph, 6, tol=1e-4)
    ga.laplacian_pe(graph, 6, tol=1e-2, method="lanczos")
    assert used == [torch.float32, torch.float64, torch.float64]
    torch.testing.assert_close(values.float(), exact, rtol=2e-2, atol=0)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(6).double(), rtol=0, atol=1e-6)
