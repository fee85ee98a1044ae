"""as_graph: every input kind gives the same graph, converted once."""

import gc
from concurrent.futures import ThreadPoolExecutor

import pytest
import scipy.sparse as sp
import torch
from torch import Tensor
from torch_geometric import EdgeIndex
from torch_geometric.utils import to_torch_csc_tensor, to_torch_csr_tensor

import graphattn as ga
from graphattn.graph.convert import _cache


def test_every_kind_agrees() -> None:
    edge_index = torch.tensor([[4, 0, 2, 2, 3], [1, 1, 0, 4, 2]])
    want = ga.as_graph(edge_index, 5)
    adj_t = to_torch_csr_tensor(edge_index.flip(0), size=(5, 5))
    kinds = {
        "csr": adj_t,
        "csc": to_torch_csc_tensor(edge_index.flip(0), size=(5, 5)),
        "coo": adj_t.to_sparse_coo(),
        "scipy": sp.coo_matrix((torch.ones(5), edge_index.flip(0).numpy()), shape=(5, 5)),
        "scipy array": sp.csc_array(adj_t.to_dense().numpy()),
        "EdgeIndex": EdgeIndex(edge_index, sparse_size=(5, 5)),
        "CSRGraph": want,
    }
    for name, obj in kinds.items():
        graph = ga.as_graph(obj)
        assert torch.equal(graph.indptr, want.indptr), name
        assert torch.equal(graph.indices.long(), want.indices.long()), name
        if name not in ("EdgeIndex", "CSRGraph"):
            assert graph.edge_perm is None, "sparse input: the caller's order is row-major"


class FakeSparseTensor:
    """What as_graph reads of torch_sparse.SparseTensor."""

    def csr(self) -> tuple[Tensor, Tensor, None]:
        return torch.tensor([0, 1, 3]), torch.tensor([2, 0, 1]), None

    def sparse_size(self, dim: int) -> int:
        return (2, 3)[dim]

    def sparse_sizes(self) -> tuple[int, int]:
        return 2, 3


def test_sparse_tensor_and_bipartite_sizes() -> None:
    graph = ga.as_graph(FakeSparseTensor())
    assert (graph.num_rows, graph.num_cols) == (2, 3)
    with pytest.raises(ValueError, match="3 sources and 2 targets"):
        ga.as_graph(graph, size=4)
    edge_index = torch.tensor([[6, 0], [1, 2]])
    assert ga.as_graph(edge_index, (7, 4)).num_rows == 4
    assert ga.as_graph(EdgeIndex(edge_index)).num_rows == 7


def test_uncoalesced_coo_keeps_duplicates() -> None:
    indices = torch.tensor([[1, 1, 0], [2, 2, 1]])
    coo = torch.sparse_coo_tensor(indices, torch.ones(3), (3, 3), check_invariants=False)
    graph = ga.as_graph(coo)
    assert graph.num_edges == 3
    assert graph.indptr.tolist() == [0, 1, 3, 3]


def test_an_edge_index_is_converted_once_and_never_kept_alive() -> None:
    edge_index = torch.randint(0, 9, (2, 30))
    first = ga.as_graph(edge_index, 9)
    assert ga.as_graph(edge_index, 9) is first
    assert ga.as_graph(edge_index, 10) is not first
    edge_index[0, 0] = 8 - edge_index[0, 0]  # in-place change: the version moves on
    changed = ga.as_graph(edge_index, 9)
    assert torch.equal(changed.edge_index(), edge_index)
    before = len(_cache)
    del edge_index
    gc.collect()
    assert len(_cache) == before - 1
    with torch.inference_mode():
        assert ga.as_graph(torch.randint(0, 9, (2, 30)), 9).num_edges == 30


def test_one_conversion_serves_every_spelling_thread_and_layer() -> None:
    edge_index = torch.randint(0, 9, (2, 30))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda size: ga.as_graph(edge_index, size), [9, (9, 9)] * 4))
    assert all(graph is found[0] for graph in found)
    adj_t = to_torch_csr_tensor(edge_index.flip(0), size=(9, 9))
    assert ga.as_graph(adj_t) is ga.as_graph(adj_t)
    with pytest.raises(ValueError, match=r"EdgeIndex has size \(9, 9\), but size=8"):
        ga.as_graph(EdgeIndex(edge_index, sparse_size=(9, 9)), 8)


def test_scipy_keeps_duplicates_and_is_copied() -> None:
    entries = sp.coo_matrix(([1.0, 1.0, 1.0], ([0, 0, 1], [1, 1, 0])), shape=(2, 2))
    assert ga.as_graph(entries).num_edges == 3
    matrix = entries.tocsr()
    graph = ga.as_graph(matrix)
    matrix.indices[:] = 77
    assert graph.indices.max() < 2
