"""The PyG transforms."""

import subprocess
import sys

import pytest
import torch
import torch_geometric.transforms as T
from torch_geometric.data import Batch, Data, HeteroData, InMemoryDataset

import graphattn as ga
from graphattn.transforms import AddLaplacianPE, AddRandomWalkPE


def ring(nodes: int) -> Data:
    here = torch.arange(nodes)
    there = (here + 1) % nodes
    edge_index = torch.stack([torch.cat([here, there]), torch.cat([there, here])])
    return Data(x=torch.randn(nodes, 3), edge_index=edge_index)


def test_same_attributes_as_pyg():
    data = T.Compose([AddLaplacianPE(4), AddRandomWalkPE(5)])(ring(11))
    assert data.laplacian_eigenvector_pe.shape == (11, 4)
    expected = T.AddRandomWalkPE(5)(ring(11)).random_walk_pe
    torch.testing.assert_close(data.random_walk_pe, expected)
    torch.testing.assert_close(
        data.laplacian_eigenvector_pe, ga.laplacian_pe(data.edge_index, 4)[1]
    )


@pytest.mark.parametrize("transform", [AddLaplacianPE, AddRandomWalkPE])
def test_attr_name_none_appends_to_x(transform):
    data = ring(9)
    out = transform(2, attr_name=None)(data)
    assert out.x.shape == (9, 5) and torch.equal(out.x[:, :3], data.x)
    data.x = torch.ones(9)
    assert transform(2, attr_name=None)(data).x.shape == (9, 3)
    data.x = None
    data.num_nodes = 9
    assert transform(2, attr_name=None)(data).x.shape == (9, 2)


def test_the_input_is_not_changed():
    data = ring(7)
    AddLaplacianPE(2)(data)
    assert "laplacian_eigenvector_pe" not in data


def test_batches():
    one = AddLaplacianPE(3)(Batch.from_data_list([ring(8)]))
    torch.testing.assert_close(
        one.laplacian_eigenvector_pe, AddLaplacianPE(3)(ring(8)).laplacian_eigenvector_pe
    )
    two = Batch.from_data_list([ring(8), ring(5)])
    with pytest.raises(ValueError, match="batch of 2.*before batching"):
        AddLaplacianPE(3)(two)
    walks = AddRandomWalkPE(4)(two).random_walk_pe
    torch.testing.assert_close(walks[8:], AddRandomWalkPE(4)(ring(5)).random_walk_pe)


def test_isolated_last_nodes_and_weights_count():
    data = ring(6)
    data.x = torch.zeros(8, 1)
    assert AddLaplacianPE(2)(data).laplacian_eigenvector_pe.shape == (8, 2)
    transform = AddLaplacianPE(2, drop="all_zero")
    plain = transform(data).laplacian_eigenvector_pe
    data.edge_weight = torch.arange(1.0, 7.0).repeat(2)
    weighted = transform(data).laplacian_eigenvector_pe
    assert not torch.allclose(plain, weighted)


def test_the_size_budget_can_be_raised():
    with pytest.warns(RuntimeWarning, match="raise max_nodes"):
        AddLaplacianPE(2, max_nodes=600, cache=False)(ring(700))
    AddLaplacianPE(2, max_nodes=700, cache=False)(ring(700))


def test_adj_t():
    data = ring(12)
    sparse = T.ToSparseTensor(layout=torch.sparse_csr)(ring(12))
    torch.testing.assert_close(
        AddLaplacianPE(3)(sparse).laplacian_eigenvector_pe,
        AddLaplacianPE(3)(data).laplacian_eigenvector_pe,
    )


def test_wrong_input():
    with pytest.raises(TypeError, match="to_homogeneous"):
        AddLaplacianPE(2)(HeteroData())
    with pytest.raises(ValueError, match="edge_index or data.adj_t"):
        AddRandomWalkPE(2)(Data(x=torch.zeros(3, 1)))
    directed = Data(edge_index=torch.tensor([[0, 1], [1, 2]]), num_nodes=3)
    with pytest.raises(ValueError, match=r"ToUndirected\(\)"):
        AddLaplacianPE(2)(directed)


class Rings(InMemoryDataset):
    @property
    def processed_file_names(self):
        return ["data.pt"]

    def process(self):
        graphs = [self.pre_transform(ring(n)) for n in (5, 9, 3)]
        self.save(graphs, self.processed_paths[0])

    def __init__(self, root, pre_transform):
        super().__init__(root, pre_transform=pre_transform)
        self.load(self.processed_paths[0])


def test_as_pre_transform(tmp_path):
    """PyG stores repr(pre_transform) beside the processed file and compares it later."""
    for _ in range(2):
        data = Rings(str(tmp_path), T.Compose([AddLaplacianPE(4), AddRandomWalkPE(2)]))
    assert [d.laplacian_eigenvector_pe.shape for d in data] == [(5, 4), (9, 4), (3, 4)]
    with pytest.warns(UserWarning, match="pre_transform"):
        Rings(str(tmp_path), AddLaplacianPE(3))


def test_repr():
    assert repr(AddLaplacianPE(4)) == "AddLaplacianPE(k=4, attr_name='laplacian_eigenvector_pe')"
    assert repr(AddRandomWalkPE(2, None)) == "AddRandomWalkPE(walk_length=2, attr_name=None)"


def test_importing_the_package_imports_neither_pyg_nor_scipy():
    code = (
        "import sys, graphattn, graphattn.encodings; "
        "heavy = {'scipy', 'torch_geometric', 'numba'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
