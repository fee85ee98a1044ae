"""CPU aggregation: torch tensors in, torch tensors out.

The definition is kernels/reference/aggregate.py. Machine code is made per (dtype, slice of a row,
reductions, weighted or not), at the first use of each; widths that end alike share it.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from graphattn.kernels.cpu.compile import Kernel
from graphattn.kernels.cpu.memory import read_integer
from graphattn.kernels.cpu.pages import empty, zeros
from graphattn.kernels.cpu.pull import pull_edges
from graphattn.kernels.cpu.reduce import reduce_edges
from graphattn.kernels.cpu.reduction import Reduction, make_reduction
from graphattn.kernels.cpu.rows import STORAGE, compute_dtype, index_bits, run_rows
from graphattn.kernels.cpu.tables import Ahead, Table
from graphattn.kernels.layout import Layout


class Sizes(NamedTuple):
    """Run-time sizes. ``rows`` own the edges of this pass, ``columns`` are gathered.

    A row is walked ``outer`` times ``slices`` slices. ``row_bytes`` and ``outer_bytes``: of a row
    of results and of one outer part of it; ``near_*``: the same of what is gathered, one term.
    ``weight_edge`` and ``weight_batch``: bytes between the weights of two edges, and of two batch
    entries (0 where these share them); ``plane``: between two statistics; ``out_plane`` and
    ``out_row``: between two results, and between theirs of two rows.
    """

    batch: int
    rows: int
    columns: int
    last: int
    outer: int
    slices: int
    row_bytes: int
    outer_bytes: int
    near_row: int
    near_outer: int
    weight_edge: int
    weight_batch: int
    plane: int
    out_plane: int
    out_row: int


def _reduce_rows(shape, size, first, last, indptr, indices, edges, x, weight, out, stats):
    """Rows ``first`` to ``last``."""
    ahead = Ahead(indices, size.last)
    for b in range(size.batch):
        source, factors = x + b * size.columns * size.near_row, weight + b * size.weight_batch
        for i in range(first, last):
            begin, end = read_integer(indptr, i), read_integer(indptr, i + 1)
            row, to = (b * size.rows + i) * size.row_bytes, out + (b * size.rows + i) * size.out_row
            for part in range(size.outer):
                at, near = part * size.outer_bytes, source + part * size.near_outer
                head = factors + part * shape.itemsize
                for _ in range(size.slices):
                    reduce_edges(
                        shape.full, begin, end, Table(near, indices, size.near_row), ahead,
                        edges, head, size.weight_edge, to + at, size.out_plane,
                        stats + row + at, size.plane,
                    )  # fmt: skip
                    at += shape.full.wide.bytes
                    near += shape.full.bytes
                    head += shape.head_step
                reduce_edges(
                    shape.tail, begin, end, Table(near, indices, size.near_row), ahead,
                    edges, head, size.weight_edge, to + at, size.out_plane, stats + row + at,
                    size.plane,
                )  # fmt: skip


def _pull_columns(
    shape, size, first, last, indptr, indices, edges, pulls, x, weight, grad_x, grad_weight
):
    """Columns ``first`` to ``last``: gradients of x, and of the weights of their edges."""
    ahead, jump = Ahead(indices, size.last), shape.terms * size.near_row
    for b in range(size.batch):
        source, shift = pulls + b * size.columns * jump, b * size.weight_batch
        for i in range(first, last):
            begin, end = read_integer(indptr, i), read_integer(indptr, i + 1)
            row = (b * size.rows + i) * size.row_bytes
            for part in range(size.outer):
                at, near = row + part * size.outer_bytes, source + part * size.near_outer
                head = shift + part * shape.itemsize
                # Added to: what an earlier entry of the batch left, or an earlier slice of a head.
                again = b if size.weight_batch == 0 else 0
                for _ in range(size.slices):
                    pull_edges(
                        shape.full, begin, end, Table(near, indices, jump), ahead,
                        edges, weight + head, size.weight_edge, x + at, grad_x + at,
                        grad_weight + head, again, size.near_row,
                    )  # fmt: skip
                    at += shape.full.wide.bytes
                    near += shape.full.bytes
                    head += shape.head_step
                    again += 1 if shape.head_step == 0 else 0
                pull_edges(
                    shape.tail, begin, end, Table(near, indices, jump), ahead,
                    edges, weight + head, size.weight_edge, x + at, grad_x + at,
                    grad_weight + head, again, size.near_row,
                )  # fmt: skip


reduce_rows = Kernel(_reduce_rows)
pull_columns = Kernel(_pull_columns)


def aggregate_forward(
    x: Tensor,
    weight: Tensor | None,
    rows: Layout,
    *,
    reduce: tuple[str, ...],
    side_by_side: bool = False,
    kept: bool = True,
) -> tuple[Tensor, Tensor]:
    """Reduce the messages of every row; meaning as in kernels/reference.

    x [B, C, H, D], weight [1 or B, E, H] or None -> out [len(reduce), B, R, H, D] and stats
    [S, B, R, H, D], S = 0 unless ``kept``. ``side_by_side``: out [B, R, len(reduce), H, D].
    Half-precision rows are gathered as they are; results are float32 until the end. Memory: these.
    """
    high = compute_dtype(x)
    shape, size = pass_sizes(x, x.shape, weight, rows, reduce, None)
    shape, factor = shape if kept else replace(shape, kept=False), contiguous(weight, high)
    form, count = (x.shape[0], size.rows), shape.terms - shape.linear if kept else 0
    stats = empty(x, (count, *form, *x.shape[2:]), high)
    lead = (*form, len(reduce)) if side_by_side else (len(reduce), *form)
    out = empty(x, (*lead, *x.shape[2:]), high)
    if side_by_side:
        size = size._replace(out_plane=size.row_bytes, out_row=len(reduce) * size.row_bytes)
    if out.numel() > 0:
        work = rows.indices.shape[0] * x.shape[0] * x.shape[2] * x.shape[3]
        run_rows(reduce_rows, shape, size, rows, work, x.contiguous(), factor, out, stats)
    return out.to(x.dtype), stats


def aggregate_backward(
    pulls: Tensor,
    x: Tensor | None,
    weight: Tensor | None,
    cols: Layout,
    *,
    reduce: tuple[str, ...],
    dtype: torch.dtype,
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of x and weight from ``message_pulls``; meaning as in kernels/reference.

    Memory: the gradients, and float32 copies of half-precision x and weights.
    """
    high = compute_dtype(pulls)
    batch, _, terms, heads, width = pulls.shape
    needs = needs[0], needs[1] and weight is not None
    full = torch.Size((batch, cols.indptr.shape[0] - 1, heads, width))
    gathered = torch.Size((batch, pulls.shape[1], heads, width))
    shape, size = pass_sizes(pulls, gathered, weight, cols, reduce, needs)
    grad_x = empty(pulls, full, high) if needs[0] else None
    grad_weight = None
    if needs[1]:
        # With nothing to walk, no pass writes it.
        grad_weight = (empty if pulls.numel() else zeros)(weight, weight.shape, high)
    if full.numel() > 0:
        own, factor = contiguous(x, high), contiguous(weight, high)
        work = batch * cols.indices.shape[0] * terms * heads * width
        given = pulls.contiguous(), own, factor
        run_rows(pull_columns, shape, size, cols, work, *given, grad_x, grad_weight)
    return (
        None if grad_x is None else grad_x.to(dtype),
        None if grad_weight is None or weight is None else grad_weight.to(weight.dtype),
    )


def pass_sizes(
    gathered: Tensor,
    form: torch.Size,
    weight: Tensor | None,
    layout: Layout,
    reduce: tuple[str, ...],
    needs: tuple[bool, bool] | None,
) -> tuple[Reduction, Sizes]:
    """Compile-time and run-time sizes of a pass; ``form``: [B, C, H, D] of one gathered term."""
    batch, columns, heads, width = form
    rows, high = layout.indptr.shape[0] - 1, compute_dtype(gathered)
    shape, cut = make_reduction(
        high == torch.float64, max(heads, 1), max(width, 1), reduce, weight is not None,
        *index_bits(layout), STORAGE.get(gathered.dtype, ""), needs,
    )  # fmt: skip
    weight_edge = 0 if weight is None else weight.shape[2] * high.itemsize
    batched = weight is not None and weight.shape[0] > 1
    size = Sizes(
        batch=batch,
        rows=rows,
        columns=columns,
        last=layout.indices.shape[0] - 1,
        outer=cut.outer,
        slices=cut.slices,
        row_bytes=heads * width * high.itemsize,
        outer_bytes=width * high.itemsize,
        near_row=heads * width * gathered.element_size(),
        near_outer=width * gathered.element_size(),
        weight_edge=weight_edge,
        weight_batch=layout.indices.shape[0] * weight_edge if batched else 0,
        plane=batch * rows * heads * width * high.itemsize,
        out_plane=batch * rows * heads * width * high.itemsize,
        out_row=heads * width * high.itemsize,
    )
    return shape, size


def contiguous(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A tensor that may be absent, in ``dtype`` and contiguous."""
    return None if tensor is None else tensor.to(dtype).contiguous()
