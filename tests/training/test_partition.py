"""graphattn partition: a store trains to the same numbers as the data set it was made from."""

from pathlib import Path

import pytest
import torch

from graphattn.cli import main
from graphattn.graph.store import Store
from graphattn.training.build import prepare
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


@pytest.mark.parametrize("variant", ["full", "global"])
def test_large_gt_from_the_disk_equals_memory(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    config.model.name, config.model.layers, config.loop.epochs = "large-gt", 1, 3
    config.model.options = {"variant": variant, "global_dim": 8, "num_codes": 8}
    config.sampling.batch_size, config.sampling.tokens = 20, 4
    config.encoding.kind, config.encoding.k = "random-walk", 4
    memory = train_run(config, tmp_path / "memory")
    dataset, folder = load_nodes(config.data), tmp_path / "store"
    to_store(dataset, folder, dtype="fp32")
    store = to_store(dataset, folder, hops=2, encoding=config.encoding)  # what it lacks
    assert sorted(store.names)[:3] == ["hop1", "hop2", "pe"]
    assert store.meta["extra"]["encoding"]["kind"] == "random-walk"
    config.data.root, config.data.name, config.encoding.kind = str(tmp_path), "store", "stored"

    def never(*_: object, **__: object) -> None:
        raise AssertionError("hops are on the disk")

    monkeypatch.setattr("graphattn.training.batches.hop_features", never)
    disk = train_run(config, tmp_path / "disk")
    for part in ("train", "valid", "test"):
        assert disk[part] == pytest.approx(memory[part], abs=0.02)
    run = prepare(config)
    assert run.inputs.hops[1].data_ptr() == run.dataset.data.hop1.data_ptr()  # mapped, no copy
    assert run.inputs.pe.data_ptr() == run.dataset.data.pe.data_ptr()
    config.sampling.direction = "out"
    with pytest.raises(ValueError, match="follow direction 'in', asked for 'out'"):
        prepare(config)


def test_a_block_that_changed_in_the_middle_is_found_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_papers(tmp_path / "data", num_nodes=4000)
    out = str(tmp_path / "store")
    assert main(["partition", "ogbn-papers100M", "--root", f"{tmp_path}/data", "--out", out]) == 0
    assert main(["info", out, "--verify"]) == 0
    assert "files are as they were written" in capsys.readouterr().out
    with (tmp_path / "store" / "x.npy").open("r+b") as file:
        file.seek(106_000)
        byte = file.read(1)[0]
        file.seek(106_000)
        file.write(bytes([byte ^ 1]))
    assert main(["info", out]) == 0  # the 64 pages that opening reads are untouched
    assert main(["info", out, "--verify"]) == 1
    assert "x.npy is damaged: its SHA-256 differs" in capsys.readouterr().err
    assert main(["info", "minesweeper", "--verify"]) == 2
    assert "minesweeper is none; write one with graphattn" in capsys.readouterr().err


def test_the_store_of_another_data_set_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    dataset, folder = load_nodes(config.data), tmp_path / "store"
    to_store(dataset, folder, dtype="fp16")
    assert to_store(dataset, folder).array("x").dtype == torch.float16  # as it was written
    with pytest.raises(ValueError, match="with features in torch.float16, asked for torch.float32"):
        to_store(dataset, folder, dtype="fp32")
    with pytest.raises(ValueError, match="with undirected False, asked for True"):
        to_store(dataset, folder, undirected=True)
    dataset.name = "other"
    with pytest.raises(ValueError, match="finished store with name board, asked for other"):
        to_store(dataset, folder)


def test_what_memory_cannot_hold_is_refused(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.model.name, config.model.layers, config.model.options = "large-gt", 1, {}
    config.sampling.batch_size, config.sampling.tokens = 20, 4
    monkeypatch.setattr("os.sysconf", lambda name: 1)
    with pytest.raises(ValueError, match="graphattn partition NAME --out FOLDER --hops 2"):
        prepare(config)
    config.encoding.kind = "stored"
    with pytest.raises(ValueError, match="encoding.kind stored needs an array pe in board"):
        prepare(config)
