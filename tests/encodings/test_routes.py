"""Every route of laplacian_pe on graphs that are hard for one of them."""

import weakref

import numpy as np
import pytest
import torch
from scipy import linalg

import graphattn as ga
from graphattn.datasets.generated import communities, grid
from graphattn.encodings import filters, krylov, laplacian_pe, solvers
from graphattn.encodings.device import DeviceLaplacian
from graphattn.encodings.operator import build_laplacian, symmetric_adjacency

F64 = {"dtype": torch.float64}
ROUTES = ["auto", "lanczos", "chebyshev", "shift-invert", "multigrid"]


@pytest.fixture(params=ROUTES)
def route(request):
    if request.param == "multigrid":
        pytest.importorskip("pyamg")
    return request.param


def pieces(make):
    """A mesh twice, communities, a path, a pair and isolated nodes: seven zeros and repeats."""
    mesh = ga.as_graph(grid(17, 23, 4), 391)
    dense = ga.as_graph(communities(300, 5, 9, 1, seed=3)[0], 300)
    return make["disjoint"](
        mesh, dense, make["undirected"]([], 3), mesh, make["path"](40), make["path"](2)
    )


@pytest.mark.parametrize("normalization", ["sym", "rw", None])
@pytest.mark.parametrize("drop", ["first", "all_zero"])
def test_components_of_every_kind(make, oracle, route, normalization, drop):
    graph = pieces(make)
    exact = np.linalg.eigvalsh(oracle(graph, "sym" if normalization else None))
    zeros = int((exact < 1e-9).sum())
    skip = 1 if drop == "first" else zeros
    options = {"normalization": normalization, "drop": drop, "method": route, **F64}
    values, vectors = laplacian_pe(graph, 14, tol=1e-7, **options)
    np.testing.assert_allclose(values, exact[skip : skip + 14], atol=1e-9)
    matrix = oracle(graph, normalization)
    residual = np.linalg.norm(matrix @ vectors.numpy() - vectors.numpy() * values.numpy(), axis=0)
    assert residual.max() < 1e-5 * float(values[-1])


@pytest.mark.parametrize("tol", [2e-2, 1e-4])
@pytest.mark.parametrize("kind", ["grid", "communities", "cube"])
def test_residual_and_values_within_tolerance(oracle, route, kind, tol):
    graph = {
        "grid": lambda: ga.as_graph(grid(29, 31, 4), 899),
        "communities": lambda: ga.as_graph(communities(1200, 12, 14, 2, seed=1)[0], 1200),
        "cube": lambda: ga.GridGraph((9, 9, 9), 3, border="truncate").to_csr(),
    }[kind]()
    exact = np.linalg.eigvalsh(oracle(graph))[1:9]
    values, vectors = laplacian_pe(graph, 8, tol=tol, method=route, **F64)
    matrix, found = oracle(graph), vectors.numpy()
    residual = np.linalg.norm(matrix @ found - found * values.numpy(), axis=0)
    assert residual.max() <= 1.01 * tol * float(values[-1])
    assert (values.numpy() >= exact - 1e-10).all()
    assert (values.numpy() <= exact + 4 * tol * exact[-1]).all()
    np.testing.assert_allclose(found.T @ found, np.eye(8), atol=1e-6)


def test_more_vectors_than_nodes(make, route):
    graph = make["torus"](5, 7)
    values, vectors = laplacian_pe(graph, 40, method=route)
    assert values[:34].isfinite().all() and values[34:].isnan().all()
    assert not vectors[:, 34:].any()


def test_many_vectors_of_a_complete_graph_and_a_star(make, route):
    """One eigenvalue of multiplicity n - 1 or n - 2: the Krylov space is exhausted at once."""
    star = make["undirected"]([(0, i) for i in range(1, 700)], 700)
    values, vectors = laplacian_pe(star, 12, method=route, **F64)
    np.testing.assert_allclose(values, 1, atol=1e-8)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(12), atol=1e-8)


def test_directed_input(route):
    with pytest.raises(ValueError, match=r"undirected.*to_undirected\(\)"):
        laplacian_pe(torch.tensor([[0, 1, 2], [1, 2, 0]]), 1, method=route)


@pytest.mark.parametrize("kind", ["one component", "several"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_and_projections_on_the_device(make, oracle, kind, dtype):
    graph = make["random"](120, 400 if kind == "one component" else 90, seed=7)
    laplacian = build_laplacian(symmetric_adjacency(graph, None), False)
    assert (laplacian.nullity == 1) == (kind == "one component")
    device = DeviceLaplacian(laplacian, torch.device("cpu"))
    x = torch.randn(120, 3, dtype=dtype)
    atol = 1e-4 if dtype == torch.float32 else 1e-10
    np.testing.assert_allclose(device.multiply(x), oracle(graph, None) @ x.numpy(), atol=atol)
    null = laplacian.null_basis(0, laplacian.nullity)
    expected = x.numpy() - null @ (null.T @ x.numpy())
    np.testing.assert_allclose(device.project(x), expected, atol=atol)


def test_without_mkl_the_products_are_scipys(make, monkeypatch):
    graph = make["random"](700, 2500, seed=2)
    expected, _ = laplacian_pe(graph, 5, method="lanczos", **F64)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    values, _ = laplacian_pe(graph, 5, method="lanczos", **F64)
    np.testing.assert_allclose(values, expected, atol=1e-10)


@pytest.mark.parametrize("mkl", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cut", [0.3, 4.0])
def test_filters_are_their_polynomials_and_leave_the_vectors_alone(
    make, monkeypatch, mkl, dtype, cut
):
    """By eigenvectors."""
    if not mkl:
        monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    laplacian = build_laplacian(symmetric_adjacency(make["random"](90, 250, seed=3), None), False)
    device = DeviceLaplacian(laplacian, torch.device("cpu"), 2)
    values, vectors = np.linalg.eigh(laplacian.matrix.toarray())
    bound, centre = laplacian.bound, (laplacian.bound + cut) / 2
    degree = int(np.ceil(2 / np.sqrt(cut / bound)))
    chebyshev = np.polynomial.chebyshev.Chebyshev.basis(degree)
    half = (bound - cut) / 2
    lifted = chebyshev((centre - values) / half) / chebyshev(centre / half)
    wanted = {filters.chebyshev(device, cut): lifted, filters.complement(device): bound - values}
    drawn = torch.randn(90, 6, dtype=dtype)
    for x in (drawn, drawn.t().contiguous().t(), drawn[:, ::2], drawn[:, :1]):
        for operator, heights in wanted.items():
            before, found = x.clone(), operator.apply(x)
            exact = vectors @ (heights[:, None] * (vectors.T @ x.double().numpy()))
            size = 1e-5 if dtype == torch.float32 else 1e-12
            np.testing.assert_allclose(found, exact, atol=size * np.abs(exact).max())
            assert torch.equal(x, before) and found.data_ptr() != x.data_ptr()


def test_threads_do_not_change_the_bits_and_are_given_back(make):
    graph = ga.as_graph(communities(2500, 10, 12, 2)[0], 2500)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append(laplacian_pe(graph, 8, tol=2e-2)[1])
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert torch.equal(*results)


def test_beyond_the_budget_a_warning_names_cheaper_encodings(make):
    graph = make["path"](700)
    with pytest.warns(RuntimeWarning, match=r"700 nodes.*GiB.*coarse_laplacian_pe.*random_walk_pe"):
        values, _ = laplacian_pe(graph, 2, max_nodes=600)
    assert values.isfinite().all()
    laplacian_pe(graph, 2, max_nodes=700)
    laplacian_pe(graph, 2, max_nodes=600, method="shift-invert")


@pytest.mark.parametrize("cache", [False, True])
def test_warnings_point_at_the_caller(make, cache, monkeypatch, tmp_path):
    monkeypatch.setenv("GRAPHATTN_CACHE", str(tmp_path))
    graph = ga.GridGraph((31, 37), 3, border="truncate").to_csr().remove_self_loops()
    with pytest.warns(RuntimeWarning) as caught:
        laplacian_pe(graph, 9, max_nodes=600, max_iter=1, tol=1e-12, cache=cache)
    assert [w.filename for w in caught] == [__file__] * 2


def test_the_advice_is_another_method_than_the_one_in_use(route):
    graph = ga.GridGraph((31, 37), 3, border="truncate").to_csr().remove_self_loops()
    with pytest.warns(RuntimeWarning, match="max_iter") as caught:
        laplacian_pe(graph, 9, method=route, max_iter=1, tol=1e-12)
    assert f'"{route}"' not in str(caught[0].message)


def test_multigrid_without_pyamg_names_the_extra(make, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyamg", None)
    with pytest.raises(ImportError, match=r"graphattn\[spectral\].*shift-invert"):
        laplacian_pe(make["path"](700), 2, method="multigrid")


def two_communities(bridge):
    """Two of 350 nodes and one edge of weight ``bridge`` between them."""
    half = communities(350, 1, 9, 1, seed=3)[0]
    edges = torch.cat([half, half + 350, torch.tensor([[0, 350], [350, 0]])], dim=1)
    weight = torch.ones(edges.shape[1], dtype=torch.float64)
    weight[-2:] = bridge
    return ga.CSRGraph.from_edge_index(edges, 700), {"edge_weight": weight, **F64}


@pytest.mark.parametrize(("bridge", "k"), [(1e-4, 1), (1e-6, 3), (1e-8, 9)])
def test_a_weak_bridge(route, bridge, k):
    """An eigenvalue below what a filter reaches, and below an inverse's shift."""
    graph, options = two_communities(bridge)
    exact, _ = laplacian_pe(graph, k, method="dense", **options)
    values, _ = laplacian_pe(graph, k, method=route, tol=1e-4, max_iter=400, **options)
    np.testing.assert_allclose(values, exact, atol=4e-4 * exact[-1])


def test_an_eigenvalue_in_the_noise_does_not_pass_for_converged(route):
    graph, options = two_communities(1e-18)
    steps = 300 if route == "lanczos" else 4
    with pytest.warns(RuntimeWarning, match=r"relative residual \d"):
        values, _ = laplacian_pe(graph, 1, method=route, max_iter=steps, **options)
    assert 0 <= float(values) < 1e-12
    assert (laplacian_pe(graph, 2, method=route, tol=1e-4, **options)[0] >= 0).all()


@pytest.mark.parametrize("max_iter", [1, 7])
def test_fewer_iterations_than_vectors(route, max_iter):
    graph = ga.GridGraph((31, 37), 3, border="truncate").to_csr().remove_self_loops()
    with pytest.warns(RuntimeWarning, match="max_iter"):
        values, vectors = laplacian_pe(graph, 20, method=route, max_iter=max_iter, tol=1e-9, **F64)
    assert values.isfinite().all()
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(20), atol=1e-8)


@pytest.mark.parametrize("method", ["auto", "dense"])
def test_a_few_edges_among_many_nodes_are_a_small_matrix(make, oracle, method, monkeypatch):
    edges, sizes, eigh = [(2500 * i, 2500 * i + 1 + i % 3) for i in range(20)], [], linalg.eigh

    def spy(matrix, **options):
        sizes.append(len(matrix))
        return eigh(matrix, **options)

    monkeypatch.setattr(linalg, "eigh", spy)
    edges += [(0, 2)]
    graph, options = make["undirected"](edges, 50_000), {"normalization": None, "method": method}
    values, vectors = laplacian_pe(graph, 6, drop="all_zero", **options, **F64)
    assert sizes and max(sizes) <= 41
    np.testing.assert_allclose(values, [1, 2, 2, 2, 2, 2], atol=1e-12)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(6), atol=1e-12)
    assert not vectors[graph.degree() == 0].any()


@pytest.mark.parametrize("method", ["auto", "chebyshev"])
def test_one_basis_at_a_time(method, monkeypatch):
    made, basis = [], krylov.Search.basis

    def spy(self):
        assert all(other() is None for other in made)
        found = basis(self)
        made.append(weakref.ref(found))
        return found

    monkeypatch.setattr(krylov.Search, "basis", spy)
    monkeypatch.setattr(solvers, "_SINGLE_GAP", 2.0)  # float32 never does
    graph = ga.GridGraph((45, 67), 3, border="truncate").to_csr().remove_self_loops()
    if method == "auto":
        graph = ga.as_graph(communities(1200, 12, 14, 2, seed=1)[0], 1200)
    laplacian_pe(graph, 4, method=method, tol=1e-2)
    assert len(made) > 1


@pytest.mark.parametrize("k", [20, 57, 60])
def test_multigrid_where_a_step_spans_nearly_everything(oracle, k):
    pytest.importorskip("pyamg")
    graph = ga.GridGraph((11, 17), 3, border="truncate").to_csr().remove_self_loops()
    exact = np.linalg.eigvalsh(oracle(graph))[1 : k + 1]
    values, vectors = laplacian_pe(graph, k, method="multigrid", **F64)
    np.testing.assert_allclose(values, exact, atol=1e-9)
    matrix, found = oracle(graph), vectors.numpy()
    residual = np.linalg.norm(matrix @ found - found * values.numpy(), axis=0)
    assert residual.max() <= 1e-6 * exact[-1]


def test_multigrid_leaves_numpys_generator_alone(make):
    pytest.importorskip("pyamg")
    np.random.seed(5)
    expected = np.random.random(3)
    np.random.seed(5)
    laplacian_pe(make["torus"](29, 31), 4, method="multigrid")
    np.testing.assert_array_equal(np.random.random(3), expected)


@pytest.mark.cuda
@pytest.mark.parametrize("method", ["auto", "lanczos", "chebyshev", "shift-invert"])
def test_on_the_gpu(method):
    graph = ga.as_graph(communities(3000, 8, 12, 2)[0], 3000)
    exact, _ = laplacian_pe(graph, 6, method="dense", **F64)
    values, vectors = laplacian_pe(graph.to("cuda"), 6, method=method, **F64)
    again = laplacian_pe(graph.to("cuda"), 6, method=method, **F64)[1]
    assert vectors.is_cuda and torch.equal(vectors, again)
    torch.testing.assert_close(values.cpu(), exact, atol=1e-9, rtol=0)


def test_routes_are_the_methods():
    assert set(ROUTES) | {"dense"} == set(solvers.METHODS)
