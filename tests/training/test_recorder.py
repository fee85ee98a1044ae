import re
import sys
from pathlib import Path

import pytest

from graphattn.training.recorder import Recorder, new_folder, read_json, read_metrics, write_json


def test_resume_drops_later_and_torn_lines(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    for epoch in (1, 2, 3):
        recorder.write({"epoch": epoch, "loss": 0.5})
    with open(recorder.path, "a") as file:
        file.write('{"epoch": 4, "lo')
    assert [entry["epoch"] for entry in read_metrics(recorder.path)] == [1, 2, 3]
    recorder.keep_until(2)
    recorder.write({"epoch": 3, "loss": 0.25})
    assert read_metrics(recorder.path)[-1] == {"epoch": 3, "loss": 0.25}
    assert len(recorder.path.read_text().splitlines()) == 3


def test_full_disk_names_file_and_remedy(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.path.mkdir()  # cannot be appended to, whoever runs the test
    with pytest.raises(OSError, match=r"cannot append to .*metrics\.jsonl .*--resume"):
        recorder.write({"epoch": 1})


def test_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    folder = new_folder(str(tmp_path / "a" / "b"), "Cora", "gt")
    assert not folder.exists()
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("{}")
    with pytest.raises(ValueError, match="already holds a run.*--resume"):
        new_folder(str(folder), "Cora", "gt")


def test_default_folder_names_data_and_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = new_folder(None, "some/where/mine", "gt")
    assert re.fullmatch(r"runs/mine-gt-\d{8}-\d{6}-\d{3}", folder.as_posix())


def test_tensorboard_is_named_when_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"graphattn\[log\]"):
        Recorder(tmp_path, tensorboard=True)


def test_json(tmp_path: Path) -> None:
    assert read_json(tmp_path / "a.json") is None
    write_json(tmp_path / "a.json", {"a": [1, None]})
    assert read_json(tmp_path / "a.json") == {"a": [1, None]}
