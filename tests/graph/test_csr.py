"""CSRGraph: construction, orientation, caches, pickling, wrong input."""

import copy
import gc
import pickle
import subprocess
import sys
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

import graphattn as ga
from graphattn import CSRGraph
from graphattn.graph import sort


def test_row_lists_what_it_attends_to() -> None:
    # The directed path 0 -> 1 -> 2: node 1 receives from 0, node 2 from 1.
    graph = CSRGraph.from_edge_index(torch.tensor([[0, 1], [1, 2]]), 3)
    assert graph.indptr.tolist() == [0, 0, 1, 2]
    assert graph.indices.tolist() == [0, 1]
    assert graph.t().indptr.tolist() == [0, 1, 2, 2]
    assert graph.t().indices.tolist() == [1, 2]


@given(
    edges=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), max_size=40),
)
def test_edge_order_survives_every_view(edges: list[tuple[int, int]]) -> None:
    edge_index = torch.tensor(edges, dtype=torch.int64).reshape(-1, 2).t()
    graph = CSRGraph.from_edge_index(edge_index, (7, 5))
    assert torch.equal(graph.edge_index(), edge_index)
    assert torch.equal(graph.t().edge_index(), edge_index.flip(0))
    for view in (graph, graph.t()):
        perm = view.edge_perm if view.edge_perm is not None else torch.arange(len(edges))
        key = view.row_index() * 100_000 + view.indices * 1_000 + perm
        assert bool((key.diff() > 0).all()), "rows by column, ties by edge id"


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_sorting_by_counting_is_stable_sorting(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    edges = torch.stack([torch.randint(0, 70, (40_000,)), torch.randint(0, 50, (40_000,))])
    found = []
    for few in (edges.shape[1], 0):
        monkeypatch.setattr(sort, "_FEW", few)
        made = sort.sort_edges(*edges.to(dtype), 50, 70)
        found.append((*made, *sort.transpose_csr(*made[:2], 70)))
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)
    bare = sort.transpose_without_ids(*found[0][:2], 70)
    assert all(torch.equal(a, b) for a, b in zip(bare, found[0][3:5], strict=True))


def test_few_edges_of_many_nodes_are_sorted_without_a_number_per_node() -> None:
    assert sort._by_counting(torch.empty(40_000), 100_000) == sort.has_numba()
    assert not sort._by_counting(torch.empty(40_000), 1_000_000)


def test_graphs_are_built_without_numba() -> None:
    code = (
        "import sys; sys.modules['numba'] = None; import torch, graphattn.graph.sort as sort;"
        "sort.has_numba = lambda: False; import graphattn as ga;"
        "graph = ga.as_graph(torch.randint(0, 50, (2, 40_000)), 50);"
        "assert graph.t().num_edges == 40_000;"
        "sort.transpose_without_ids(graph.indptr, graph.indices, 50)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unsorted_rows_are_sorted_and_keep_edge_ids() -> None:
    graph = CSRGraph(torch.tensor([0, 3, 4]), torch.tensor([2, 0, 2, 1]), 3)
    assert graph.indices.tolist() == [0, 2, 2, 1]
    assert graph.edge_perm is not None
    assert graph.edge_perm.tolist() == [1, 0, 2, 3]


def test_indices_are_int32_and_identity_needs_no_permutation(edge_index: Tensor) -> None:
    graph = CSRGraph.from_edge_index(edge_index, 41)
    assert graph.indices.dtype == torch.int32
    again = CSRGraph.from_edge_index(torch.stack([graph.indices.long(), graph.row_index()]), 41)
    assert again.edge_perm is None
    assert CSRGraph(graph.indptr, graph.indices.long()).indices.dtype == torch.int64


def test_caches_and_device(edge_index: Tensor) -> None:
    graph = CSRGraph.from_edge_index(edge_index, 41)
    assert graph.t() is graph.t()
    assert graph.t().t() is graph
    assert graph.degree() is graph.degree()
    assert graph.degree().sum() == graph.num_edges
    assert graph.layout("cpu")[0] is graph.layout("cpu")[0]
    assert graph.to("cpu") is graph
    assert graph.to("meta").device.type == "meta"


def test_chunks_depend_on_the_graph_alone_and_share_edges(edge_index: Tensor) -> None:
    graph = CSRGraph.from_edge_index(edge_index, 41)
    chunks, parts = graph.rows_layout("cpu").plan
    assert parts.shape == (3, 0)
    assert chunks[0] == 0
    assert chunks[-1] == graph.num_rows
    assert bool((chunks.diff() >= 0).all())
    large = CSRGraph.from_edge_index(torch.randint(0, 5000, (2, 64_000)), 5000)
    bounds, _ = large.rows_layout("cpu").plan
    work = large.indptr[bounds].diff()
    assert work.max() < 1.2 * 64_000 / (len(bounds) - 1) + large.degree().max()


def test_rows_that_would_keep_one_thread_busy_are_cut() -> None:
    target = torch.cat([torch.full((9000,), 3), torch.full((5000,), 1), torch.arange(5)])
    graph = CSRGraph.from_edge_index(torch.stack([torch.randint(0, 5, (14_005,)), target]), 5)
    begin, end, row = graph.rows_layout("cpu").plan[1]
    assert row.tolist() == [1, 1, 3, 3, 3]
    assert int((end - begin).max()) <= 4096 and int((end - begin).diff().abs().max()) <= 501
    assert begin.tolist() == [graph.indptr[1], end[0], graph.indptr[3], end[2], end[3]]
    assert end[1] == graph.indptr[2] and end[4] == graph.indptr[4]


def test_pickle_and_deepcopy_carry_arrays_not_plans(edge_index: Tensor) -> None:
    graph = CSRGraph.from_edge_index(edge_index, 41)
    bare = len(pickle.dumps(graph))
    graph.layout("cpu")
    assert len(pickle.dumps(graph)) == bare
    for twin in (pickle.loads(pickle.dumps(graph)), copy.deepcopy(graph)):
        assert torch.equal(twin.edge_index(), edge_index)
        assert twin.num_cols == 41
        assert twin.fingerprint() == graph.fingerprint()


def _first(batch: list[CSRGraph]) -> Tensor:
    q = torch.arange(41.0 * 2).reshape(41, 1, 2).sin()
    out = ga.attention(q, q, q, batch[0], impl="reference")
    assert isinstance(out, Tensor)
    return out


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_dataloader_workers(edge_index: Tensor, start: str) -> None:
    graph = CSRGraph.from_edge_index(edge_index, 41)
    here = _first([graph])
    loader = DataLoader(
        [graph, graph],  # type: ignore[arg-type]
        num_workers=1,
        collate_fn=_first,
        multiprocessing_context=start,
    )
    for there in loader:
        assert torch.equal(here, there)


def test_fingerprint_tells_graphs_apart(edge_index: Tensor) -> None:
    graph = CSRGraph.from_edge_index(edge_index, 41)
    assert graph.fingerprint() != CSRGraph.from_edge_index(edge_index, 42).fingerprint()
    assert graph.fingerprint() != graph.t().fingerprint()


def test_empty_graphs() -> None:
    none = torch.empty(2, 0, dtype=torch.int64)
    assert CSRGraph.from_edge_index(none).num_rows == 0
    graph = CSRGraph.from_edge_index(none, (3, 5))
    assert (graph.num_rows, graph.num_cols, graph.num_edges) == (5, 3, 0)
    assert graph.t().num_rows == 3
    assert repr(graph) == "CSRGraph(num_rows=5, num_cols=3, num_edges=0)"


@pytest.mark.parametrize(
    ("edges", "size", "error", "words"),
    [
        ([[0, 5], [1, 1]], 5, ValueError, r"sources.*\[0, 5\), got 5.*size=6"),
        ([[0, 1], [1, 7]], 5, ValueError, r"targets.*\[0, 5\), got 7"),
        ([[0, -1], [1, 1]], 5, ValueError, r"got -1.*padding"),
        ([[0.0, 1.0], [1.0, 1.0]], 5, TypeError, r"float32.*long\(\)"),
        ([[0, 1], [1, 2], [2, 3]], 5, ValueError, r"shape \[2, E\], got \[3, 2\].*\.t\(\)"),
    ],
)
def test_wrong_edge_index(edges: list[list[int]], size: int, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        ga.as_graph(torch.tensor(edges), size)


@pytest.mark.parametrize(
    ("indptr", "indices", "cols", "words"),
    [
        ([0, 2, 1], [0, 1], 2, "end at the number of indices 2"),
        ([0, 2, 1, 2], [0, 1], 2, "must not decrease"),
        ([1, 2], [0, 1], 2, "start at 0"),
        ([0, 2], [0, 4], 2, r"\[0, 2\), got 4"),
    ],
)
def test_wrong_csr(indptr: list[int], indices: list[int], cols: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CSRGraph(torch.tensor(indptr), torch.tensor(indices), cols)


@pytest.mark.parametrize(
    ("perm", "error", "words"),
    [
        (torch.tensor([0, 1, 9]), ValueError, r"edge_perm.*\[0, 3\), got 9"),
        (torch.tensor([0, 1, 1]), ValueError, "repeated id"),
        (torch.tensor([0.0, 1.0, 2.0]), TypeError, "edge_perm must be an int64"),
    ],
)
def test_wrong_edge_perm(perm: Tensor, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        CSRGraph(torch.tensor([0, 2, 3]), torch.tensor([0, 1, 1]), 2, perm)


@pytest.mark.parametrize("size", [-3, 8.0, (5, 7, 8), (None, 7), "9"])
def test_wrong_sizes(size: object) -> None:
    with pytest.raises(ValueError, match="size must be the number of nodes"):
        ga.as_graph(torch.tensor([[0], [1]]), size)  # type: ignore[arg-type]


def test_strided_arrays_are_made_contiguous(edge_index: Tensor) -> None:
    graph = CSRGraph.from_edge_index(edge_index, 41)
    assert graph.edge_perm is not None
    wide = [torch.stack([t, t + 7], 1)[:, 0] for t in (graph.indptr, graph.edge_perm)]
    twin = CSRGraph(wide[0], graph.indices, 41, wide[1])
    assert twin.indptr.is_contiguous()
    assert twin.edge_perm is not None
    assert twin.edge_perm.is_contiguous()
    assert torch.equal(twin.edge_index(), edge_index)


def test_graph_and_transpose_are_freed_together(edge_index: Tensor) -> None:
    graph = CSRGraph.from_edge_index(edge_index, 41)
    graph.t()
    seen = weakref.ref(graph)
    gc.disable()
    try:
        del graph
        assert seen() is None, "no reference cycle: mini-batch graphs must not pile up"
    finally:
        gc.enable()


def test_wrong_types() -> None:
    with pytest.raises(TypeError, match="indptr must be an int64"):
        CSRGraph(torch.tensor([0.0, 1.0]), torch.tensor([0]))
    with pytest.raises(TypeError, match="got list"):
        ga.as_graph([[0], [1]])
    with pytest.raises(ValueError, match="one edge id per index"):
        CSRGraph(torch.tensor([0, 1]), torch.tensor([0]), 1, torch.tensor([0, 1]))
