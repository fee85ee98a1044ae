"""The heterophilous npz files: both layouts, damage, downloads, published counts."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.datasets import HeterophilousGraphDataset
from torch_geometric.utils import homophily, is_undirected

from graphattn.datasets import heterophilous

# A path with a self-loop and a hub; node 6 is isolated; every undirected edge once.
EDGES = np.array([[0, 1], [2, 1], [3, 1], [4, 4], [5, 1]])


def write(path: Path, **changes: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(1)
    part = draw.permuted(np.tile([0, 0, 0, 1, 1, 2, 2], (10, 1)), axis=1)
    arrays = {
        "node_features": draw.random((7, 3)).astype(np.float32),
        "node_labels": np.array([0, 1, 0, 1, 1, 0, 0]),
        "edges": EDGES,
        "train_masks": part == 0,
        "val_masks": part == 1,
        "test_masks": part == 2,
    }
    np.savez_compressed(path, **(arrays | changes))


@pytest.mark.parametrize("layout", ["roman_empire/raw/roman_empire.npz", "roman_empire.npz"])
def test_both_layouts(tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / layout)
    found = heterophilous.load("roman-empire", tmp_path, download=False)
    pairs = sorted(map(tuple, found.data.edge_index.t().tolist()))
    assert pairs == [(0, 1), (1, 0), (1, 2), (1, 3), (1, 5), (2, 1), (3, 1), (4, 4), (5, 1)]
    assert "roman-empire: 5 edges in the file, 9 returned" in capsys.readouterr().err
    assert len(found.splits) == 10 and found.sources == (str(tmp_path / layout),)
    for split in found.splits:
        assert torch.cat(list(split.values())).sort().values.tolist() == list(range(7))
    assert (found.metric, found.task, found.num_classes) == ("acc", "multiclass", 2)


def test_binary_sets_use_rocauc(tmp_path: Path) -> None:
    write(tmp_path / "tolokers.npz")
    found = heterophilous.load("tolokers", tmp_path, download=False)
    assert (found.metric, found.task) == ("rocauc", "binary")
    assert found.evaluate(torch.tensor([0.1, 0.9, 0.2]), torch.tensor([0, 1, 0])) == 1.0


def test_equals_pyg(tmp_path: Path) -> None:
    write(tmp_path / "roman_empire" / "raw" / "roman_empire.npz")
    ours = heterophilous.load("roman-empire", tmp_path, download=False)
    theirs = HeterophilousGraphDataset(str(tmp_path), "Roman-empire")[0]
    for key in ("x", "y", "edge_index"):
        assert torch.equal(ours.data[key], theirs[key]), key
    assert torch.equal(ours.splits[7]["valid"], theirs.val_mask[:, 7].nonzero().flatten())


@pytest.mark.parametrize("cut", [0, 40, -30])
def test_truncated_file(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "questions.npz"
    write(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(
        ValueError, match=r"questions\.npz .*truncated.*delete it and fetch it again"
    ):
        heterophilous.load("questions", tmp_path, download=False)


def test_flipped_byte_in_compressed_data(tmp_path: Path) -> None:
    path = tmp_path / "actor.npz"
    write(path)
    content = bytearray(path.read_bytes())
    content[120] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"actor\.npz .*delete it and fetch it again"):
        heterophilous.load("actor", tmp_path, download=False)


def test_wrong_contents(tmp_path: Path) -> None:
    write(tmp_path / "actor.npz", edges=np.array([[0, 7]]))
    with pytest.raises(ValueError, match=r"edge_index holds 7, expected 0\.\.6"):
        heterophilous.load("actor", tmp_path, download=False)
    write(tmp_path / "actor.npz", node_features=np.ones((5, 2), np.float32))
    with pytest.raises(ValueError, match=r"5 feature rows for 7 nodes"):
        heterophilous.load("actor", tmp_path, download=False)
    np.savez(tmp_path / "actor.npz", edges=EDGES)
    with pytest.raises(ValueError, match="has no array node_features, node_labels"):
        heterophilous.load("actor", tmp_path, download=False)


def test_missing_file_names_both_places_and_the_address(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        heterophilous.load("roman-empire", tmp_path, download=False)
    text = str(caught.value)
    assert f"no file roman_empire.npz in {tmp_path / 'roman_empire' / 'raw'}" in text
    assert "or roman_empire.npz" in text and "download=True" in text and "github.com" in text
    assert not list(tmp_path.iterdir())


def test_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "server" / "actor.npz")
    monkeypatch.setattr(heterophilous, "_URL", (tmp_path / "server").as_uri())
    found = heterophilous.load("actor", tmp_path / "root", download=True)
    path = tmp_path / "root" / "actor" / "raw" / "actor.npz"
    assert found.sources == (str(path),) and list(path.parent.iterdir()) == [path]


def test_failed_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = (tmp_path / "nowhere").as_uri()
    monkeypatch.setattr(heterophilous, "_URL", address)
    with pytest.raises(FileNotFoundError) as caught:
        heterophilous.load("actor", tmp_path / "root", download=True)
    target = tmp_path / "root" / "actor" / "raw"
    assert f"cannot download {address}/actor.npz into {target}" in str(caught.value)
    assert f"by hand and save it as {target / 'actor.npz'}" in str(caught.value)
    assert not list(target.iterdir())


def test_download_into_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("a file, so no folder can be made below it")
    with pytest.raises(FileNotFoundError, match="pass a root= that can be written to"):
        heterophilous.load("actor", tmp_path / "root", download=True)


# name, folder, nodes, edges in the file, features, classes, sizes of split 0, edge homophily
REAL = [
    ("minesweeper", "heterophilous", 10000, 39402, 7, 2, (5000, 2500, 2500), 0.68),
    ("actor", "heterophilous_extra", 7600, 26659, 932, 5, (3648, 2432, 1520), 0.22),
    ("chameleon_filtered", "heterophilous_extra", 890, 8854, 2325, 5, (409, 287, 194), 0.24),
]


@pytest.mark.shared_data
@pytest.mark.parametrize(("name", "folder", "n", "e", "f", "c", "sizes", "same"), REAL)
def test_published_counts(
    data_root: Path, name: str, folder: str, n: int, e: int, f: int, c: int,
    sizes: tuple[int, ...], same: float,
) -> None:  # fmt: skip
    found = heterophilous.load(name, data_root / folder, download=False)
    assert list(found.data.x.shape) == [n, f] and found.num_classes == c
    assert found.data.edge_index.shape[1] == 2 * e and is_undirected(found.data.edge_index)
    assert len(found.splits) == 10
    assert tuple(len(found.splits[0][key]) for key in ("train", "valid", "test")) == sizes
    assert homophily(found.data.edge_index, found.data.y, method="edge") == pytest.approx(
        same, abs=0.005
    )


@pytest.mark.shared_data
def test_minesweeper_is_the_grid_and_equals_pyg(data_root: Path, tmp_path: Path) -> None:
    source = data_root / "heterophilous" / "minesweeper" / "raw"
    shutil.copytree(source, tmp_path / "minesweeper" / "raw")
    theirs = HeterophilousGraphDataset(str(tmp_path), "Minesweeper")[0]
    found = heterophilous.load("minesweeper", data_root / "heterophilous", download=False)
    for key in ("x", "y", "edge_index"):
        assert torch.equal(found.data[key], theirs[key]), key
    row, column = found.data.edge_index // 100, found.data.edge_index % 100
    assert int((row[0] - row[1]).abs().max()) == int((column[0] - column[1]).abs().max()) == 1
    assert int(found.data.y.sum()) == 2000
