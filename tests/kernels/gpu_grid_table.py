"""Compile the tile kernels ahead of time and print a row per launch; run without interpreter.

    python tests/kernels/gpu_grid_table.py sm_90 bfloat16 [quick]

Columns: target, dtype, width, window, kernel, registers, bytes spilled, shared memory, matrix
instructions of tensor cores (wgmma or mma; mfma on AMD).
"""

import math
import re
import sys
from collections.abc import Iterator

import torch

from graphattn import GridGraph
from graphattn.kernels.gpu import grid
from graphattn.kernels.gpu.build_report import TARGETS, compile_ahead, disassembled, inspect
from graphattn.kernels.gpu.launch import Launch, recording
from graphattn.kernels.layout import Layout
from graphattn.kernels.score import Results, Score

# Shape, window, whether there is a bias table; video windows differ per axis.
CASES: tuple[tuple[tuple[int, ...], tuple[int, ...], bool], ...] = (
    ((64, 64), (7, 7), False),
    ((64, 64), (13, 13), False),
    ((64, 64), (17, 17), False),
    ((64, 64), (7, 7), True),
    ((8, 16, 32), (3, 7, 7), False),
    ((30, 48, 80), (18, 24, 24), False),
)
MATRIX = {"cuda": r"\b(?:HGMMA|HMMA|IMMA)\S*", "hip": r"\bv_mfma\S*"}


def meta(layout: Layout) -> Layout:
    assert layout.tables is not None
    return layout._replace(edges=layout.tables.to("meta"))


def launches(
    dtype: torch.dtype,
    width: int,
    shape: tuple[int, ...],
    window: tuple[int, ...],
    biased: bool,
    warp_size: int,
) -> list[Launch]:
    """Every launch of a forward and a backward pass on meta tensors."""
    rows, cols = (meta(layout) for layout in GridGraph(shape, window).layout("tiles"))
    nodes = math.prod(shape)
    qkv = [torch.empty(1, nodes, 8, width, dtype=dtype, device="meta") for _ in range(3)]
    types = math.prod(2 * k - 1 for k in window)
    table = torch.empty(8, types, device="meta") if biased else None
    index = None if table is None else torch.empty(0, dtype=torch.int64, device="meta")
    score = Score(scale=0.25, bias=table, bias_index=index)
    with recording(warp_size) as found:
        done = grid.attention_forward(*qkv, rows, score)
        pulls = Results(out=qkv[2], lse=done.lse)
        grid.attention_backward(pulls, *qkv, done, rows, cols, score, biased)
    return found


def matrix_instructions(compiled: object, backend: str) -> int:
    asm = compiled.asm  # type: ignore[attr-defined]
    if backend == "hip":
        return len(re.findall(MATRIX["hip"], asm["amdgcn"]))
    return len(re.findall(MATRIX["cuda"], disassembled(asm["cubin"])))


def rows(target: str, names: list[str], quick: bool) -> Iterator[tuple[str, ...]]:
    """One row per launch."""
    backend = TARGETS[target]
    for name in names:
        widest = 128 // getattr(torch, name).itemsize
        for width in (64,) if quick else (widest // 2, widest, 2 * widest):
            for shape, window, biased in (CASES[3],) if quick else CASES:
                case = getattr(torch, name), width, shape, window, biased
                label = "x".join(map(str, window)) + " rpb" * biased
                for launch in launches(*case, backend.warp_size):
                    compiled = compile_ahead(launch, backend)
                    named = launch._replace(arguments={"UNROLL": 1} | launch.arguments)
                    build = inspect(named, compiled, backend)
                    yield (
                        target, name, str(width), label, build.kernel,
                        str(build.registers),
                        str(build.spilled), str(build.shared),
                        str(matrix_instructions(compiled, backend.backend)),
                    )  # fmt: skip


if __name__ == "__main__":
    chosen = [word for word in sys.argv[2:] if word != "quick"]
    for row in rows(sys.argv[1], chosen, "quick" in sys.argv):
        print("| " + " | ".join(row) + " |", flush=True)
