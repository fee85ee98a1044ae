"""Names, aliases, options, and the checks that every loaded set goes through."""

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Data

import graphattn as ga
from graphattn.datasets import base, catalogue
from graphattn.datasets.base import GraphDataset, NodeDataset
from graphattn.datasets.catalogue import ALIASES, CATALOGUE, canonical, check, load_dataset
from graphattn.datasets.metrics import evaluator
from tests.datasets.ogb_layout import write_arxiv, write_csv


def test_every_loader_is_in_the_catalogue() -> None:
    named = {}
    for module in sorted(set(CATALOGUE.values())):
        for name in import_module(f"graphattn.datasets.{module}").NAMES:
            named[name] = module
    assert named == CATALOGUE
    plain = [name.lower().replace("_", "-") for name in [*CATALOGUE, *ALIASES]]
    assert len(plain) == len(set(plain))
    assert set(ALIASES.values()) <= set(CATALOGUE)


def test_canonical() -> None:
    assert canonical("OGBN_Arxiv") == canonical(" arxiv ") == "ogbn-arxiv"
    assert canonical("PAPERS100m") == "ogbn-papers100M"
    assert canonical("cora") == "Cora" and canonical("cora-ml") == "Cora_ML"
    assert canonical("nothing") is None


def test_public_name() -> None:
    assert ga.load_dataset is load_dataset


def test_unknown_name_lists_near_names_or_all() -> None:
    with pytest.raises(ValueError, match=r"unknown data set 'ogbn-arxvi'; near: ogbn-arxiv") as e:
        load_dataset("ogbn-arxvi")
    assert "CATALOGUE has all" in str(e.value) and "edge_index.npy" in str(e.value)
    assert "minesweeper-generated" not in str(e.value)
    with pytest.raises(ValueError, match=r"'!!'; known: actor, .*minesweeper-generated"):
        load_dataset("!!")


def test_a_warning_names_the_callers_line(tmp_path: Path) -> None:
    write_csv(write_arxiv(tmp_path) / "raw/node-label.csv.gz", np.arange(301) % 39)
    with pytest.warns(UserWarning, match="no item of class 39") as caught:
        load_dataset("ogbn-arxiv", tmp_path)
    assert [warning.filename for warning in caught] == [__file__]


def test_unknown_option(tmp_path: Path) -> None:
    write_arxiv(tmp_path)
    with pytest.raises(ValueError, match="ogbn-arxiv has no option split; it takes none"):
        load_dataset("ogbn-arxiv", tmp_path, split="random")
    with pytest.raises(ValueError, match=r"Cora has no option spilt; it takes split"):
        load_dataset("Cora", tmp_path, spilt="random")


def toy(**changes: object) -> NodeDataset:
    data = Data(
        x=torch.rand(6, 2),
        edge_index=torch.tensor([[0, 1], [1, 5]]),
        y=torch.tensor([0, 1, 0, 1, 0, -1]),
        num_nodes=6,
    )
    for key, value in changes.items():
        data[key] = value
    parts = {"train": [0, 1], "valid": [2], "test": [3, 4]}
    splits = [{key: torch.tensor(items) for key, items in parts.items()}]
    return NodeDataset(data, splits, "acc", evaluator("acc"), "toy", 2)


def test_checks() -> None:
    check(toy())
    check(toy(x=None))
    bare = toy(y=None)
    bare.splits = []
    check(bare)
    nan = torch.rand(6, 2)
    nan[4, 1] = float("inf")
    with pytest.raises(
        ValueError, match=r"1 of 6 feature rows hold NaN or infinity \(first: row 4"
    ):
        check(toy(x=nan))
    with pytest.raises(ValueError, match="holds 6, expected 0..5"):
        check(toy(edge_index=torch.tensor([[0], [6]])))
    with pytest.raises(TypeError, match="int64"):
        check(toy(edge_index=torch.tensor([[0.0], [1.0]])))
    with pytest.raises(ValueError, match="5 labels for 6 nodes"):
        check(toy(y=torch.tensor([0, 1, 0, 1, 0])))
    with pytest.raises(ValueError, match="item 4 has 7"):
        check(toy(y=torch.tensor([0, 1, 0, 1, 7, 0])))
    assert "splits" not in repr(toy())


def test_checks_of_graphs() -> None:
    graphs = [
        Data(x=torch.rand(3, 2), edge_index=torch.tensor([[0], [2]]), y=torch.tensor([i % 2]))
        for i in range(4)
    ]
    splits = [{"train": torch.arange(2), "valid": torch.tensor([2]), "test": torch.tensor([3])}]
    dataset = GraphDataset(graphs, splits, "acc", evaluator("acc"), "toys", 2)
    check(dataset)
    graphs[2].edge_index = torch.tensor([[0], [3]])
    with pytest.raises(ValueError, match="toys, graph 2: edge_index holds 3"):
        check(dataset)


def test_features_are_checked_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(5, 1).expand(5, 3).clone()
    x[[1, 4], 0] = float("nan")
    monkeypatch.setattr(base, "_CHECK_ROWS", 2)
    with pytest.raises(ValueError, match=r"2 of 5 .*row 1"):
        base.check_features(x, "toy")
    base.check_features(torch.ones(2, 2, dtype=torch.int64), "toy")


def test_loaded_again_says_the_edges_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_arxiv(tmp_path)
    for _ in range(2):
        catalogue.load_dataset("ogbn-arxiv", tmp_path)
        assert "edges in the file" in capsys.readouterr().err


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("minesweeper", "heterophilous"),
        ("ogbg-molfreesolv", "ogb"),
        ("Cora", "planetoid"),
        ("github", "musae"),
    ],
)
def test_real_roots(data_root: Path, name: str, folder: str) -> None:
    import time

    first = load_dataset(name, data_root / folder, download=False)
    start = time.perf_counter()
    second = load_dataset(name, data_root / folder, download=False)
    assert time.perf_counter() - start < 1
    assert type(first) is type(second) and first.split_note == second.split_note
