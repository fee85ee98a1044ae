"""Reading raw files: the message names file, folder and remedy."""

import errno
import gzip
from pathlib import Path

import numpy as np
import pytest

from graphattn.datasets.files import fetch, need_file, read_csv, read_npz, reading


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"Cora: no file a\.npz in .*; .*root=.*--data\.download true"
    ):
        need_file(tmp_path / "a.npz", "Cora")
    with pytest.raises(FileNotFoundError, match="do this"):
        need_file(tmp_path / "a.npz", "Cora", "do this")


def test_npz(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.arange(5000), b=np.ones(3))
    assert read_npz(path, ["a"], "toy")["a"].tolist() == list(range(5000))
    with pytest.raises(ValueError, match="no array c; it has a, b"):
        read_npz(path, ["a", "c"], "toy")
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=rf"a\.npz \({size:,} bytes\) is truncated"):
            read_npz(path, ["a"], "toy")
    broken = bytearray(whole)
    broken[200] ^= 255
    path.write_bytes(broken)
    with pytest.raises(ValueError, match=r"a\.npz"):
        read_npz(path, ["a", "b"], "toy")


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"1,2\n3,4\n"))
    values = read_csv(path, "toy")
    assert values.dtype == np.int64 and values.tolist() == [[1, 2], [3, 4]]
    values[0, 0] = 5  # pandas' own array is read-only
    path.write_bytes(gzip.compress(b"1,2.5\n3,\n"))
    values = read_csv(path, "toy")
    assert values.dtype == np.float32 and np.isnan(values[1, 1])
    for content in (gzip.compress(b"1,x\n"), gzip.compress(b""), b"no gzip", b"", b"\x1f\x8b"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.csv\.gz .* is truncated"):
            read_csv(path, "toy")


def test_remedy_of_a_damaged_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="delete it and fetch it again"), reading(tmp_path / "a"):
        raise EOFError
    with pytest.raises(ValueError, match="; do this$"), reading(tmp_path / "a", "do this"):
        raise EOFError


def test_errors_of_the_system_pass(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, reading(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.errno == errno.ENOSPC


def test_fetch_unreachable(tmp_path: Path) -> None:
    url = (tmp_path / "nowhere.zip").as_uri()
    with pytest.raises(FileNotFoundError, match=r"toy: cannot download file:.*nowhere\.zip.*root="):
        fetch(url, tmp_path / "data", "toy")
    assert not (tmp_path / "data").exists()


def test_a_killed_download_is_not_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin, target = tmp_path / "a.bin", tmp_path / "data"
    origin.write_bytes(b"whole")

    def killed(url: str, folder: str, log: bool) -> str:
        (Path(folder) / "a.bin").write_bytes(b"wh")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("torch_geometric.data.download_url", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch(origin.as_uri(), target, "toy")
    assert list(target.iterdir()) == []
    assert fetch(origin.as_uri(), target, "toy").read_bytes() == b"whole"
    assert [path.name for path in target.iterdir()] == ["a.bin"]


def test_a_target_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"whole")
    with pytest.raises(FileNotFoundError, match=r"toy: cannot write into .*a\.bin/data .*root="):
        fetch((tmp_path / "a.bin").as_uri(), tmp_path / "a.bin/data", "toy")
