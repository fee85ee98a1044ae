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


# Bytes that a thread may spill: heads of up to 128 bytes, wider ones, wider ones with a bias table,
# whose places take registers too. Measured, rounded up to a multiple of 32.
SPILLS = {
    "sm_80": {
        "tile_forward": (128, 32, 192),
        "tile_backward_rows": (64, 64, 320),
        "tile_backward_cols": (320, 416, 448),
        "tile_table_gradient": (0, 0, 0),
    },
    "sm_90": {
        "tile_forward": (96, 0, 32),
        "tile_backward_rows": (0, 0, 96),
        "tile_backward_cols": (416, 96, 288),
        "tile_table_gradient": (0, 0, 0),
    },
    "gfx942": {
        "tile_forward": (0, 0, 0),
        "tile_backward_rows": (0, 0, 0),
        "tile_backward_cols": (0, 0, 0),
        "tile_table_gradient": (0, 0, 0),
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("target", SPILLS)
def test_kernels_spill_no_more_than_measured(target: str) -> None:
    """What spills does so where a GPU was faster with it than without, or with smaller blocks.

    That was an H200 (sm_90): two warps beat four for heads of up to 128 bytes, see ``tiling``. With
    a bias table blocks are the smallest there are. The same configurations spill more on the older
    sm_80, and have not been timed there.
    """
    for row in build(target, "bfloat16", "float32"):
        wide = int(row[2]) * (2 if row[1] == "bfloat16" else 4) > 128
        place = wide + (wide and row[3].endswith("rpb"))
        assert int(row[6]) <= SPILLS[target][row[4]][place], row


def test_kernels_build() -> None:
    for row in build("sm_90", "bfloat16", "quick"):
        assert row[6] == "0", row
