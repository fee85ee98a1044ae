from pathlib import Path

import pytest

from graphattn.training import protocol
from graphattn.training.config import TrainConfig
from graphattn.training.protocol import (
    choose_runs,
    default_folder,
    mean_and_deviation,
    remarks,
    row,
    run_protocol,
)


@pytest.mark.parametrize(
    ("num_splits", "splits", "seeds", "pairs"),
    [
        (1, None, None, [(0, seed) for seed in range(10)]),
        (3, None, None, [(0, 0), (1, 0), (2, 0)]),
        (3, None, 2, [(0, 0), (0, 1)]),
        (3, "all", 2, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]),
        (3, "0,2", None, [(0, 0), (2, 0)]),
        (1, "0", 3, [(0, 0), (0, 1), (0, 2)]),
    ],
)
def test_choice_of_runs(
    num_splits: int, splits: str | None, seeds: int | None, pairs: list[tuple[int, int]]
) -> None:
    assert choose_runs(num_splits, splits, seeds, TrainConfig()) == pairs


@pytest.mark.parametrize(
    ("splits", "seeds", "message"),
    [("5", None, r"0\.\.2, got 5"), ("a", None, "all or numbers"), (None, 0, "at least one seed")],
)
def test_wrong_choice(splits: str | None, seeds: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_runs(3, splits, seeds, TrainConfig())


def test_deviation_is_unbiased() -> None:
    assert mean_and_deviation([1.0, 2.0, 4.0]) == pytest.approx((7 / 3, (7 / 3) ** 0.5))
    assert mean_and_deviation([0.5]) == (0.5, None)


def test_table_row(config: TrainConfig, tmp_path: Path) -> None:
    config.loop.epochs = 2
    content = run_protocol(config, tmp_path, splits="all", seeds=None)
    assert (tmp_path / "results.json").exists()
    cells = row(content["summary"])
    assert cells["runs"] == "2 (splits 0,1; seeds 0)"
    tests = [result["test"] for result in content["runs"]]
    mean = 100 * sum(tests) / 2
    deviation = 100 * abs(tests[0] - tests[1]) / 2**0.5
    assert cells["test rocauc %"] == f"{mean:.2f} ± {deviation:.2f}"
    assert {"parameters", "validation rocauc %", "s/epoch"} <= set(cells)
    below = remarks(content["summary"])
    assert below["external data"] == "no"
    assert below["split"] == "the folder's split"
    assert {"hardware", "edges"} <= set(below)


def test_wrong_settings_leave_no_folder(config: TrainConfig, tmp_path: Path) -> None:
    config.model.name = "gct"
    with pytest.raises(ValueError, match="no model 'gct'"):
        run_protocol(config, tmp_path / "p", seeds=1)
    assert not (tmp_path / "p").exists()


def test_finished_runs_are_not_repeated(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.loop.epochs = 2
    train, calls = protocol.train_run, []

    def killed(own: TrainConfig, folder: Path, **keywords: object) -> dict:
        calls.append((folder.name, keywords["resume"]))
        if len(calls) == 2:
            folder.mkdir()
            (folder / "config.yaml").write_text("killed after this was written")
            raise KeyboardInterrupt
        return train(own, folder, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(protocol, "train_run", killed)
    with pytest.raises(KeyboardInterrupt):
        run_protocol(config, tmp_path, seeds=3)
    run_protocol(config, tmp_path, seeds=3)
    names = ["split0-seed0", "split0-seed1", "split0-seed1", "split0-seed2"]
    assert calls == list(zip(names, [False, False, True, False], strict=True))


def test_results_of_other_settings_are_refused(config: TrainConfig, tmp_path: Path) -> None:
    config.loop.epochs = 1
    run_protocol(config, tmp_path, splits="0", seeds=1)
    config.loop.checkpoint_seconds, config.data.root = 9.0, config.data.root
    run_protocol(config, tmp_path, splits="0", seeds=1)
    config.model.width = 32
    with pytest.raises(ValueError, match=r"model\.width 16 there, 32 now.*--out"):
        run_protocol(config, tmp_path, splits="0", seeds=1)


def test_default_folder_depends_on_settings_alone(config: TrainConfig) -> None:
    first = default_folder(config)
    config.loop.seed, config.data.split = 5, 1
    assert default_folder(config) == first
    config.optim.lr = 7.0
    assert default_folder(config) != first
    assert first.name.startswith("protocol-board-gt-")
