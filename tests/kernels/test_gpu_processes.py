"""GPU kernels without a GPU: interpreted in one process, compiled ahead of time in another."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.gpu_process import ROOT, interpret, run

pytest.importorskip("triton")


def build(*arguments: str) -> list[list[str]]:
    """Rows of the report; it fails by itself when anything spills."""
    table = run("-m", "graphattn.kernels.gpu.build_report", *arguments, interpret=False)
    cells = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    return cells[2:]


def test_interpreter() -> None:
    assert " passed" in interpret("not slow", "test_gpu_attention")


@pytest.mark.slow
def test_interpreter_sweep() -> None:
    assert " passed" in interpret("slow", "test_gpu_attention")


def test_kernels_build_for_every_target() -> None:
    """Lean main loops: no shared memory, and 16-byte gathers (without: twice as long)."""
    rows = build("--quick", "--dtypes", "bfloat16")
    limits = {"attention_rows": 42.0, "backward_rows": 46.0, "backward_cols": 54.0}
    for target in ("sm_80", "sm_90", "gfx942"):
        found = {row[4]: row for row in rows if row[0] == target}
        assert set(found) == {*limits, "merge_softmax", "merge_sum"}
        for kernel, limit in limits.items():
            assert found[kernel][9] == "0", f"{kernel} uses shared memory"
            assert target == "gfx942" or float(found[kernel][11]) < limit, found[kernel]


def test_tables_masks_and_logits_build_lean(tmp_path: Path) -> None:
    """A bias table, a mask and logits alone stay in registers, without shared memory."""
    options, file = ("plain", "table", "mask", "scores"), tmp_path / "builds.md"
    which = "--quick", "--targets", "sm_90", "--dtypes", "float16", "--options", *options
    rows = build(*which, "--out", str(file))
    written = file.read_text()
    assert written.startswith("# ") and " ".join(which) in written
    assert all(f"| {' | '.join(row)} |\n" in written for row in rows)
    assert {row[3] for row in rows} == set(options)
    assert {row[9] for row in rows} == {"0"}


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "gfx942"])
def test_nothing_spills(target: str) -> None:
    build("--targets", target)
    build("--targets", target, "--quick", "--options", "every")


@pytest.mark.parametrize(
    ("registers", "shared", "warps", "fit"),
    [
        (16, 0, 1, 32),
        (80, 0, 1, 24),
        (81, 0, 1, 20),
        (96, 0, 4, 5),
        (255, 0, 4, 2),
        (80, 57344, 2, 4),
    ],
)
def test_programs_of_an_sm(registers: int, shared: int, warps: int, fit: int) -> None:
    """As CUDA's occupancy calculator has it: every quarter of an SM has registers of its own."""
    from graphattn.kernels.gpu.build_report import SHARED, resident

    assert resident(registers, shared, warps, SHARED[90]) == fit


def test_sizes_are_never_specialised() -> None:
    """Mini-batches of other sizes must not compile again."""
    code = """
from graphattn.kernels.gpu import backward_cols, backward_rows, forward, merge
kernels = (forward.attention_rows, backward_rows.backward_rows, backward_cols.backward_cols,
           merge.merge_softmax, merge.merge_sum)
for kernel in kernels:
    for parameter in kernel.params:
        if parameter.annotation_type in ("i32", "i64"):
            assert parameter.do_not_specialize, (kernel, parameter.name)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
