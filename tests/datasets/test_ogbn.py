"""OGB node sets against OGB's own readers on small folders in the official raw layout."""

import builtins
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from graphattn.datasets import cache, ogb_raw, ogbn_papers
from graphattn.datasets.base import symmetrise
from graphattn.datasets.catalogue import load_dataset
from tests.datasets.ogb_layout import (
    write_arxiv,
    write_csv,
    write_mag,
    write_papers,
    write_products,
    write_proteins,
)

few_labels = pytest.mark.filterwarnings("ignore:.*has no item of class:UserWarning")


@pytest.fixture(autouse=True)
def never_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> str:
        raise AssertionError("asked on stdin")

    monkeypatch.setattr(builtins, "input", refuse)


def official(folder: Path, **options: object) -> dict[str, np.ndarray]:
    """The graph as ogb's own reader sees it."""
    from ogb.io.read_graph_raw import read_csv_graph_raw

    graph: dict[str, np.ndarray] = read_csv_graph_raw(str(folder / "raw"), **options)[0]
    return graph


def test_arxiv_equals_ogbs_reader(tmp_path: Path) -> None:
    folder = write_arxiv(tmp_path)
    dataset = load_dataset("ogbn-arxiv", tmp_path, download=False)
    graph = official(folder, additional_node_files=["node_year"])
    data = dataset.data
    assert data.x.dtype == torch.float32 and data.y.dtype == torch.int64
    np.testing.assert_array_equal(data.x.numpy(), graph["node_feat"])
    np.testing.assert_array_equal(data.edge_index.numpy(), graph["edge_index"])
    np.testing.assert_array_equal(data.node_year.numpy(), graph["node_year"][:, 0])
    assert data.y.shape == (301,) and data.num_nodes == 301
    assert dataset.metric == "acc" and dataset.task == "multiclass" and dataset.num_classes == 40
    assert "official" in dataset.split_note and len(dataset.splits) == 1
    assert [len(dataset.splits[0][k]) for k in ("train", "valid", "test")] == [181, 60, 60]


def test_arxiv_undirected_says_both_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_arxiv(tmp_path)
    directed = load_dataset("arxiv", tmp_path, download=False)
    dataset = load_dataset("OGBN_arxiv", str(tmp_path), download=False, undirected=True)
    expected, _ = symmetrise(directed.data.edge_index, 301)
    assert torch.equal(dataset.data.edge_index, expected)
    before, after = directed.data.edge_index.shape[1], expected.shape[1]
    assert before < after
    assert f"{before:,} edges in the file, {after:,} returned" in capsys.readouterr().err


def test_evaluator_is_ogbs(tmp_path: Path) -> None:
    write_arxiv(tmp_path)
    dataset = load_dataset("ogbn-arxiv", tmp_path, download=False)
    y = dataset.data.y[:8]
    scores = torch.nn.functional.one_hot(y, 40).float()
    scores[:2] = scores[:2].roll(1, 1)
    assert dataset.evaluate(scores, y) == 0.75
    assert dataset.evaluate(scores.argmax(1), y[:, None]) == 0.75


def test_ogb_import_does_not_look_for_a_newer_ogb(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphattn.datasets.metrics import _ogb_info

    asked = []
    outdated = types.ModuleType("outdated")
    outdated.check_outdated = lambda *a: asked.append(a)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "outdated", outdated)
    for module in [name for name in sys.modules if name.split(".")[0] == "ogb"]:
        monkeypatch.delitem(sys.modules, module)
    _ogb_info.cache_clear()
    _ogb_info("ogb:ogbn-arxiv")
    assert "ogb.version" in sys.modules and not asked
    assert sys.modules["outdated"] is outdated


@few_labels
def test_products_adds_inverse_edges_in_ogbs_order(tmp_path: Path) -> None:
    graph = official(write_products(tmp_path), add_inverse_edge=True)
    dataset = load_dataset("ogbn-products", tmp_path, download=False)
    np.testing.assert_array_equal(dataset.data.edge_index.numpy(), graph["edge_index"])
    assert dataset.data.x.dtype == torch.float32 and dataset.num_classes == 47


@pytest.mark.parametrize("species", ["species", "node_species"])
def test_proteins_has_edge_features_and_112_tasks(tmp_path: Path, species: str) -> None:
    folder = write_proteins(tmp_path, species)
    dataset = load_dataset("ogbn-proteins", tmp_path, download=False)
    assert (folder / f"raw/{species}.csv.gz").exists()  # ogb renames it; a read-only root cannot
    graph = official(folder, add_inverse_edge=True)
    np.testing.assert_array_equal(dataset.data.edge_index.numpy(), graph["edge_index"])
    np.testing.assert_array_equal(dataset.data.edge_attr.numpy(), graph["edge_feat"])
    assert dataset.data.x is None and dataset.data.num_nodes == 5
    assert dataset.data.node_species.tolist() == [3702, 3702, 4932, 4932, 6239]
    assert dataset.data.y.shape == (5, 112) and dataset.task == "multilabel"
    value = dataset.evaluate(torch.rand(5, 112), dataset.data.y)
    assert 0 < value < 1
    with pytest.raises(ValueError, match="112"):
        dataset.evaluate(torch.rand(5, 3), dataset.data.y[:, :3])


@few_labels
def test_mag_as_homogeneous_graph(tmp_path: Path) -> None:
    write_mag(tmp_path)
    dataset = load_dataset("mag", tmp_path, download=False)
    data = dataset.data
    assert data.node_type.tolist() == [0, 0, 1, 1, 1, 2, 3, 3, 3, 3]
    assert data.node_type_names == ["author", "field_of_study", "institution", "paper"]
    assert data.edge_type.tolist() == [0, 1, 1, 1, 2, 2, 2, 3, 3]
    assert data.edge_type_names[1] == "author___writes___paper"
    assert data.edge_index[:, :4].tolist() == [[1, 0, 1, 1], [5, 6, 9, 8]]
    assert data.x[:6].abs().sum() == 0 and data.x[9, 127] == 511 / 64
    assert data.y.tolist() == [-1] * 6 + [348, 0, 7, 7]
    assert data.node_year.tolist() == [-1] * 6 + [2015, 2017, 2018, 2019]
    assert dataset.splits[0]["train"].tolist() == [6, 7]
    again = load_dataset("ogbn-mag", tmp_path, download=False)
    assert again.data.node_type_names == data.node_type_names


@few_labels
def test_mag_undirected_gives_reverse_relations_their_own_type(tmp_path: Path) -> None:
    write_mag(tmp_path)
    data = load_dataset("mag", tmp_path, download=False, undirected=True).data
    assert data.edge_type_names[4:] == [
        "institution___rev_affiliated_with___author",
        "paper___rev_writes___author",
        "field_of_study___rev_has_topic___paper",
    ]
    cites = data.edge_index[:, data.edge_type == 2]
    assert cites.tolist() == [[6, 7, 8, 9], [7, 6, 9, 8]]
    writes, reverse = (data.edge_index[:, data.edge_type == t] for t in (1, 5))
    assert torch.equal(reverse, writes.flip(0))


@pytest.mark.parametrize("fortran", [True, False])
def test_papers_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fortran: bool) -> None:
    folder = write_papers(tmp_path, fortran=fortran)
    monkeypatch.setattr(ogbn_papers, "_BLOCK", 100)
    dataset = load_dataset("ogbn-papers100m", tmp_path, download=False)
    raw = np.load(folder / "raw/data.npz")
    data = dataset.data
    np.testing.assert_array_equal(data.x.numpy(), raw["node_feat"].astype(np.float32))
    np.testing.assert_array_equal(data.edge_index.numpy(), raw["edge_index"])
    assert data.edge_index.is_contiguous() and data.node_year.shape == (257,)
    assert data.y[:180].tolist() == [i % 172 for i in range(180)] and (data.y[180:] == -1).all()
    assert dataset.num_classes == 172 and dataset.metric == "acc"
    monkeypatch.setattr(ogbn_papers, "load", None)  # the second load must not stream again
    assert torch.equal(load_dataset("papers100m", tmp_path).data.x, data.x)


def test_papers_symmetrised_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_papers(tmp_path)
    monkeypatch.setattr(ogbn_papers, "_BLOCK", 64)
    directed = load_dataset("ogbn-papers100M", tmp_path, download=False).data
    data = load_dataset("ogbn-papers100M", tmp_path, download=False, undirected=True).data
    assert torch.equal(data.edge_index, symmetrise(directed.edge_index, 257)[0])
    path = tmp_path / "edges.npy"
    np.save(path, directed.edge_index.numpy())
    ogbn_papers.symmetrise_file(path, 257, bucket=90)
    assert torch.equal(cache.map_tensor(path), data.edge_index)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["edges.npy", "ogbn_papers100M"]


def test_papers_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_papers(tmp_path)
    usage = ogbn_papers.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(ogbn_papers.shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(OSError, match="GRAPHATTN_CACHE"):
        load_dataset("ogbn-papers100M", tmp_path, download=False)


def test_papers_truncated(tmp_path: Path) -> None:
    archive = write_papers(tmp_path) / "raw/data.npz"
    archive.write_bytes(archive.read_bytes()[:-400])
    with pytest.raises(ValueError, match=r"data\.npz.*truncated"):
        load_dataset("ogbn-papers100M", tmp_path, download=False)


@pytest.mark.parametrize(
    "missing",
    ["raw/edge.csv.gz", "raw/node-feat.csv.gz", "raw/node-label.csv.gz", "split/time/valid.csv.gz"],
)
def test_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    folder = write_arxiv(tmp_path)
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"{Path(missing).name}.*ogbn_arxiv.*download"):
        load_dataset("ogbn-arxiv", tmp_path)


def test_missing_folder_without_download(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder ogbn_arxiv.*download=True.*arxiv\.zip"):
        load_dataset("ogbn-arxiv", tmp_path, download=False)


def test_truncated_gzip(tmp_path: Path) -> None:
    path = write_arxiv(tmp_path) / "raw/node-feat.csv.gz"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"node-feat\.csv\.gz \(5,000 bytes\) is truncated"):
        load_dataset("ogbn-arxiv", tmp_path, download=False)


def test_too_few_rows(tmp_path: Path) -> None:
    write_csv(write_arxiv(tmp_path) / "raw/node_year.csv.gz", [2015] * 300)
    with pytest.raises(ValueError, match="300 rows, expected 301"):
        load_dataset("ogbn-arxiv", tmp_path, download=False)


def test_text_and_floats_where_edges_belong(tmp_path: Path) -> None:
    path = write_arxiv(tmp_path) / "raw/edge.csv.gz"
    rows = 301
    write_csv(path.with_name("num-edge-list.csv.gz"), [rows])
    write_csv(path, np.full((rows, 2), 0.5))
    with pytest.raises(ValueError, match="two integers"):
        load_dataset("ogbn-arxiv", tmp_path, download=False)
    write_csv(path, np.full((rows, 2), "a"))
    with pytest.raises(ValueError, match=r"edge\.csv\.gz.*expected layout"):
        load_dataset("ogbn-arxiv", tmp_path, download=False)


def test_nan_features(tmp_path: Path) -> None:
    features = np.ones((301, 128))
    features[[17, 40], 3] = np.nan
    write_csv(write_arxiv(tmp_path) / "raw/node-feat.csv.gz", features)
    with pytest.raises(ValueError, match=r"2 of 301 feature rows.*row 17"):
        load_dataset("ogbn-arxiv", tmp_path, download=False)


@few_labels
def test_other_release_is_loaded_with_a_warning(tmp_path: Path) -> None:
    folder = write_mag(tmp_path)
    (folder / "RELEASE_v2.txt").rename(folder / "RELEASE_v1.txt")
    with pytest.warns(UserWarning, match=r"no RELEASE_v2\.txt \(found: RELEASE_v1\.txt\)"):
        load_dataset("ogbn-mag", tmp_path, download=False)


def test_label_and_class_checks(tmp_path: Path) -> None:
    path = write_arxiv(tmp_path) / "raw/node-label.csv.gz"
    labels = np.arange(301) % 40
    labels[250] = 40
    write_csv(path, labels)
    with pytest.raises(ValueError, match=r"expected 0\.\.39 \(first: item 250 has 40\)"):
        load_dataset("ogbn-arxiv", tmp_path, download=False)
    write_csv(path, np.arange(301) % 39)
    with pytest.warns(UserWarning, match="no item of class 39"):
        load_dataset("ogbn-arxiv", tmp_path, download=False)


def test_download_unpacks_and_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    import torch_geometric.data

    source = write_arxiv(tmp_path / "origin").rename(tmp_path / "origin/arxiv")
    archive = shutil.make_archive(str(tmp_path / "arxiv"), "zip", source.parent, "arxiv")
    seen = []

    def describe(name: str, family: str) -> dict[str, str]:
        return real(name, family) | {"url": Path(archive).as_uri()}

    def download(url: str, folder: str, log: bool) -> str:
        seen.append(url)
        return shutil.copy(archive, folder)

    real = ogb_raw._describe
    monkeypatch.setattr(ogb_raw, "_describe", describe)
    monkeypatch.setattr(torch_geometric.data, "download_url", download)
    root = tmp_path / "new/data"
    dataset = load_dataset("ogbn-arxiv", root)
    assert dataset.data.num_nodes == 301 and seen == [Path(archive).as_uri()]
    assert [p.name for p in root.iterdir()] == ["ogbn_arxiv"]
    assert "downloading" in capsys.readouterr().err


def test_failed_download_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = {"url": (tmp_path / "none.zip").as_uri()}
    real = ogb_raw._describe
    monkeypatch.setattr(ogb_raw, "_describe", lambda *a: real(*a) | nowhere)
    with pytest.raises(FileNotFoundError, match=r"cannot download.*by hand"):
        load_dataset("ogbn-arxiv", tmp_path)
    assert list(tmp_path.iterdir()) == []
