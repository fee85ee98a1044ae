"""The memory-mapped cache: what comes back, when it is rebuilt, and what it survives."""

import json
import logging
import os
import time
from pathlib import Path

import pytest
import torch
from torch_geometric.data import Data

from graphattn.datasets import cache
from graphattn.datasets.base import GraphDataset, NodeDataset
from graphattn.datasets.catalogue import load_dataset
from graphattn.datasets.metrics import evaluator
from tests.datasets.ogb_layout import write_arxiv


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHATTN_CACHE", str(tmp_path / "cache"))


def entries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache/datasets").iterdir())


def toy_node(sources: tuple[str, ...] = ()) -> NodeDataset:
    data = Data(
        x=torch.rand(5, 3).t().contiguous().t(),
        edge_index=torch.empty(2, 0, dtype=torch.int64),
        y=torch.tensor([0, 1, 2, -1, 0]),
        num_nodes=5,
        names=["a", "b"],
        weight=torch.tensor(0.5),
        flag=torch.tensor([True, False]),
    )
    splits = [{k: torch.tensor([i]) for i, k in enumerate(("train", "valid", "test"))}] * 2
    return NodeDataset(
        data, splits, "acc", evaluator("acc"), "toy", 3, "multiclass", "note", "edges", sources
    )


def toy_graphs() -> GraphDataset:
    graphs = [
        Data(
            x=torch.rand(n, 2),
            edge_index=torch.randint(0, n, (2, e)),
            y=torch.tensor([n]),
            scale=torch.tensor(float(n)),
            num_nodes=n,
        )
        for n, e in ((3, 4), (1, 0), (6, 11))
    ]
    splits = [{k: torch.tensor([i]) for i, k in enumerate(("train", "valid", "test"))}]
    return GraphDataset(graphs, splits, "acc", evaluator("acc"), "toys", 7)


def same(a: Data, b: Data) -> None:
    assert sorted(a.keys()) == sorted(b.keys())
    for key in a.keys():  # noqa: SIM118 - a Data iterates over pairs
        if isinstance(a[key], torch.Tensor):
            assert a[key].dtype == b[key].dtype and torch.equal(a[key], b[key])
        else:
            assert a[key] == b[key]


def test_node_round_trip() -> None:
    dataset, folder = toy_node(), cache.entry("toy", "data", seed=0)
    opened = cache.store(dataset, folder)
    assert opened is not dataset and isinstance(opened, NodeDataset)
    same(dataset.data, opened.data)
    assert opened.evaluate == dataset.evaluate and opened.split_note == "note"
    assert len(opened.splits) == 2 and opened.splits[1]["test"].tolist() == [2]
    assert opened.num_classes == 3 and opened.edge_note == "edges"


def test_graphs_round_trip() -> None:
    dataset = toy_graphs()
    opened = cache.store(dataset, cache.entry("toys", "data"))
    assert opened is not dataset and isinstance(opened, GraphDataset)
    for a, b in zip(dataset.graphs, opened.graphs, strict=True):
        same(a, b)


def test_writing_to_a_tensor_does_not_reach_the_file() -> None:
    folder = cache.entry("toy", "data")
    opened = cache.store(toy_node(), folder)
    before = opened.data.x.clone()
    opened.data.x.fill_(9)
    again = cache.open_entry(folder)
    assert again is not None and torch.equal(again.data.x, before)


def test_entry_name_and_options() -> None:
    a = cache.entry("odd/name", "data", seed=0)
    assert a == cache.entry("odd/name", os.path.abspath("data"), seed=0)
    assert "/name" not in a.name and a.parent.name == "datasets"
    assert len({a, cache.entry("odd/name", "data", seed=1), cache.entry("odd/name", "x")}) == 3


def test_second_load_reads_no_raw_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphattn.datasets import ogbn

    write_arxiv(tmp_path)
    first = load_dataset("ogbn-arxiv", tmp_path, seed=0)
    monkeypatch.setattr(ogbn, "load", None)
    start = time.perf_counter()
    second = load_dataset("ogbn-arxiv", tmp_path, seed=5)  # OGB's split does not depend on it
    assert time.perf_counter() - start < 1
    same(first.data, second.data)
    assert len(entries(tmp_path)) == 1


def test_nothing_is_written_under_the_root(tmp_path: Path) -> None:
    folder = write_arxiv(tmp_path / "root")
    before = sorted(folder.rglob("*"))
    load_dataset("ogbn-arxiv", tmp_path / "root")
    assert sorted(folder.rglob("*")) == before
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["ogbn_arxiv"]


def test_changed_raw_file_rebuilds(tmp_path: Path) -> None:
    folder = write_arxiv(tmp_path, seed=0)
    first = load_dataset("ogbn-arxiv", tmp_path)
    write_arxiv(tmp_path, seed=1)
    second = load_dataset("ogbn-arxiv", tmp_path)
    assert not torch.equal(first.data.x, second.data.x)
    assert len(entries(tmp_path)) == 1
    (folder / "raw/edge.csv.gz").unlink()
    with pytest.raises(FileNotFoundError, match="edge"):
        load_dataset("ogbn-arxiv", tmp_path)


def test_an_optional_source_that_appears_rebuilds(tmp_path: Path) -> None:
    absent = tmp_path / "mask.npy"
    folder = cache.entry("toy", tmp_path)
    cache.store(toy_node((str(absent),)), folder)
    assert cache.open_entry(folder) is not None
    absent.write_text("")
    assert cache.open_entry(folder) is None


def damage(folder: Path, how: str) -> None:
    """Replaces files, as another process would: the first load's maps keep the old ones."""
    if how == "truncated":
        path = cache.tensor_file(folder, "data.x")
        content = path.read_bytes()[:-700]
        path.unlink()
        path.write_bytes(content)
    elif how == "removed":
        cache.tensor_file(folder, "split0.train").unlink()
    elif how == "garbage":
        cache.tensor_file(folder, "data.y").unlink()
        cache.tensor_file(folder, "data.y").write_bytes(b"garbage")
    elif how == "no meta":
        (folder / "meta.json").unlink()
    elif how == "half meta":
        (folder / "meta.json").write_text('{"format": 1')
    elif how == "other shape":
        meta = json.loads((folder / "meta.json").read_text())
        meta["tensors"]["data.x"][1] = [7, 7]
        (folder / "meta.json").write_text(json.dumps(meta))
    else:
        meta = json.loads((folder / "meta.json").read_text())
        del meta["evaluator"]
        (folder / "meta.json").write_text(json.dumps(meta))


@pytest.mark.parametrize(
    "how",
    ["truncated", "removed", "garbage", "no meta", "half meta", "other shape", "no evaluator"],
)
def test_damaged_entry_is_rebuilt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    write_arxiv(tmp_path)
    first = load_dataset("ogbn-arxiv", tmp_path)
    (folder,) = entries(tmp_path)
    damage(folder, how)
    with caplog.at_level(logging.WARNING, "graphattn"):
        second = load_dataset("ogbn-arxiv", tmp_path)
    assert "rebuilding" in caplog.text and folder.name in caplog.text
    same(first.data, second.data)
    assert cache.open_entry(folder) is not None and entries(tmp_path) == [folder]


def test_an_older_format_is_rebuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_arxiv(tmp_path)
    load_dataset("ogbn-arxiv", tmp_path)
    (folder,) = entries(tmp_path)
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    assert cache.open_entry(folder) is None
    assert cache.entry("ogbn-arxiv", tmp_path, undirected=False, seed=0) != folder


def test_failed_build_leaves_nothing(tmp_path: Path) -> None:
    folder = cache.entry("toy", "data")
    dataset = toy_node()
    dataset.data.odd = object()
    with pytest.raises(TypeError, match="'odd' of type object"):
        cache.store(dataset, folder)
    assert entries(tmp_path) == []
    dataset = toy_node()
    dataset.evaluate = lambda scores, labels: 0.0
    with pytest.raises(TypeError, match=r"metrics\.evaluator"):
        cache.store(dataset, folder)


def test_unwritable_cache_is_not_fatal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GRAPHATTN_CACHE", str(tmp_path / "file"))
    write_arxiv(tmp_path)
    with caplog.at_level(logging.WARNING, "graphattn"):
        dataset = load_dataset("ogbn-arxiv", tmp_path)
    assert dataset.data.num_nodes == 301 and "cannot cache ogbn-arxiv" in caplog.text
    assert "damaged" not in caplog.text
