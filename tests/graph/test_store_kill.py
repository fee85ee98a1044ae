"""A build that SIGKILL ends goes on in the next process, byte for byte."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from graphattn.graph import store_rows
from tests.graph import store_worker

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("step", ["deal", "sort", "rows"])
def test_a_killed_process_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setattr(store_rows, "_ROWS", store_rows._ROWS)  # the worker's build changes it
    command = [sys.executable, "-m", "tests.graph.store_worker", str(tmp_path / "a"), step]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = {file.name for file in (tmp_path / "a").iterdir()}
    assert "buckets" in left and "meta.json" not in left
    assert ("progress.json" in left) == (step != "deal")
    assert ("x.npy" in left) == (step == "rows")
    store_worker.build(tmp_path / "a").verify()
    store_worker.build(tmp_path / "b")
    files = [{f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in "ab"]
    assert files[0] == files[1]
