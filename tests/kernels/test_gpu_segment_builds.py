"""The segment kernels without a GPU: interpreted in one process, compiled in another."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytest.importorskip("triton")


def run(*arguments: str, interpret: bool) -> str:
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), *sys.path]))
    environment.pop("TRITON_INTERPRET", None)
    if interpret:
        environment["TRITON_INTERPRET"] = "1"
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return done.stdout


def interpret(chosen: str) -> str:
    folder = ROOT / "tests" / "kernels"
    tests = str(folder / "test_gpu_segments.py"), str(folder / "test_gpu_messages.py")
    options = "-q", "-x", "-p", "no:cacheprovider", *tests, "-m", chosen
    return run("-m", "pytest", *options, interpret=True)


def build(target: str, *dtypes: str) -> list[list[str]]:
    """Rows of the table of one target; none may spill."""
    script = str(ROOT / "tests" / "kernels" / "gpu_segment_table.py")
    table = run(script, target, *dtypes, interpret=False)
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()]
    assert not [row for row in rows if row[5] != "0"]
    return rows


def test_interpreter() -> None:
    assert " passed" in interpret("not slow")


@pytest.mark.slow
def test_interpreter_sweep() -> None:
    assert " passed" in interpret("slow")


def test_kernels_build() -> None:
    assert {row[3] for row in build("sm_90", "quick")} == {
        "reduce_rows", "merge_reductions", "pull_cols", "merge_sum", "softmax_rows",
        "merge_masses", "softmax_chunks", "softmax_pulls", "top_rows", "change_rows",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "gfx942"])
def test_kernels_build_without_spills(target: str) -> None:
    """And lean where it counts: a weighted sum in at most 24 instructions per gathered row."""
    for row in build(target, "float32", "float64", "bfloat16"):
        if row[2].startswith("sum weighted") and row[3] == "reduce_rows" and row[7] != "-":
            assert float(row[7]) <= (24.0 if row[1] != "float64" else 48.0), row


def test_sizes_are_never_specialised() -> None:
    """Mini-batches of other sizes must not compile again."""
    code = """
from graphattn.kernels.gpu import changes, pull, reduce, select, softmax
modules = changes, pull, reduce, select, softmax
found = [value for module in modules for value in vars(module).values()
         if hasattr(value, "params")]
assert len(found) > 20
for kernel in found:
    for parameter in kernel.params:
        if parameter.annotation_type in ("i32", "i64"):
            assert parameter.do_not_specialize, (kernel, parameter.name)
"""
    run("-c", code, interpret=False)
