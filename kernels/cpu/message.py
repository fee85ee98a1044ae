"""CPU reductions of non-linear messages: torch tensors in, torch tensors out.

The definition is kernels/reference/message.py. The machinery is that of aggregate.py: the same
slices, accumulators and terms of the gradient; an edge brings phi(a_i + b_j + P e) in place of x_j.
The gradient of a is born in a walk over rows, that of b in one over columns.
"""

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from graphattn.kernels.cpu.aggregate import Sizes, contiguous, pass_sizes
from graphattn.kernels.cpu.changes import change_edges, reduce_message_edges
from graphattn.kernels.cpu.compile import Kernel
from graphattn.kernels.cpu.memory import read_integer
from graphattn.kernels.cpu.pages import empty, zeros
from graphattn.kernels.cpu.reduction import Reduction
from graphattn.kernels.cpu.rows import compute_dtype, index_bits, run_rows
from graphattn.kernels.cpu.tables import Ahead, Table
from graphattn.kernels.layout import Layout


def _reduce_rows(
    shape, size, first, last, indptr, indices, edges, a, b, weight, attr, features, proj, out, stats
):
    """Rows ``first`` to ``last``."""
    ahead = Ahead(indices, size.last)
    for n in range(size.batch):
        source, factors = b + n * size.columns * size.near_row, weight + n * size.weight_batch
        for i in range(first, last):
            begin, end = read_integer(indptr, i), read_integer(indptr, i + 1)
            row = (n * size.rows + i) * size.row_bytes
            for part in range(size.outer):
                inside = part * size.outer_bytes
                at, near = row + inside, source + part * size.near_outer
                head = factors + part * shape.itemsize
                for _ in range(size.slices):
                    reduce_message_edges(
                        shape.full, begin, end, Table(near, indices, size.near_row), ahead,
                        edges, head, size.weight_edge, a + at, attr, features, proj + inside,
                        size.row_bytes, out + at, size.plane, stats + at, size.plane,
                    )  # fmt: skip
                    at += shape.full.wide.bytes
                    inside += shape.full.wide.bytes
                    near += shape.full.bytes
                    head += shape.head_step
                reduce_message_edges(
                    shape.tail, begin, end, Table(near, indices, size.near_row), ahead,
                    edges, head, size.weight_edge, a + at, attr, features, proj + inside,
                    size.row_bytes, out + at, size.plane, stats + at, size.plane,
                )  # fmt: skip


def _change_rows(
    shape, size, first, last, indptr, indices, edges, own, near_rows, jump, pulls, pulls_row,
    weight, attr, features, proj, grad, grad_weight, grad_attr, sums,
):  # fmt: skip
    """Gradients of the rows' own numbers; ``jump``: bytes between two gathered rows.

    ``pulls_row``: bytes between the terms of two rows, 0 where all have the same; ``sums``: where
    the projection's gradient is added to, and behind it the messages.
    """
    ahead = Ahead(indices, size.last)
    for n in range(size.batch):
        source, shift = near_rows + n * size.columns * jump, n * size.weight_batch
        for i in range(first, last):
            begin, end = read_integer(indptr, i), read_integer(indptr, i + 1)
            node = n * size.rows + i
            row, terms = node * size.row_bytes, pulls + node * pulls_row
            for part in range(size.outer):
                inside = part * size.outer_bytes
                head = shift + part * shape.itemsize
                # Added to: what an earlier entry of the batch left, or an earlier slice.
                again = n if size.weight_batch == 0 else 0
                attr_again = n + part
                for _ in range(size.slices):
                    change_edges(
                        shape.full, begin, end, Table(source + inside, indices, jump), ahead,
                        edges, weight + head, size.weight_edge, own + row + inside, attr, features,
                        proj + inside, size.row_bytes, grad + row + inside, grad_weight + head,
                        again, terms + inside, size.row_bytes, grad_attr,
                        attr_again, sums + inside,
                    )  # fmt: skip
                    inside += shape.full.wide.bytes
                    head += shape.head_step
                    again += 1 if shape.head_step == 0 else 0
                    attr_again += 1
                change_edges(
                    shape.tail, begin, end, Table(source + inside, indices, jump), ahead,
                    edges, weight + head, size.weight_edge, own + row + inside, attr, features,
                    proj + inside, size.row_bytes, grad + row + inside, grad_weight + head,
                    again, terms + inside, size.row_bytes, grad_attr,
                    attr_again, sums + inside,
                )  # fmt: skip


reduce_rows = Kernel(_reduce_rows)
change_rows = Kernel(_change_rows)


def message_forward(
    a: Tensor,
    b: Tensor,
    weight: Tensor | None,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    rows: Layout,
    *,
    activation: str,
    slope: float,
    reduce: tuple[str, ...],
) -> tuple[Tensor, Tensor]:
    """Reduce the messages of every row; meaning as in kernels/reference.

    Memory: out and stats, float32 copies of half-precision a and edge tensors.
    """
    high = compute_dtype(a)
    shape, size = pass_sizes(b, b.shape, weight, rows, reduce, None)
    shape = _message_shape(shape, activation, slope, edge_attr is not None, index_bits(rows)[1])
    out, stats = (
        empty(a, (count, *a.shape), high) for count in (len(reduce), shape.terms - shape.linear)
    )
    if out.numel() > 0:
        run_rows(
            reduce_rows, shape, size, rows, _work(a, rows), contiguous(a, high), b.contiguous(),
            contiguous(weight, high), *_features(edge_attr, edge_proj, high), out, stats,
        )  # fmt: skip
    return out.to(a.dtype), stats


def message_backward(
    pulls: Tensor,
    a: Tensor,
    b: Tensor,
    weight: Tensor | None,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    rows: Layout,
    cols: Layout,
    *,
    activation: str,
    slope: float,
    reduce: tuple[str, ...],
    needs: tuple[bool, ...],
    total: bool = False,
) -> tuple[Tensor | None, ...]:
    """Gradients of (a, b, weight, edge_attr, edge_proj); meaning as in kernels/reference.

    Memory: the gradients, one row of a beside its terms, float32 copies of half-precision
    tensors, and a copy of the projection and of the total per chunk of rows.
    """
    high = compute_dtype(a)
    given = (a, b, weight, edge_attr, edge_proj)
    needs = tuple(n and t is not None for n, t in zip(needs, given, strict=True))
    a_wide, b_wide, pulls = a.to(high).contiguous(), b.to(high).contiguous(), pulls.to(high)
    fresh = empty if a.numel() > 0 and b.numel() > 0 else zeros
    edge = contiguous(weight, high), *_features(edge_attr, edge_proj, high)
    grads = [
        None if not n or t is None else fresh(t, t.shape, high)
        for n, t in zip(needs, given, strict=True)
    ]
    options = activation, slope, edge_attr is not None
    sums = a.new_zeros(a.shape[2:], dtype=high) if total else None
    if a.numel() > 0 and (needs[0] or any(needs[2:]) or total):
        shape, size = pass_sizes(b_wide, b.shape, weight, rows, reduce, (needs[0], needs[2]))
        shape = _message_shape(shape, *options, index_bits(rows)[1], True, needs[3:], total)
        nodes, into = (a_wide, b_wide, pulls), [*grads, sums]
        _by_rows(shape, size, rows, _work(a, rows), nodes, edge, into)
    if b.numel() > 0 and needs[1]:
        shape, size = pass_sizes(a_wide, a.shape, weight, cols, reduce, (True, False))
        shape = _message_shape(shape, *options, index_bits(cols)[1], False)
        table = empty(a_wide, (*a.shape[:2], 1 + pulls.shape[2], *a.shape[2:]))
        table[:, :, 0], table[:, :, 1:] = a_wide, pulls
        run_rows(
            change_rows, shape, size, cols, _work(b, cols), b_wide, table,
            table.shape[2] * size.row_bytes, None, 0, *edge, grads[1], None, None, None,
        )  # fmt: skip
    grads = [
        None if g is None or t is None else g.to(t.dtype) for g, t in zip(grads, given, strict=True)
    ]
    return (*grads, sums) if total else tuple(grads)


def _by_rows(
    shape: Reduction,
    size: Sizes,
    rows: Layout,
    work: float,
    nodes: tuple[Tensor, ...],
    edge: tuple[Any, ...],
    grads: list[Tensor | None],
) -> None:
    """The walk over rows.

    The projection's gradient and the total are summed per chunk of rows, and then in order: a part
    holds the first [F, H, D] and the second [H, D] behind it, as far as they are wanted.
    """
    a, b, pulls = nodes
    grad_a, _, grad_weight, grad_attr, grad_proj, sums = grads
    same = pulls.stride()[:2] == (0, 0)
    pulls = pulls[:1, :1].contiguous() if same else pulls.contiguous()
    pulls_row = 0 if same else shape.terms * size.row_bytes
    given = a, b, size.row_bytes, pulls, pulls_row, *edge, grad_a, grad_weight, grad_attr
    if grad_proj is None and sums is None:
        run_rows(change_rows, shape, size, rows, work, *given, None)
        return
    planes = edge[2] + (sums is not None)
    parts = a.new_zeros((rows.plan[0].shape[0] - 1, planes, *a.shape[2:]))
    run_rows(change_rows, shape, size, rows, work, *given, parts=parts)
    found = torch.zeros_like(parts[0])
    for part in parts:
        found += part
    if grad_proj is not None:
        grad_proj.copy_(found[: edge[2]].permute(1, 2, 0))
    if sums is not None:
        sums.copy_(found[-1])


def _features(
    edge_attr: Tensor | None, edge_proj: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor | None, int, Tensor | None]:
    """Edge features [E, F], their number, and the projection as [F, H, D]."""
    if edge_attr is None or edge_proj is None:
        return None, 0, None
    proj = contiguous(edge_proj.permute(2, 0, 1), dtype)
    return contiguous(edge_attr, dtype), edge_attr.shape[1], proj


@cache
def _message_shape(
    shape: Reduction,
    activation: str,
    slope: float,
    featured: bool,
    edge_bits: int,
    by_rows: bool = False,
    feature_needs: tuple[bool, bool] = (False, False),
    total: bool = False,
) -> Reduction:
    """``shape`` with what it has to know about messages; one without use for it forgets a slope."""
    return replace(
        shape,
        activation=activation,
        slope=slope if activation == "leaky_relu" else 0.0,
        featured=featured,
        edge_bits=edge_bits if featured or shape.weighted else 0,
        by_rows=by_rows,
        feature_needs=feature_needs,
        total=total,
    )


def _work(own: Tensor, layout: Layout) -> float:
    return 4.0 * layout.indices.shape[0] * own.shape[0] * own.shape[2] * own.shape[3]
