"""The tile kernels without a GPU: interpreted in one process, compiled in another."""

import pytest

from tests.kernels.gpu_process import interpret, table_of

pytest.importorskip("triton")


def build(target: str, *words: str) -> list[list[str]]:
    """Rows of the table of one target; tensor cores are used throughout but for tables."""
    rows = table_of("gpu_grid_table.py", target, *words)
    tiles = {"tile_forward", "tile_backward_rows", "tile_backward_cols"}
    assert {row[4] for row in rows} == tiles | {"tile_table_gradient"}
    assert all(int(row[8]) > 0 for row in rows if row[4] in tiles)
    return rows


def test_interpreter() -> None:
    assert " passed" in interpret("not slow", "test_gpu_grid")


@pytest.mark.slow
def test_interpreter_sweep() -> None:
    assert " passed" in interpret("slow", "test_gpu_grid")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "gfx942"])
def test_kernels_build_almost_without_spills(target: str) -> None:
    """What spills is a few registers, where that was measured to be faster than not to spill.

    Bytes a thread at most, for heads of up to 128 bytes and beyond.
    """
    limits = {"tile_forward": (96, 128), "tile_backward_cols": (512, 512)}
    for row in build(target, "bfloat16", "float32"):
        wide = int(row[2]) * (2 if row[1] == "bfloat16" else 4) > 128
        assert int(row[6]) <= limits.get(row[4], (64, 64))[wide], row


def test_kernels_build() -> None:
    for row in build("sm_90", "bfloat16", "quick"):
        assert row[6] == "0", row
