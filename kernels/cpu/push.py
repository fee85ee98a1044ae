"""Gradient of x in one walk over the rows, each edge adding to its column: nothing to write first.

The walk over columns (pull.py) gathers all terms of the gradient for every edge, seven rows of
them for five reductions. Here a row's terms are made once, from the gradients and the statistics,
and stay in registers; an edge reads x and adds to the gradient of its column. Who walks owns a
*slice* of the channels, so no two threads meet, and a slice of all nodes fits into the cache that
the rows of all channels would not. A column's edges come in the order of its rows, so that the
result does not depend on the number of threads.
"""

from typing import NamedTuple

import torch
from llvmlite import ir
from numba.core import cgutils
from torch import Tensor

from graphattn.kernels.cpu.accumulators import LEAST_VARIANCE, square_root
from graphattn.kernels.cpu.compile import Kernel
from graphattn.kernels.cpu.emitter import I64, Value
from graphattn.kernels.cpu.memory import read_integer
from graphattn.kernels.cpu.pages import zeros
from graphattn.kernels.cpu.pull import fresh_lanes, message_gradient
from graphattn.kernels.cpu.reduction import Piece, make_reduction
from graphattn.kernels.cpu.rows import STORAGE, compute_dtype, emit_index, index_bits
from graphattn.kernels.cpu.shape import VECTOR_BYTES
from graphattn.kernels.cpu.tables import Ahead, Table, prefetch_bytes, row_ahead
from graphattn.kernels.cpu.threads import run_chunks, threads_for
from graphattn.kernels.cpu.walk import Walk, walk_intrinsic
from graphattn.kernels.layout import Layout

# Of fewer terms the columns' walk gathers less than this one reads and writes.
_LEAST_TERMS = 3
# Slices are what threads share; with fewer of them a large machine would stand idle.
_LEAST_SLICES = 4


class Sizes(NamedTuple):
    """Run-time sizes: entries, then bytes between entries of the batch, rows and planes."""

    batch: int
    rows: int
    columns: int
    last: int
    slices: int
    grad_batch: int
    grad_row: int
    grad_plane: int
    near_row: int
    wide_row: int
    plane: int


def _push_slices(shape, size, first, last, indptr, indices, grad, stats, x, grad_x):
    """Slices ``first`` to ``last`` of all rows; the one after the full ones is the tail."""
    ahead = Ahead(indices, size.last)
    for part in range(first, last):
        wide, near = part * shape.full.wide.bytes, part * shape.full.bytes
        for b in range(size.batch):
            source = Table(x + b * size.columns * size.near_row + near, indices, size.near_row)
            to = grad_x + b * size.columns * size.wide_row + wide
            for i in range(size.rows):
                begin, end = read_integer(indptr, i), read_integer(indptr, i + 1)
                pulls = grad + b * size.grad_batch + i * size.grad_row + wide
                saved = stats + (b * size.rows + i) * size.wide_row + wide
                if part < size.slices:
                    push_edges(
                        shape.full, begin, end, source, ahead, 0, 0, 0,
                        pulls, size.grad_plane, saved, size.plane, to, size.wide_row,
                    )  # fmt: skip
                else:
                    push_edges(
                        shape.tail, begin, end, source, ahead, 0, 0, 0,
                        pulls, size.grad_plane, saved, size.plane, to, size.wide_row,
                    )  # fmt: skip


push_slices = Kernel(_push_slices)


def push_pays(reduce: tuple[str, ...], stats: Tensor, weight: Tensor | None) -> bool:
    """Whether this walk does less than that over columns; decided by shapes alone."""
    terms = stats.shape[0] + bool({"sum", "mean"} & set(reduce))
    lanes = VECTOR_BYTES // stats.element_size()
    width = stats.shape[-2] * stats.shape[-1]
    return weight is None and terms >= _LEAST_TERMS and width >= _LEAST_SLICES * lanes


def push_gradient(
    grad_out: Tensor, stats: Tensor, x: Tensor, rows: Layout, *, reduce: tuple[str, ...]
) -> Tensor:
    """Gradient of x [B, C, H, D] of reductions without weights, in x's dtype.

    grad_out [len(reduce), B, R, H, D] with rows of any stride, stats as the forward pass left them.
    Memory: the gradient, in float32 (float64 for float64).
    """
    high, (batch, columns, heads, width) = compute_dtype(x), x.shape
    grad_out = grad_out.to(high)
    if grad_out.stride()[-2:] != (width, 1):
        grad_out = grad_out.contiguous()
    x, grad_x = x.contiguous(), zeros(x, x.shape, high)
    work = 4.0 * x.shape[0] * rows.indices.shape[0] * heads * width
    # Two cache lines of a row at a time where that leaves a slice for every thread.
    lanes = VECTOR_BYTES // high.itemsize
    vectors = 2 if heads * width >= 2 * lanes * threads_for(work) else 1
    shape, cut = make_reduction(
        high == torch.float64, 1, max(heads * width, 1), reduce, False, index_bits(rows)[0], 0,
        STORAGE.get(x.dtype, ""), (True, False), vectors,
    )  # fmt: skip
    plane, step, row = (high.itemsize * grad_out.stride(d) for d in range(3))
    size = Sizes(
        batch=batch, rows=grad_out.shape[2], columns=columns, last=rows.indices.shape[0] - 1,
        slices=cut.slices, grad_batch=step, grad_row=row, grad_plane=plane,
        near_row=heads * width * x.element_size(), wide_row=heads * width * high.itemsize,
        plane=batch * grad_out.shape[2] * heads * width * high.itemsize,
    )  # fmt: skip
    if x.numel() > 0 and rows.indices.shape[0] > 0:
        tensors = rows.indptr, rows.indices, grad_out, stats, x, grad_x
        plain = [tensor.data_ptr() for tensor in tensors]
        entry = push_slices.compiled((shape, size, 0, 0, *plain))
        bounds = list(range(cut.slices + (shape.tail_width > 0) + 1))
        run_chunks(lambda first, last: entry(shape, size, first, last, *plain), bounds, work)
    return grad_x.to(x.dtype)


class _Push(Walk):
    """A walk that adds to rows of ``to``, ``jump`` bytes apart, at the columns of its edges."""

    to: Value
    jump: Value

    def terms(
        self, piece: Piece, grads: Value, grad_plane: Value, stats: Value, plane: Value
    ) -> list[Value]:
        """What the row hands its edges: ``message_pulls`` of kernels/reference, for a piece."""
        e, b, shape = self.e, self.e.builder, self.shape

        def load(base: Value, jump: Value, number: int) -> Value:
            return self.load(b.add(base, b.mul(jump, ir.Constant(I64, number))), piece)

        pulls = {n: load(grads, grad_plane, k) for k, n in enumerate(shape.reduce)}
        saved = [load(stats, plane, n) for n in range(shape.terms - shape.linear)]
        count = e.splat(self.float_of(b.sub(self.end, self.begin)), piece.lanes)
        if "mean" in pulls:
            pulls["mean"] = b.fdiv(pulls["mean"], count)
        linear = [pulls[name] for name in ("sum", "mean") if name in pulls]
        found = [linear[0] if len(linear) == 1 else b.fadd(*linear)] if linear else []
        if shape.spread:
            mean, variance, *saved = saved
            found += [self._slope(pulls, variance, count), mean]
        for name in shape.extremes:
            extreme, ties, *saved = saved
            found += [extreme, b.fdiv(pulls[name], ties)]
        return found

    def _slope(self, pulls: dict[str, Value], variance: Value, count: Value) -> Value:
        """Derivative of var and std by a message, divided by its distance to the mean."""
        e, b = self.e, self.e.builder
        lanes = variance.type.count
        zero, total = e.constant(0.0, lanes), None
        if "var" in pulls:
            total = b.fdiv(b.fmul(e.constant(2.0, lanes), pulls["var"]), count)
        if "std" in pulls:
            steep = b.fdiv(pulls["std"], b.fmul(count, square_root(e, variance)))
            least = e.constant(LEAST_VARIANCE, lanes)
            part = e.select("<=", variance, least, zero, steep)
            total = part if total is None else b.fadd(total, part)
        assert total is not None
        return total

    def place(self, position: Value) -> Value:
        """Address of the row that the edge at a position adds to."""
        b, indices = self.e.builder, self.e.builder.extract_value(self.table, 1)
        column = emit_index(self.e, indices, position, self.shape.index_bits)
        return b.add(self.to, b.mul(column, self.jump))

    def emit(self, held: list[list[Value]]) -> None:
        """The loop over edges."""
        e, b = self.e, self.e.builder
        there = cgutils.pack_struct(b, [self.to, b.extract_value(self.table, 1), self.jump])
        with self.edges_of(self.begin, b.sub(self.end, self.begin)) as position:
            self.fetch(position, [ir.Constant(I64, 0)])
            later = row_ahead(e, self.shape, there, self.ahead, position)
            prefetch_bytes(e, later, 0, self.row.wide.bytes)
            edge, to = self.at(position), self.place(position)
            for piece, terms in zip(self.pieces, held, strict=True):
                message = self.message(edge, piece, self.near(edge, piece))
                pull = message_gradient(self, terms, piece, message)
                total = b.fadd(self.load(to, piece), fresh_lanes(e, piece, pull))
                self.store(total, to, piece)


def _emit_push(walk: _Push, *given: Value) -> None:
    *sources, walk.to, walk.jump = given
    walk.emit([walk.terms(piece, *sources) for piece in walk.pieces])


push_edges = walk_intrinsic(
    "push_edges",
    """Add one slice of a row's gradient to the columns of its edges.

    ``grads`` and ``stats``: of the row, planes ``grad_plane`` and ``plane`` bytes apart; ``to``:
    the gradients of x, ``jump`` bytes from column to column.
    """,
    "grads grad_plane stats plane to jump",
    lambda e, row, walk, rest: _emit_push(_Push(e, row, *walk), *rest),
)
