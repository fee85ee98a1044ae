from dataclasses import asdict
from pathlib import Path

import pytest

from graphattn.training.arguments import SHORTHANDS, Option, parse
from graphattn.training.config import TrainConfig
from graphattn.training.config_file import write_config

RESUME = Option("--resume", str | None, None, "A run.")


def settings(*argv: str) -> TrainConfig:
    return parse("train", list(argv), [RESUME], "resume")[0]


def test_model_is_a_name_and_a_section() -> None:
    config = settings("Cora", "--model", "gat", "--model.layers", "4", "--root", "there")
    assert (config.model.name, config.model.layers) == ("gat", 4)
    assert (config.data.name, config.data.root) == ("Cora", "there")
    assert settings("--model=gcn").model.name == "gcn"


def test_positional_name_anywhere() -> None:
    assert settings("--seed", "3", "arxiv", "--compile").data.name == "arxiv"
    assert settings("--compile").loop.compile is True
    assert settings().data.name == "minesweeper-generated"


def test_presets_give_way_to_file_and_file_to_command_line(tmp_path: Path) -> None:
    assert settings("--model", "gt").model.layers == 6
    assert settings("minesweeper", "--model", "gcn").model.layers == 12
    path = tmp_path / "mine.yaml"
    path.write_text("model:\n  name: gcn\n  layers: 5\n  width: 32\noptim:\n  lr: 1e-4\n")
    config = settings("minesweeper", "--config", str(path), "--model.width", "48")
    assert (config.model.layers, config.model.width, config.model.dropout) == (5, 48, 0.2)
    assert (config.optim.lr, config.loop.epochs) == (1e-4, 2000)


def test_written_config_feeds_back(tmp_path: Path) -> None:
    config = settings("minesweeper", "--model", "sage", "--model.options.jumping", "true")
    write_config(config, tmp_path / "config.yaml")
    again = settings("--config", str(tmp_path / "config.yaml"))
    assert asdict(again) == asdict(config)
    assert again.model.options["jumping"] is True


def test_resume_takes_the_run_and_the_command_line(tmp_path: Path) -> None:
    write_config(settings("minesweeper", "--model", "gat", "--seed", "7"), tmp_path / "config.yaml")
    config = settings("--resume", str(tmp_path), "--epochs", "9")
    assert (config.data.name, config.model.name, config.model.layers) == ("minesweeper", "gat", 15)
    assert (config.loop.seed, config.loop.epochs) == (7, 9)
    with pytest.raises(ValueError, match="holds model 'gat', asked for 'gt'; drop --model, or"):
        settings("--resume", str(tmp_path), "--model", "gt")
    assert settings("--resume", str(tmp_path), "--model", "gat").model.name == "gat"
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(ValueError, match=r"config\.yaml is empty"):
        settings("--resume", str(tmp_path))
    with pytest.raises(ValueError, match=r"holds no config\.yaml"):
        settings("--resume", str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model.layer", "3"], r"no option --model\.layer; did you mean model\.layers"),
        (["--layers=3"], r"model\.layers"),
        (["--resum", "x"], "resume"),
        (["--model.layers", "many"], r"model\.layers(.|\n)*int"),
        (["--model.norm", "group"], r"model\.norm"),
        (["--optim.schedule", "step"], r"optim\.schedule"),
        (["one", "two"], "two"),
        (["--model.layers", "two"], r"^--model\.layers expects an integer, got 'two'$"),
        (["--precision", "fp8"], r"expects one of fp32, bf16, fp16, got 'fp8'$"),
        (["--lr", "x"], r"^--optim\.lr expects a number, got 'x'$"),
        (["--data.options", "3"], r"^--data\.options expects a mapping .*, got '3'$"),
    ],
)
def test_wrong_arguments(argv: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings(*argv)


def test_wrong_key_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("model:\n  layer: 3\n")
    with pytest.raises(ValueError, match=r"bad\.yaml.*'model\.layer'.*did you mean model\.layers"):
        settings("--config", str(path))
    with pytest.raises(ValueError, match="missing"):
        settings("--config", str(tmp_path / "missing.yaml"))


def test_help_shows_the_defaults_of_data_and_model(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        settings("minesweeper", "--model", "gcn", "--help")
    assert stop.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "default: 2000" in printed
    assert "Path to a configuration file" not in printed
    for key, long in SHORTHANDS.items():
        assert f"{key} = {long}" in printed
    assert "gt, gt-sep (graph transformers), gcn, sage, gat or large-gt" in printed


def test_optional_numbers() -> None:
    seeds = Option("--seeds", int | None, None, "Number of seeds.")
    with pytest.raises(ValueError, match="^--seeds expects an integer, got 'two'$"):
        parse("protocol", ["--seeds", "two"], [seeds])
