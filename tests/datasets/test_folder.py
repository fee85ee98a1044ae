"""A user's own folder of .npy files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from graphattn.datasets.catalogue import load_dataset

EDGES = np.array([[0, 1, 1, 4, 2, 2], [1, 2, 2, 3, 2, 0]])


def write(folder: Path, **arrays: object) -> Path:
    folder.mkdir(exist_ok=True)
    for key, array in arrays.items():
        np.save(folder / f"{key}.npy", np.asarray(array))
    return folder


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    return write(
        tmp_path / "my_graph",
        edge_index=EDGES.astype(np.int32),
        x=np.arange(24, dtype=np.float64).reshape(12, 2),
        y=np.arange(12) % 3,
    )


def test_by_name_under_root_and_by_path(mine: Path) -> None:
    first = load_dataset("my_graph", mine.parent)
    second = load_dataset(str(mine))
    for dataset in (first, second):
        data = dataset.data
        assert data.edge_index.tolist() == EDGES.tolist() and data.edge_index.dtype == torch.int64
        assert data.x.dtype == torch.float32 and data.num_nodes == 12
        assert (dataset.name, dataset.task, dataset.metric) == ("my_graph", "multiclass", "acc")
        assert dataset.num_classes == 3
        assert dataset.split_note == "seeded random split, seed 0, 50/25/25"
    other = load_dataset("my_graph", mine.parent, seed=1)
    assert not torch.equal(other.splits[0]["train"], first.splits[0]["train"])


def test_a_changed_file_is_seen(mine: Path) -> None:
    load_dataset(str(mine))
    write(mine, y=np.arange(12) % 2)
    assert load_dataset(str(mine)).num_classes == 2
    write(mine, train=[0, 1, 2], valid=[3], test=[4])
    assert load_dataset(str(mine)).split_note == "the folder's split"


def test_undirected_averages_edge_features(mine: Path) -> None:
    write(mine, edge_attr=[1.0, 2.0, 4.0, 5.0, 6.0, 7.0])
    dataset = load_dataset(str(mine), undirected=True)
    pairs = dict(zip(map(tuple, dataset.data.edge_index.t().tolist()), range(99), strict=False))
    attr = dataset.data.edge_attr.flatten().tolist()
    assert attr[pairs[1, 2]] == attr[pairs[2, 1]] == 3.0
    assert attr[pairs[2, 2]] == 6.0 and len(attr) == 9
    assert "6 edges in the file, 9 returned" in dataset.edge_note


def test_an_encoding_of_ones_own(mine: Path) -> None:
    assert load_dataset(str(mine)).data.get("pe") is None
    write(mine, pe=np.arange(36, dtype=np.float16).reshape(12, 3))
    pe = load_dataset(str(mine)).data.pe
    assert pe.dtype == torch.float32 and torch.equal(pe, torch.arange(36.0).view(12, 3))


def test_csr_and_the_other_names(tmp_path: Path) -> None:
    indptr, indices = [0, 1, 1, 4, 5], [2, 0, 1, 1, 3]
    masks = np.eye(4, dtype=bool)
    folder = write(
        tmp_path / "csr", indptr=indptr, indices=np.array(indices, np.int32),
        features=np.ones((4, 1), np.float16), labels=[0, 1, 0, 1],
        split_train=masks[[0, 1]] | masks[[1, 0]], split_valid=masks[[2, 3]],
        split_test=masks[[3, 2]],
    )  # fmt: skip
    dataset = load_dataset(str(folder))
    assert dataset.data.edge_index.tolist() == [[2, 0, 1, 1, 3], [0, 2, 2, 2, 3]]
    assert [s["valid"].tolist() for s in dataset.splits] == [[2], [3]]
    assert dataset.splits[0]["train"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("labels", "meta", "expected"),
    [
        (np.linspace(0, 1, 12), {}, ("regression", "rmse", 1)),
        (np.array([np.nan, *range(11)]), {}, ("regression", "rmse", 1)),
        (np.eye(12, 4, dtype=int), {}, ("multilabel", "rocauc", 4)),
        (np.arange(12) % 2, {"task": "binary"}, ("binary", "rocauc", 2)),
        (np.arange(12) % 2, {"task": "binary", "metric": "ap"}, ("binary", "ap", 2)),
        (np.arange(12) % 2, {"num_classes": 2}, ("multiclass", "acc", 2)),
    ],
)
def test_tasks(mine: Path, labels: np.ndarray, meta: dict, expected: tuple) -> None:
    write(mine, y=labels)
    (mine / "meta.json").write_text(json.dumps(meta))
    dataset = load_dataset(str(mine))
    assert (dataset.task, dataset.metric, dataset.num_classes) == expected


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"edge_index": EDGES.T}, ValueError, r"\[2, E\], got \[6, 2\]; transpose"),
        ({"edge_index": EDGES + 9}, ValueError, "holds 13, expected 0..11"),
        ({"edge_index": EDGES - 1}, ValueError, "holds -1"),
        ({"edge_index": EDGES * 1.0}, TypeError, "integers, got float64"),
        ({"x": np.full((12, 1), np.nan)}, ValueError, "12 of 12 feature rows"),
        ({"x": np.ones((11, 1))}, ValueError, "x has 11 rows but y has 12"),
        ({"y": np.array([0, 3] * 6)}, ValueError, "no training item of class 1, 2"),
        ({"y": np.full(12, -2)}, ValueError, r"12 labels.*below -1 \(first: node 0 has -2\)"),
        ({"y": np.full(12, -1)}, ValueError, "none of the 12 nodes in y has a label"),
        ({"y": np.full(12, np.nan)}, ValueError, "none of the 12 nodes in y has a label"),
        ({"x": np.full(12, None)}, ValueError, r"x\.npy .*save it again with np\.save"),
        ({"x": np.full(12, "a")}, ValueError, r"x\.npy .*not numbers.*save it again"),
        ({"edge_attr": np.ones(5)}, ValueError, "edge_attr has 5 rows"),
        ({"train": [0, 1], "valid": [1], "test": [2]}, ValueError, "valid overlaps train"),
        ({"train": [0, 1], "test": [2]}, FileNotFoundError, "valid.npy"),
        ({"train": np.ones((2, 12), bool), "valid": [1], "test": [2]}, ValueError, "splits"),
        ({"train": np.ones(7, bool), "valid": [1], "test": [2]}, ValueError, "7 entries"),
    ],
)
def test_wrong_input(mine: Path, arrays: dict, error: type[Exception], message: str) -> None:
    write(mine, **arrays)
    with pytest.raises(error, match=message):
        load_dataset(str(mine))


def test_wrong_meta_and_missing_labels(mine: Path) -> None:
    (mine / "meta.json").write_text('{"tsak": "binary"}')
    with pytest.raises(ValueError, match="unknown.*tsak.*known are task"):
        load_dataset(str(mine))
    (mine / "meta.json").write_text('{"task": "ranking"}')
    with pytest.raises(ValueError, match="'ranking' is not one of"):
        load_dataset(str(mine))
    for text in ("{", "5"):
        (mine / "meta.json").write_text(text)
        with pytest.raises(ValueError, match=r"meta\.json .*correct the JSON"):
            load_dataset(str(mine))
    (mine / "y.npy").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no file y\.npy in .*expected are edge_index\.npy"
    ):
        load_dataset(str(mine))


def test_bad_csr_and_truncated_array(tmp_path: Path, mine: Path) -> None:
    folder = write(tmp_path / "csr", indptr=[0, 1], indices=[0, 1], y=[0, 1])
    with pytest.raises(ValueError, match=r"indptr must be \[3\]"):
        load_dataset(str(folder))
    path = mine / "x.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"x\.npy .*truncated"):
        load_dataset(str(mine))
