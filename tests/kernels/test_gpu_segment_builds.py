"""The segment kernels without a GPU: interpreted in one process, compiled in another."""

import pytest

from tests.kernels.gpu_process import interpret, run, table_of

FILES = "test_gpu_segments", "test_gpu_messages"
pytest.importorskip("triton")


def build(target: str, *dtypes: str) -> list[list[str]]:
    """Rows of the table of one target; none may spill."""
    rows = table_of("gpu_segment_table.py", target, *dtypes)
    assert not [row for row in rows if row[5] != "0"]
    return rows


def test_interpreter() -> None:
    assert " passed" in interpret("not slow", *FILES)


@pytest.mark.slow
def test_interpreter_sweep() -> None:
    assert " passed" in interpret("slow", *FILES)


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
