import json
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from graphattn.cli import main
from graphattn.datasets import generated
from graphattn.training.config import TrainConfig
from graphattn.training.config_file import write_config

SMALL = ["--model.layers", "1", "--model.width", "16", "--model.options.impl", "reference"]
SMALL += ["--loop.eval_every", "1", "--optim.schedule", "none", "--optim.warmup", "0"]


@pytest.fixture
def small_board(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Makes ``minesweeper-generated`` a board of 12 x 10; runs go to the given folder."""
    board, threads = generated.minesweeper, torch.get_num_threads()
    monkeypatch.setattr(generated, "minesweeper", lambda seed: board(seed, 12, 10, 24))
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


def test_train_evaluate_resume(small_board: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--epochs", "3", "--out", "a", *SMALL]) == 0
    names = {path.name for path in (small_board / "a").iterdir()}
    assert {"config.yaml", "metrics.jsonl", "best.safetensors", "checkpoint.pt"} <= names
    assert "curves.png" in names
    printed = capsys.readouterr().out
    for word in ("validation", "test", "parameters", "epoch time", "peak memory"):
        assert word in printed
    test = next(line for line in printed.splitlines() if line.startswith("test"))
    assert main(["evaluate", "a"]) == 0
    again = capsys.readouterr().out
    assert test in again
    assert again.startswith("data  ")
    assert "model        gt" in again
    assert main(["train", "--resume", "a", "--epochs", "5"]) == 0
    assert "of 5" in capsys.readouterr().out
    assert main(["train", "--config", "a/config.yaml", "--out", "b", "--epochs", "1"]) == 0
    assert main(["train", "--out", "a"]) == 1
    assert "already holds a run" in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(
    small_board: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from graphattn.training.loop import Trainer

    step = Trainer._train

    def interrupted(self: Trainer) -> float:
        signal.raise_signal(signal.SIGINT)
        return step(self)

    monkeypatch.setattr(Trainer, "_train", interrupted)
    assert main(["train", "--out", "a", *SMALL]) == 130
    assert "graphattn train --resume a" in capsys.readouterr().err


def test_protocol_prints_a_markdown_row(
    small_board: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["protocol", "--seeds", "2", "--epochs", "2", "--out", "p", *SMALL]
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| data")
    assert set(lines[1]) <= set("|-: ")
    assert " ± " in lines[2]
    assert max(map(len, lines[:3])) < 150
    assert {"hardware", "split", "edges"} <= {line.partition(" ")[0] for line in lines[3:]}
    assert json.loads(Path("p/results.json").read_text())["summary"]["runs"] == 2


def test_info(small_board: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--model.layers", "3"]) == 0
    printed = capsys.readouterr().out
    for word in ("nodes", "120", "adjusted homophily", "gt of 3 layers, width 64", "MiB"):
        assert word in printed


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["tran"], 2, "did you mean train"),
        (["train", "--model.layer", "2"], 2, "did you mean model.layers"),
        (["train", "--model", "gtt"], 1, "no model 'gtt'"),
        (["train", "no-such-data"], 1, "no-such-data"),
        (["evaluate", "nowhere"], 2, "holds no config.yaml"),
        (["train", "--split", "10"], 1, "splits 0..9"),
        (["train", "--resume", "r", "--out", "z"], 2, "r holds no config.yaml"),
    ],
)
def test_errors_name_the_remedy(
    small_board: Path, capsys: pytest.CaptureFixture[str], argv: list[str], code: int, message: str
) -> None:
    assert main(argv) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(small_board.iterdir())  # no empty run folders


def test_resume_and_out_exclude_each_other(
    small_board: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config(TrainConfig(), Path("config.yaml"))
    assert main(["train", "--resume", ".", "--out", "z"]) == 2
    assert "drop --out z" in capsys.readouterr().err
    assert not Path("z").exists()


def test_failing_picture_hides_no_result(
    small_board: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_folder: Path) -> None:
        raise OSError("no fonts")

    monkeypatch.setattr("graphattn.plots.training_curves", fail)
    assert main(["train", "--epochs", "1", "--out", "a", *SMALL]) == 0
    printed = capsys.readouterr()
    assert "best epoch   1 of 1" in printed.out
    assert "no a/curves.png (no fonts)" in printed.err


def test_warnings_show_no_source(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []

    def warn(_argv: list[str]) -> int:
        shown.append(warnings.formatwarning("odd", UserWarning, "/some/file.py", 3, "x = 1"))
        return 0

    before = warnings.formatwarning
    monkeypatch.setattr("graphattn.cli.info", warn)
    assert main(["info"]) == 0
    assert shown == ["graphattn: odd\n"]
    assert warnings.formatwarning is before


def test_help_needs_nothing_heavy() -> None:
    code = (
        "import sys; from graphattn.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print({'torch_geometric', 'numba', 'torch', 'matplotlib'} & set(sys.modules))"
    )
    for argv in (["--help"], ["train", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith("usage: graphattn")
        assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.slow
def test_main_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--out", "run"]) == 0
    assert json.loads(Path("run/result.json").read_text())["test"] >= 0.92
