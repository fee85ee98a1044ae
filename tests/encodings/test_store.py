"""The disk cache of laplacian_pe."""

import pytest
import torch

from graphattn.cache import atomic_write, cache_dir
from graphattn.encodings import laplacian, laplacian_pe


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHATTN_CACHE", str(tmp_path))
    return tmp_path / "laplacian_pe"


@pytest.fixture
def solves(monkeypatch):
    """Counts how often something was computed."""
    calls = []
    solve = laplacian.solve
    monkeypatch.setattr(laplacian, "solve", lambda *a, **k: calls.append(1) or solve(*a, **k))
    return calls


def test_second_call_reads_the_file(make, folder, solves):
    graph = make["torus"](25, 31)
    first, second = (laplacian_pe(graph, 4, cache=True) for _ in range(2))
    assert len(solves) == 1 and len(list(folder.iterdir())) == 1
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    laplacian_pe(graph, 4, cache=True, drop=None)
    laplacian_pe(graph, 4, cache=True, edge_weight=torch.ones(graph.num_edges))
    laplacian_pe(make["torus"](31, 25), 4, cache=True)
    assert len(solves) == 4 and len(list(folder.iterdir())) == 4


def test_no_file_by_default_nor_for_small_graphs(make, folder):
    laplacian_pe(make["torus"](25, 31), 2)
    laplacian_pe(make["path"](30), 2, cache=True)
    assert not folder.exists()


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "other"])
def test_a_damaged_file_is_replaced_with_a_warning(make, folder, solves, damage):
    graph = make["torus"](25, 31)
    expected = laplacian_pe(graph, 4, cache=True)[1]
    (file,) = folder.iterdir()
    good = file.read_bytes()
    half = len(good) // 2
    flipped = good[:half] + bytes([good[half] ^ 255]) + good[half + 1 :]
    bad = {"truncate": good[:half], "flip": flipped, "empty": b"", "other": b"not an archive"}
    file.write_bytes(bad[damage])
    with pytest.warns(RuntimeWarning, match=r"cannot read .*computed again"):
        assert torch.equal(laplacian_pe(graph, 4, cache=True)[1], expected)
    assert torch.equal(laplacian_pe(graph, 4, cache=True)[1], expected)
    assert len(solves) == 2


def test_a_folder_that_cannot_be_written_warns(make, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("GRAPHATTN_CACHE", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="cannot write .*GRAPHATTN_CACHE"):
        laplacian_pe(make["torus"](25, 31), 2, cache=True)


def test_an_unconverged_result_warns_when_read_back(make, folder):
    graph = make["torus"](30, 40)
    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="relative residual"):
            laplacian_pe(graph, 5, method="lanczos", max_iter=40, cache=True)


def test_atomic_write_keeps_the_old_file_when_the_block_raises(tmp_path):
    path = tmp_path / "deep" / "file"
    with atomic_write(path) as file:
        file.write(b"old")
    with pytest.raises(RuntimeError, match="stop"), atomic_write(path) as file:
        file.write(b"ne")
        raise RuntimeError("stop")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHATTN_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("GRAPHATTN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "graphattn"
