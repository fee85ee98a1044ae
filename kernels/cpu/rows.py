"""Running a kernel over the rows of a layout: its arrays as addresses, its rows in chunks."""

from typing import Any

import torch
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from torch import Tensor

from graphattn.kernels.cpu.compile import Kernel
from graphattn.kernels.cpu.emitter import I64, Emitter, Value
from graphattn.kernels.cpu.shape import ConstantType
from graphattn.kernels.cpu.threads import run_chunks
from graphattn.kernels.layout import Layout

STORAGE = {torch.bfloat16: "bf16", torch.float16: "f16"}
"""How half precision lies in memory, as in ``Shape``; "" for all else."""


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """What the kernels compute in: float64 for float64, else float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def index_bits(layout: Layout) -> tuple[int, int]:
    """Bits of a column index and of an edge id; 0 where edge ids are positions."""
    edges = 8 * layout.edges.element_size() if layout.edges.shape[0] > 0 else 0
    return 8 * layout.indices.element_size(), edges


def emit_index(e: Emitter, base: Value, position: Value, bits: int) -> Value:
    """An entry of an index array; 0 bits: of the array 0, 1, 2, ... that nobody wrote down."""
    if bits == 0:
        return position
    at = e.builder.add(base, e.builder.mul(position, ir.Constant(I64, bits // 8)))
    return e.load_integer(at, 0, bits)


@intrinsic
def edge_id(typingctx: Any, shape: ConstantType, edges: types.Type, position: types.Type) -> Any:
    """The caller's id of the edge at a position."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        return emit_index(Emitter(builder, True), args[1], args[2], shape.constant.edge_bits)

    return types.int64(shape, types.int64, types.int64), codegen


def run_rows(
    kernel: Kernel,
    shape: Any,
    size: tuple[int, ...],
    layout: Layout,
    work: float,
    *arguments: Tensor | int | None,
    parts: Tensor | None = None,
) -> None:
    """Call ``kernel(shape, size, first, last, indptr, indices, edges, ...)`` over all rows.

    Tensors go in as addresses, None as 0; ``work`` estimates the multiply-adds. With ``parts``
    [chunks, ...] each chunk of rows is a call of its own, whose last argument is its part: sums
    over rows that are the same for any number of threads.
    """
    arrays = (layout.indptr, layout.indices, layout.edges, *arguments)
    plain = [_plain(array) for array in arrays]
    bounds = layout.plan[0].tolist()
    if parts is not None:
        places = [part.data_ptr() for part in parts]
        entry = kernel.compiled((shape, size, 0, 0, *plain, 0))

        def call(first: int, last: int) -> None:
            for n in range(first, last):
                entry(shape, size, bounds[n], bounds[n + 1], *plain, places[n])

        run_chunks(call, list(range(len(bounds))), work)
        return
    entry = kernel.compiled((shape, size, 0, 0, *plain))
    run_chunks(lambda first, last: entry(shape, size, first, last, *plain), bounds, work)


def _plain(argument: Tensor | int | None) -> int:
    if isinstance(argument, Tensor):
        return argument.data_ptr()
    return argument or 0
