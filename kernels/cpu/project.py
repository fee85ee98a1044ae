"""Rows of every head times the head's own matrix: [B, N, H, D] x [H, D, F].

torch makes one product of matrices per head of it, each with a result that is then copied into
place. The matrices of all heads stay in the first cache here, and the result is written once.
"""

from functools import lru_cache

from torch import Tensor

from graphattn.kernels.cpu.compile import Kernel
from graphattn.kernels.cpu.memory import mix_heads, row_scale, row_zero
from graphattn.kernels.cpu.pages import empty
from graphattn.kernels.cpu.shape import Shape
from graphattn.kernels.cpu.shares import address
from graphattn.kernels.cpu.threads import run_chunks
from graphattn.kernels.layout import CHUNKS

WIDEST = 64
"""Wider heads are left to torch: their products are long enough to be fast, and long code here."""


def _project(shape, heads, first, last, x, matrices, start, out):
    """Rows ``first`` to ``last`` of x; shape: D "heads" of width F. ``start`` is added to."""
    one = shape.shared
    for i in range(first, last):
        for h in range(heads):
            at = i * heads + h
            to = out + at * one.bytes
            if start is None:
                row_zero(one, to)
            if start is not None:
                row_scale(one, to, start + at * one.bytes, 1.0)
            mix_heads(shape.keys, to, matrices + h * shape.keys.bytes, x + at * shape.head_bytes)


project_rows = Kernel(_project)


def takes(width: int, found: int, itemsize: int) -> bool:
    """Whether the kernel can make rows of ``found`` from rows of ``width``: whole half vectors."""
    return width <= WIDEST and found <= WIDEST and found % (32 // itemsize) == 0


def project(x: Tensor, matrices: Tensor, start: Tensor | None = None) -> Tensor:
    """start + x P in float32 or float64, [B, N, H, F]; sums over D are in order."""
    heads, width, found = matrices.shape
    x, matrices = x.contiguous(), matrices.contiguous()
    start = None if start is None else start.contiguous()
    out = empty(x, (*x.shape[:2], heads, found))
    rows = x.shape[0] * x.shape[1]
    shape = Shape(x.element_size() == 8, width, found, 1, found, 64, 64, 1)
    arguments = (*map(address, (x, matrices, start)), out.data_ptr())
    entry = project_rows.compiled((shape, heads, 0, 0, *arguments))

    def call(first: int, last: int) -> None:
        entry(shape, heads, first, last, *arguments)

    run_chunks(call, _bounds(rows), rows * heads * width * found)
    return out


@lru_cache
def _bounds(rows: int) -> list[int]:
    return [rows * n // CHUNKS for n in range(CHUNKS + 1)]
