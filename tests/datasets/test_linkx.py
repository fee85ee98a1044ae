"""Facebook100: a miniature data.mat, official splits, damage, PyG's reader."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.io import savemat
from torch_geometric.datasets import LINKXDataset

from graphattn.datasets import linkx

NODES = 61


def write(folder: Path, **changes: object) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(6)
    upper = sp.random(NODES, NODES, 0.08, "csc", rng=draw)
    friends = ((upper + upper.T) > 0).astype(float)
    info = draw.integers(0, 5, (NODES, 7)).astype(np.uint16)
    info[:, 1] = draw.integers(0, 3, NODES)
    info[0, 6] = 60000  # values are codes, not column numbers
    savemat(folder / "data.mat", {"A": friends.tocsc(), "local_info": info} | changes)
    return info


def test_miniature_equals_pyg(tmp_path: Path) -> None:
    info = write(tmp_path / "reed98" / "raw")
    theirs = LINKXDataset(str(tmp_path), "reed98")[0]
    found = linkx.load("reed98", tmp_path, download=False)
    for key in ("x", "y", "edge_index"):
        assert torch.equal(found.data[key], theirs[key]), key
    assert int((found.data.y == -1).sum()) == int((info[:, 1] == 0).sum()) > 0
    assert float(found.data.x.sum()) == NODES * 6


def test_seeded_splits_leave_unlabelled_nodes_out(tmp_path: Path) -> None:
    write(tmp_path / "cornell5" / "raw")
    found = linkx.load("cornell5", tmp_path, download=False, seed=3)
    known = (found.data.y >= 0).nonzero().flatten()
    assert len(found.splits) == 5 and "seeds 3-7" in found.split_note
    for split in found.splits:
        nodes = torch.cat(list(split.values()))
        assert torch.equal(nodes.sort().values, known)
        assert len(split["train"]) == round(len(known) / 2)
    assert not torch.equal(found.splits[0]["test"], found.splits[1]["test"])
    later = linkx.load("cornell5", tmp_path, download=False, seed=4)
    assert torch.equal(found.splits[1]["test"], later.splits[0]["test"])


def test_official_splits_of_penn94(tmp_path: Path) -> None:
    folder = tmp_path / "penn94" / "raw"
    write(folder)
    seeded = linkx.load("penn94", tmp_path, download=False)
    assert len(seeded.splits) == 5 and seeded.split_note.startswith("five random")
    splits = np.array(
        [{"train": [5, i], "valid": [7], "test": list(range(10, 14))} for i in range(2)], object
    )
    np.save(folder / "fb100-Penn94-splits.npy", splits, allow_pickle=True)
    found = linkx.load("penn94", tmp_path, download=False)
    assert found.split_note == "official splits" and len(found.splits) == 2
    assert found.splits[1]["train"].tolist() == [5, 1]
    assert found.splits[1]["test"].tolist() == [10, 11, 12, 13]
    # Both are sources: an official file that appears later must not be hidden by the cache.
    assert seeded.sources == found.sources and len(found.sources) == 2


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01", pickle.dumps({"train": []})])
def test_damaged_split_file(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "penn94" / "raw"
    write(folder)
    (folder / "fb100-Penn94-splits.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"Penn94-splits\.npy .*delete it and fetch it again"):
        linkx.load("penn94", tmp_path, download=False)


def test_damaged_and_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file data\.mat in .*reed98.*raw.*Reed98\.mat"):
        linkx.load("reed98", tmp_path, download=False)
    folder = tmp_path / "reed98" / "raw"
    write(folder)
    content = (folder / "data.mat").read_bytes()
    (folder / "data.mat").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"data\.mat .*delete it and fetch it again"):
        linkx.load("reed98", tmp_path, download=False)


def test_download_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "server" / "facebook100")
    source = tmp_path / "server" / "facebook100"
    (source / "data.mat").rename(source / "Johns Hopkins55.mat")
    monkeypatch.setattr(linkx, "_URL", (tmp_path / "server").as_uri())
    found = linkx.load("johnshopkins55", tmp_path, download=True)
    path = tmp_path / "johnshopkins55" / "raw" / "data.mat"
    assert found.sources == (str(path),) and list(path.parent.iterdir()) == [path]


# school, nodes, edges, features, nodes by label: unlabelled, female, male
REAL = [
    ("cornell5", 18660, 1581554, 4735, [1838, 8135, 8687]),
    ("reed98", 962, 37624, 745, [97, 504, 361]),
]


@pytest.mark.shared_data
@pytest.mark.parametrize(("school", "n", "e", "f", "genders"), REAL)
def test_published_counts(
    data_root: Path, school: str, n: int, e: int, f: int, genders: list[int]
) -> None:
    found = linkx.load(school, data_root / "linkx", download=False)
    assert list(found.data.x.shape) == [n, f] and found.data.edge_index.shape[1] == e
    assert torch.bincount(found.data.y + 1).tolist() == genders and found.num_classes == 2
    assert sum(len(part) for part in found.splits[4].values()) == n - genders[0]


@pytest.mark.shared_data
def test_reed98_equals_pyg(data_root: Path, tmp_path: Path) -> None:
    shutil.copytree(data_root / "linkx" / "reed98" / "raw", tmp_path / "reed98" / "raw")
    theirs = LINKXDataset(str(tmp_path), "reed98")[0]
    found = linkx.load("reed98", data_root / "linkx", download=False)
    for key in ("x", "y", "edge_index"):
        assert torch.equal(found.data[key], theirs[key]), key
