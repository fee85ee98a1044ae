import json
from pathlib import Path

import pytest

from graphattn.plots import training_curves


def test_training_curves(tmp_path: Path) -> None:
    lines = [{"epoch": 1, "loss": 0.7}, {"epoch": 2, "loss": 0.5, "train": 0.6, "valid": 0.55}]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"epoch": 3, "lo'
    (tmp_path / "metrics.jsonl").write_text(text)
    figure = training_curves(tmp_path)
    left, right = figure.axes
    assert list(left.lines[0].get_ydata()) == [0.7, 0.5]
    assert [line.get_label() for line in right.lines] == ["train", "valid"]
    figure.savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_finished_run_names_metric_and_best_epoch(tmp_path: Path) -> None:
    lines = [{"epoch": e, "loss": 0.7, "train": 0.6, "valid": 0.5} for e in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = {"metric": "rocauc", "best_epoch": 1, "epochs": 2}
    (tmp_path / "result.json").write_text(json.dumps(result))
    right = training_curves(tmp_path).axes[1]
    assert right.get_ylabel() == "rocauc"
    assert right.lines[-1].get_label() == "best epoch 1"
    assert all(float(tick).is_integer() for tick in right.get_xticks())
    (tmp_path / "result.json").write_text(json.dumps(result | {"epochs": 1}))  # resumed since
    assert training_curves(tmp_path).axes[1].get_ylabel() == "score"


def test_nothing_recorded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="records no epoch"):
        training_curves(tmp_path)
