"""BlogCatalog and Flickr .mat files: a miniature, its damage, the real BlogCatalog."""

from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.io import savemat
from torch_geometric.utils import is_undirected

from graphattn.datasets import attributed

NODES = 45


def write(path: Path, **changes: object) -> sp.csc_matrix:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(2)
    upper = sp.random(NODES, NODES, 0.1, "csc", rng=draw)
    upper.data[:] = 1
    network = ((upper + upper.T) > 0).astype(float)
    variables = {
        "Network": network.tocsc(),
        "Attributes": sp.csc_matrix(draw.integers(0, 4, (NODES, 9)).astype(float)),
        "Label": (np.arange(NODES) % 3 + 1).astype(np.uint8)[:, None],
    }
    savemat(path, variables | changes)
    return network.tocsc()


@pytest.mark.parametrize("layout", ["Flickr.mat", "Flickr/raw/Flickr.mat"])
def test_miniature(tmp_path: Path, layout: str) -> None:
    network = write(tmp_path / layout)
    found = attributed.load("Flickr", tmp_path, download=False, seed=7)
    dense = torch.zeros(NODES, NODES)
    dense[found.data.edge_index[0], found.data.edge_index[1]] = 1
    assert torch.equal(dense, torch.from_numpy(network.toarray()).float())
    assert found.data.edge_index.shape[1] == network.nnz
    assert found.data.y.tolist() == [i % 3 for i in range(NODES)] and found.num_classes == 3
    assert found.data.x.dtype == torch.float32 and float(found.data.x.max()) == 3
    assert [len(part) for part in found.splits[0].values()] == [27, 9, 9]
    assert found.split_note == "random 60/20/20, seed 7 (no official split)"


@pytest.mark.parametrize("cut", [0, 60, 200, -25])
def test_truncated(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "BlogCatalog.mat"
    write(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"BlogCatalog\.mat .*delete it and fetch it again"):
        attributed.load("BlogCatalog", tmp_path, download=False)


def test_missing_variable_and_wrong_sizes(tmp_path: Path) -> None:
    path = tmp_path / "Flickr.mat"
    savemat(path, {"Network": sp.eye(3, format="csc"), "other": 1})
    with pytest.raises(ValueError, match="no variable Attributes, Label; it has Network, other"):
        attributed.load("Flickr", tmp_path, download=False)
    write(path, Label=np.ones((60, 1), np.uint8))
    with pytest.raises(ValueError, match="60 labels for 45 nodes"):
        attributed.load("Flickr", tmp_path, download=False)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file BlogCatalog\.mat in .*download=True"):
        attributed.load("BlogCatalog", tmp_path, download=False)


@pytest.mark.shared_data
def test_blogcatalog(data_root: Path) -> None:
    found = attributed.load("BlogCatalog", data_root / "attributed", download=False)
    assert list(found.data.x.shape) == [5196, 8189] and found.data.edge_index.shape[1] == 343486
    assert found.num_classes == 6 and is_undirected(found.data.edge_index)
    assert torch.bincount(found.data.y).tolist() == [885, 777, 921, 858, 892, 863]
    assert [len(part) for part in found.splits[0].values()] == [3118, 1039, 1039]
