"""Cora_ML: a miniature Graph2Gauss npz, its damage, the real file against PyG's reader."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch_geometric.datasets import CitationFull

from graphattn.datasets import citation

NODES = 2100


def write(path: Path, **changes: np.ndarray) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(5)
    source, target = draw.integers(0, NODES, (2, 5000))
    target[:40] = 0  # a hub
    keep = source != target
    pairs = np.unique(np.stack([source[keep], target[keep]]), axis=1)
    ones = np.ones(pairs.shape[1], np.float32)
    adjacency = sp.csr_matrix((ones, tuple(pairs)), shape=(NODES, NODES))
    words = sp.random(NODES, 17, 0.2, "csr", np.float32, rng=draw)
    arrays = {"labels": np.arange(NODES) % 7, "class_names": np.array(["a", "b"])}
    for key, matrix in (("adj", adjacency), ("attr", words)):
        for part in ("data", "indices", "indptr", "shape"):
            arrays[f"{key}_{part}"] = np.asarray(getattr(matrix, part))
    np.savez_compressed(path, **(arrays | changes))
    return adjacency, words


@pytest.mark.parametrize("undirected", [False, True])
def test_miniature_equals_pyg(tmp_path: Path, undirected: bool) -> None:
    write(tmp_path / "cora_ml" / "raw" / "cora_ml.npz")
    ours = citation.load("Cora_ML", tmp_path, download=False, undirected=undirected)
    theirs = CitationFull(str(tmp_path), "Cora_ML", to_undirected=undirected)[0]
    for key in ("x", "y", "edge_index"):
        assert torch.equal(ours.data[key], theirs[key]), key


def test_flat_layout_edges_and_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adjacency, words = write(tmp_path / "cora_ml.npz")
    found = citation.load("Cora_ML", tmp_path, download=False, seed=4)
    assert found.data.edge_index.shape[1] == adjacency.nnz and int(found.data.x.sum()) == words.nnz
    assert f"Cora_ML: {adjacency.nnz:,} edges in the file" in capsys.readouterr().err
    assert [len(part) for part in found.splits[0].values()] == [1260, 420, 420]
    assert "seed 4 (no official split)" in found.split_note
    other = citation.load("Cora_ML", tmp_path, download=False, split="per-class")
    assert [len(part) for part in other.splits[0].values()] == [140, 500, 1000]
    with pytest.raises(ValueError, match="split must be one of random, per-class, got 'public'"):
        citation.load("Cora_ML", tmp_path, download=False, split="public")


def test_damage(tmp_path: Path) -> None:
    path = tmp_path / "cora_ml.npz"
    write(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cora_ml\.npz .*delete it and fetch it again"):
        citation.load("Cora_ML", tmp_path, download=False)
    write(path, adj_indices=np.full(3, NODES, np.int32))
    with pytest.raises(ValueError, match=r"cora_ml\.npz .*delete it and fetch it again"):
        citation.load("Cora_ML", tmp_path, download=False)
    write(path, labels=np.zeros(8, np.int64))
    with pytest.raises(ValueError, match="8 labels for 2,100 nodes"):
        citation.load("Cora_ML", tmp_path, download=False)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file cora_ml\.npz in .*or cora_ml\.npz"):
        citation.load("Cora_ML", tmp_path, download=False)


@pytest.mark.shared_data
def test_cora_ml(data_root: Path, tmp_path: Path) -> None:
    shutil.copytree(data_root / "citationfull" / "cora_ml" / "raw", tmp_path / "cora_ml" / "raw")
    theirs = CitationFull(str(tmp_path), "Cora_ML")[0]
    root = data_root / "citationfull"
    found = citation.load("Cora_ML", root, download=False, undirected=True)
    for key in ("x", "y", "edge_index"):
        assert torch.equal(found.data[key], theirs[key]), key
    assert list(found.data.x.shape) == [2995, 2879] and found.data.edge_index.shape[1] == 16316
    assert found.num_classes == 7
    assert citation.load("Cora_ML", root, download=False).data.edge_index.shape[1] == 8416
