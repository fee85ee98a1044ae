"""graphattn partition: a store trains to the same numbers as the data set it was made from."""

from pathlib import Path

import pytest
import torch

from graphattn.cli import main
from graphattn.graph.store import Store
from graphattn.training.config import TrainConfig
from graphattn.training.inputs import load_nodes
from graphattn.training.partition import to_store
from graphattn.training.run import train_run
from tests.datasets.ogb_layout import write_papers


def test_training_from_the_disk_equals_training_from_memory(
    config: TrainConfig, tmp_path: Path
) -> None:
    config.model.name, config.loop.epochs = "gt-sep", 3
    config.sampling.batch_size, config.sampling.num_neighbors = 20, [3, 2]
    memory = train_run(config, tmp_path / "memory")
    to_store(load_nodes(config.data), tmp_path / "store", dtype="fp32")
    config.data.root, config.data.name = str(tmp_path), "store"
    disk = train_run(config, tmp_path / "disk")
    assert [memory[k] for k in ("train", "valid", "test")] == [
        disk[k] for k in ("train", "valid", "test")
    ]


def test_large_gt_and_the_full_graph_read_halves(config: TrainConfig, tmp_path: Path) -> None:
    to_store(load_nodes(config.data), tmp_path / "store", dtype="fp16")
    config.data.root, config.data.name = str(tmp_path), "store"
    config.loop.epochs = 1
    train_run(config, tmp_path / "full")
    config.model.name, config.model.layers = "large-gt", 1
    config.model.options = {"variant": "local"}
    config.sampling.batch_size, config.sampling.tokens = 40, 4
    train_run(config, tmp_path / "tokens")


@pytest.mark.parametrize("undirected", [False, True])
def test_papers_layout_becomes_a_store(
    tmp_path: Path, undirected: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    write_papers(tmp_path / "data")
    arguments = ["partition", "ogbn-papers100M", "--root", str(tmp_path / "data")]
    arguments += ["--out", str(tmp_path / "store"), "--dtype", "fp16", "--parts", "4"]
    arguments += ["--data.undirected", "true"] if undirected else []
    assert main(arguments) == 0
    assert "257 nodes" in capsys.readouterr().out
    store = Store(tmp_path / "store")
    store.verify()
    assert store.array("x").dtype == torch.float16
    assert store.graph.is_undirected() == undirected
    assert torch.bincount(store.array("part")).tolist() == [65, 64, 64, 64]
    assert main(["partition", "ogbn-papers100M", "--root", str(tmp_path / "data")]) == 2
