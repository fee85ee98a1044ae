from pathlib import Path

import pytest

from graphattn.training.config import TrainConfig, flat
from graphattn.training.config_file import (
    from_dict,
    known_keys,
    near_names,
    read_config,
    read_yaml,
    write_config,
)


def test_known_keys_name_sections_and_settings() -> None:
    keys = known_keys()
    assert {"model", "model.layers", "optim.lr", "loop.seed", "data.options"} <= set(keys)
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("nested", "near"),
    [
        ({"model": {"layer": 3}}, "model.layers"),
        ({"optim": {"learning": 1}}, "known are|optim"),
        ({"modle": {}}, "model"),
        ({"loop": {"epoch": 3}}, "loop.epochs"),
    ],
)
def test_unknown_key_lists_near_names(nested: dict, near: str) -> None:
    with pytest.raises(ValueError, match=near):
        from_dict(nested, "some.yaml")


def test_flat_names_every_setting() -> None:
    sections = {"data", "model", "optim", "encoding", "sampling", "loop"}
    assert set(flat(TrainConfig())) == set(known_keys()) - sections


def test_near_name_by_last_part() -> None:
    assert "model.layers" in near_names("layers", known_keys())
    assert "known are a, b" in near_names("zzz", ["a", "b"])


def test_yaml_round_trip(tmp_path: Path) -> None:
    config = from_dict({"optim": {"lr": 3e-5}, "model": {"options": {"deep": {"a": 1}}}})
    write_config(config, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == config != TrainConfig()


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(path: Path, _content: bytes) -> None:
        path.write_bytes(b"")
        raise OSError(28, "No space left on device")

    path = tmp_path / "config.yaml"
    write_config(TrainConfig(), path)
    monkeypatch.setattr("graphattn.training.checkpoint._write_flushed", full_disk)
    with pytest.raises(OSError, match="previous file is intact"):
        write_config(TrainConfig(), path)
    assert read_config(path) == TrainConfig()


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words", "a: [1, 2"])
def test_yaml_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="expected (a mapping|YAML)"):
        read_yaml(path)
