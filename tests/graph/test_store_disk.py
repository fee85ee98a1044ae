"""A store on a disk that fills up: an error that says how to go on, and the next call does."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphattn.graph import store_build, store_disk
from tests.graph.test_store import build


def full(*_: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("calls", [0, 1, 2, 3])  # of counts, offsets, x, y
def test_a_full_disk_is_an_error_before_anything_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """A write into a hole of a mapped file would end the process (SIGBUS)."""
    left = iter([lambda *_: None] * calls)
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", lambda *a: next(left, full)(*a), raising=False)
        with pytest.raises(OSError, match=r"GB needed, .* GB free; free some and the same call"):
            build(tmp_path / "a")
    build(tmp_path / "a").verify()
    build(tmp_path / "b")
    for file in (tmp_path / "b").glob("*.npy"):
        assert file.read_bytes() == (tmp_path / "a" / file.name).read_bytes()


def test_mapped_files_have_all_their_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: Any) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(store_disk, "_BLOCK", 5000)
    for number in range(3):
        path = tmp_path / f"{number}.npy"
        rows = store_disk.mapped(path, (100, 64), np.float32)
        assert not rows.any() and np.load(path).shape == (100, 64)
        assert not hasattr(path.stat(), "st_blocks") or path.stat().st_blocks * 512 >= 25_600
        if number == 0:
            monkeypatch.setattr(os, "posix_fallocate", cannot, raising=False)
        else:
            monkeypatch.delattr(os, "posix_fallocate", raising=False)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("step", ["deal", "sort"])
def test_a_full_disk_is_named_while_edges_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    plain = Path.open
    if step == "sort":
        monkeypatch.setattr(store_build, "_open_at", lambda *_: plain(Path("/dev/full"), "wb"))
    else:

        def opened(self: Path, mode: str = "r", *rest: Any) -> Any:
            return plain(Path("/dev/full") if self.suffix == ".bin" else self, mode, *rest)

        monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(OSError, match="the disk is full; free some and the same call goes on"):
        build(tmp_path)


def test_a_disk_that_is_too_small_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("U", (), {"free": 9}))
    with pytest.raises(OSError, match="GB needed"):
        build(tmp_path)
