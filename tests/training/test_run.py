import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from graphattn.training import checkpoint, run
from graphattn.training.build import prepare
from graphattn.training.config import TrainConfig
from graphattn.training.config_file import read_config, write_config
from graphattn.training.evaluate import best_scores, evaluate_run
from graphattn.training.loop import Trainer
from graphattn.training.recorder import Recorder, read_json, read_metrics
from graphattn.training.run import Interrupted, train_run


def fresh(folder: Path) -> Path:
    folder.mkdir()
    return folder


def numbers(folder: Path) -> list[dict]:
    """Recorded epochs without their times."""
    entries = read_metrics(folder / "metrics.jsonl")
    return [{key: value for key, value in e.items() if key != "seconds"} for e in entries]


def same_weights(one: Path, other: Path) -> bool:
    first, second = load_file(one / "best.safetensors"), load_file(other / "best.safetensors")
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_run_folder(config: TrainConfig, tmp_path: Path) -> None:
    result = train_run(config, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    expected = {"config.yaml", "metrics.jsonl", "best.safetensors", "checkpoint.pt", "result.json"}
    assert names == expected
    assert read_config(tmp_path / "config.yaml") == config
    assert read_json(tmp_path / "result.json") == result
    best = max(entry["valid"] for entry in numbers(tmp_path))
    assert result["valid"] == pytest.approx(best, abs=1e-12)
    assert result["parameters"] == sum(p.numel() for p in prepare(config).model.parameters())


def test_scores_come_from_the_best_weights(config: TrainConfig, tmp_path: Path) -> None:
    result = train_run(config, tmp_path)
    again = evaluate_run(config, tmp_path)
    assert {part: again[part] for part in ("train", "valid", "test")} == {
        part: result[part] for part in ("train", "valid", "test")
    }
    prepared = prepare(config)
    prepared.split["test"] = torch.empty(0, dtype=torch.int64)
    assert best_scores(prepared, tmp_path)["test"] is None


@pytest.mark.parametrize("encoding", ["none", "laplacian"])
def test_resume_is_bitwise_the_uninterrupted_run(
    config: TrainConfig, tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.encoding.kind = encoding  # type: ignore[assignment]
    config.optim.schedule = "cosine"
    whole, halves = fresh(tmp_path / "whole"), fresh(tmp_path / "halves")
    train_run(config, whole)
    stop_after(3, monkeypatch)
    with pytest.raises(Interrupted):
        train_run(config, halves)
    assert len(numbers(halves)) == 3
    monkeypatch.undo()
    torch.rand(17)  # whatever else has drawn numbers since
    train_run(config, halves, resume=True)
    assert numbers(halves) == numbers(whole)
    assert same_weights(halves, whole)


def stop_after(epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends the process Ctrl-C in the middle of an epoch."""
    step = Trainer._train

    def interrupted(self: Trainer) -> float:
        if self.epoch + 1 == epochs:
            signal.raise_signal(signal.SIGINT)
        return step(self)

    monkeypatch.setattr(Trainer, "_train", interrupted)


def test_ctrl_c_restores_the_handlers(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    stop_after(2, monkeypatch)
    with pytest.raises(Interrupted) as stopped:
        train_run(config, tmp_path)
    assert (stopped.value.folder, stopped.value.number) == (tmp_path, signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert checkpoint.load_checkpoint(tmp_path / "checkpoint.pt")["trainer"]["epoch"] == 2


def test_full_disk_keeps_the_last_checkpoint(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = fresh(tmp_path / "whole"), fresh(tmp_path / "cut")
    train_run(config, whole)
    save, calls = run.save_checkpoint, []

    def full_disk(path: Path, state: dict) -> None:
        calls.append(path)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        save(path, state)

    monkeypatch.setattr(run, "save_checkpoint", full_disk)
    with pytest.raises(OSError, match="No space left"):
        train_run(config, cut)
    monkeypatch.undo()
    assert checkpoint.load_checkpoint(cut / "checkpoint.pt")["trainer"]["epoch"] == 3
    train_run(config, cut, resume=True)
    assert numbers(cut) == numbers(whole)
    assert same_weights(cut, whole)


def test_full_disk_under_the_metrics_keeps_a_checkpoint(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.loop.checkpoint_seconds = 1000.0
    write = Recorder.write

    def full_disk(self: Recorder, entry: dict) -> None:
        if entry["epoch"] == 3:
            raise OSError(28, "No space left on device")
        write(self, entry)

    monkeypatch.setattr(Recorder, "write", full_disk)
    with pytest.raises(OSError, match="No space left"):
        train_run(config, tmp_path)
    assert checkpoint.load_checkpoint(tmp_path / "checkpoint.pt")["trainer"]["epoch"] == 3
    monkeypatch.undo()
    assert train_run(config, tmp_path, resume=True)["epochs"] == 6


def test_epoch_time_leaves_out_compilation(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [{"seconds": seconds} for seconds in (100.0, 1.0, 3.0)]
    config.loop.epochs = 1
    monkeypatch.setattr(run.record, "read_metrics", lambda _path: entries)
    monkeypatch.setattr(run.record.Recorder, "keep_until", lambda *_: None)
    result = train_run(config, tmp_path)
    assert (result["seconds_per_epoch"], result["seconds"]) == (2.0, 104.0)


def test_checkpoint_of_another_model(config: TrainConfig, tmp_path: Path) -> None:
    config.loop.epochs = 2
    train_run(config, tmp_path)
    other = copy.deepcopy(config)
    other.model.name, other.model.options = "gt-sep", {"impl": "reference"}
    with pytest.raises(ValueError, match=r"holds model 'gt' .*asks for model 'gt-sep'"):
        train_run(other, tmp_path, resume=True)
    other = copy.deepcopy(config)
    other.model.width = 32
    with pytest.raises(ValueError, match=r"model\.width 16\), but .*model\.width 32"):
        train_run(other, tmp_path, resume=True)


def test_resume_with_another_rate_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    config.loop.epochs = 1
    train_run(config, tmp_path)
    config.optim.lr = 1.0
    with pytest.raises(ValueError, match=r"optim\.lr 0\.01\), but .*optim\.lr 1\.0"):
        train_run(config, tmp_path, resume=True)


def test_resume_without_a_checkpoint_starts_over(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.loop.epochs = 1
    write_config(config, tmp_path / "config.yaml")
    assert train_run(config, tmp_path, resume=True)["epochs"] == 1
    assert "no checkpoint yet" in capsys.readouterr().err


def test_resume_with_more_epochs(config: TrainConfig, tmp_path: Path) -> None:
    config.loop.epochs = 2
    train_run(config, tmp_path)
    config.loop.epochs = 4
    assert train_run(config, tmp_path, resume=True)["epochs"] == 4
    assert [entry["epoch"] for entry in numbers(tmp_path)] == [1, 2, 3, 4]


def test_kill_9_then_resume(config: TrainConfig, tmp_path: Path) -> None:
    whole, killed = fresh(tmp_path / "whole"), fresh(tmp_path / "killed")
    config.loop.epochs = 400
    process = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(killed)],
        env=os.environ | {"CONFIG": json.dumps(_nested(config))},
    )
    deadline = time.monotonic() + 300
    while len(numbers(killed)) < 5 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    reached = checkpoint.load_checkpoint(killed / "checkpoint.pt")["trainer"]["epoch"]
    config.loop.epochs = reached + 3
    train_run(config, killed, resume=True)
    train_run(config, whole)
    assert numbers(killed) == numbers(whole)
    assert same_weights(killed, whole)


_CHILD = """
import json, os, sys
from pathlib import Path
import torch
from graphattn.training.config_file import from_dict
from graphattn.training.run import train_run
torch.set_num_threads(int(json.loads(os.environ["CONFIG"])["threads"]))
train_run(from_dict(json.loads(os.environ["CONFIG"])["config"]), Path(sys.argv[1]))
"""


def _nested(config: TrainConfig) -> dict:
    from dataclasses import asdict

    return {"config": asdict(config), "threads": torch.get_num_threads()}
