"""Planetoid: miniature python-2 pickles, damaged and hostile files, the real Cora against PyG."""

import os
import pickle
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch_geometric.datasets import Planetoid
from torch_geometric.utils import is_undirected

from graphattn.datasets import planetoid

WORDS, CLASSES, TRAIN, ALL = 11, 3, 9, 520
# Test nodes 520..539 in file order; 525 is missing, as 15 papers are in CiteSeer.
TEST = [527, 520, 539, *(n for n in range(521, 539) if n not in (525, 527))]


def write(folder: Path, name: str = "citeseer") -> dict[str, np.ndarray]:
    """The eight files of a small set; returns features and labels in node order."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(3)
    x = (draw.random((540, WORDS)) < 0.3).astype(np.float32)
    y = np.eye(CLASSES, dtype=np.int32)[np.arange(540) % CLASSES]
    x[525], y[525] = 0, 0
    graph = defaultdict(list, {0: [1, 1, 3], 1: [0, 1], 3: [0], 539: [2], 2: [539], 525: []})
    parts = {
        "x": sp.csr_matrix(x[:TRAIN]),
        "tx": sp.csr_matrix(x[TEST]),
        "allx": sp.csr_matrix(x[:ALL]),
        "y": y[:TRAIN],
        "ty": y[TEST],
        "ally": y[:ALL],
        "graph": graph,
    }
    for part, value in parts.items():
        # Protocol 2 writes the python-2 names; numpy 2 spells its module with an underscore.
        content = pickle.dumps(value, protocol=2).replace(b"numpy._core", b"numpy.core")
        (folder / f"ind.{name}.{part}").write_bytes(content)
    (folder / f"ind.{name}.test.index").write_text("\n".join(map(str, TEST)) + "\n")
    return {"x": x, "y": y.argmax(1)}


@pytest.mark.parametrize("layout", ["CiteSeer/raw", "."])
def test_miniature(tmp_path: Path, layout: str) -> None:
    truth = write(tmp_path / "root" / layout)
    found = planetoid.load("CiteSeer", tmp_path / "root", download=False)
    assert torch.equal(found.data.x, torch.from_numpy(truth["x"]))
    assert torch.equal(found.data.y, torch.from_numpy(truth["y"]))
    assert found.data.x.dtype == torch.float32 and found.data.y.dtype == torch.int64
    edges = {(0, 1), (0, 3), (1, 0), (3, 0), (539, 2), (2, 539)}
    assert set(map(tuple, found.data.edge_index.t().tolist())) == edges
    assert found.edge_note == "8 edges in the file, 6 returned (self-loops and duplicates dropped)"
    assert (found.num_classes, found.metric, found.task) == (CLASSES, "acc", "multiclass")
    split = found.splits[0]
    assert split["train"].tolist() == list(range(TRAIN))
    assert split["valid"].tolist() == list(range(TRAIN, TRAIN + 500))
    assert split["test"].tolist() == sorted(TEST) and 525 not in split["test"]


def test_miniature_equals_pyg(tmp_path: Path) -> None:
    write(tmp_path / "CiteSeer" / "raw")
    ours = planetoid.load("CiteSeer", tmp_path, download=False).data
    theirs = Planetoid(str(tmp_path), "CiteSeer")[0]
    for key in ("x", "y", "edge_index"):
        assert torch.equal(ours[key], theirs[key]), key


def test_random_split_needs_enough_nodes_and_a_known_name(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(ValueError, match="items are left after 20 per class"):
        planetoid.load("CiteSeer", tmp_path, download=False, split="random")
    with pytest.raises(ValueError, match=r"split must be one of public, random, got 'geom'"):
        planetoid.load("CiteSeer", tmp_path, download=False, split="geom")


def test_missing_file_is_named_with_remedy(tmp_path: Path) -> None:
    folder = tmp_path / "CiteSeer" / "raw"
    write(folder)
    (folder / "ind.citeseer.tx").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no file ind\.citeseer\.tx in .*raw; put it there"
    ):
        planetoid.load("CiteSeer", tmp_path, download=False)


@pytest.mark.parametrize("part", ["allx", "ty", "graph"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage"])
def test_damaged_file_is_named(tmp_path: Path, part: str, damage: str) -> None:
    write(tmp_path)
    path = tmp_path / f"ind.citeseer.{part}"
    content = path.read_bytes()
    changed = {"truncated": content[:-9], "empty": b"", "garbage": b"<html>404</html>"}
    path.write_bytes(changed[damage])
    with pytest.raises(ValueError, match=rf"ind\.citeseer\.{part}.*delete it and fetch it again"):
        planetoid.load("CiteSeer", tmp_path, download=False)


def test_matrix_with_indices_out_of_range(tmp_path: Path) -> None:
    write(tmp_path)
    matrix = sp.csr_matrix(np.eye(520, WORDS, dtype=np.float32))
    matrix.indices[2] = 10**6
    (tmp_path / "ind.citeseer.allx").write_bytes(pickle.dumps(matrix, protocol=4))
    with pytest.raises(ValueError, match=r"ind\.citeseer\.allx.*delete it and fetch it again"):
        planetoid.load("CiteSeer", tmp_path, download=False)


def test_hostile_pickle_is_not_run(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "owned"),)

    write(tmp_path / "data")
    (tmp_path / "data" / "ind.citeseer.graph").write_bytes(pickle.dumps(Attack(), protocol=2))
    with pytest.raises(ValueError, match="refused posix.mkdir: only numpy and scipy arrays"):
        planetoid.load("CiteSeer", tmp_path / "data", download=False)
    assert not (tmp_path / "owned").exists()


def test_files_of_two_sets_do_not_mix(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "ind.citeseer.test.index").write_text("521\n522\n")
    with pytest.raises(ValueError, match="do not fit together .2 test indices from 521"):
        planetoid.load("CiteSeer", tmp_path, download=False)


@pytest.mark.shared_data
def test_cora_equals_pyg(data_root: Path, tmp_path: Path) -> None:
    shutil.copytree(data_root / "planetoid" / "Cora" / "raw", tmp_path / "Cora" / "raw")
    theirs = Planetoid(str(tmp_path), "Cora")[0]
    found = planetoid.load("Cora", data_root / "planetoid", download=False)
    for key in ("x", "y", "edge_index"):
        assert torch.equal(found.data[key], theirs[key]), key
    for ours, mask in (("train", "train_mask"), ("valid", "val_mask"), ("test", "test_mask")):
        assert torch.equal(found.splits[0][ours], theirs[mask].nonzero().flatten())
    assert list(found.data.x.shape) == [2708, 1433] and found.data.edge_index.shape[1] == 10556
    assert found.num_classes == 7 and is_undirected(found.data.edge_index)


@pytest.mark.shared_data
def test_cora_random_split(data_root: Path) -> None:
    root = data_root / "planetoid"
    first, again, other = (
        planetoid.load("Cora", root, download=False, split="random", seed=seed)
        for seed in (123, 123, 124)
    )
    parts = first.splits[0]
    assert [len(parts[key]) for key in ("train", "valid", "test")] == [140, 500, 1000]
    assert torch.bincount(first.data.y[parts["train"]]).tolist() == [20] * 7
    assert torch.equal(parts["test"], again.splits[0]["test"])
    assert not torch.equal(parts["test"], other.splits[0]["test"])
    assert first.split_note == "20 per class, 500 valid, 1000 test, seed 123"
