"""Schema, fake kernels and derivative of the fused reduction of non-linear messages.

Two opaque operators: ``graphattn::message_aggregate`` and its backward. The names of the
reductions travel as one comma-separated string, graphs as flat tensor lists.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graphattn.kernels.reference import message as reference
from graphattn.kernels.reference.aggregate import message_pulls
from graphattn.kernels.reference.edges import accumulate_dtype
from graphattn.ops.aggregate_op import num_stats
from graphattn.ops.batching import register_batching
from graphattn.ops.fused import direct, filled, kernels, unflatten


def _reduce(
    a: Tensor,
    b: Tensor,
    weight: Tensor | None,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    rows: Sequence[Tensor],
    cols: Sequence[Tensor],
    activation: str,
    slope: float,
    reduce: str,
    impl: str,
) -> tuple[Tensor, Tensor]:
    out, stats = kernels(impl, "message").message_forward(
        a.contiguous(),
        b.contiguous(),
        None if weight is None else weight.contiguous(),
        edge_attr,
        edge_proj,
        unflatten(rows),
        activation=activation,
        slope=slope,
        reduce=tuple(reduce.split(",")),
    )
    return out, stats


message_op = torch.library.custom_op("graphattn::message_aggregate", _reduce, mutates_args=())


@message_op.register_fake
def _(
    a: Tensor,
    b: Tensor,
    weight: Tensor | None,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    rows: Sequence[Tensor],
    cols: Sequence[Tensor],
    activation: str,
    slope: float,
    reduce: str,
    impl: str,
) -> tuple[Tensor, Tensor]:
    names = tuple(reduce.split(","))
    out = a.new_empty((len(names), *a.shape))
    return out, a.new_empty((num_stats(names), *a.shape), dtype=accumulate_dtype(a))


def _pull(
    grad_out: Tensor,
    stats: Tensor,
    a: Tensor,
    b: Tensor,
    weight: Tensor | None,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    rows: Sequence[Tensor],
    cols: Sequence[Tensor],
    activation: str,
    slope: float,
    reduce: str,
    impl: str,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    names = tuple(reduce.split(","))
    return kernels(impl, "message").message_backward(  # type: ignore[no-any-return]
        message_pulls(grad_out.contiguous(), stats, rows[0], reduce=names),
        a.contiguous(),
        b.contiguous(),
        None if weight is None else weight.contiguous(),
        edge_attr,
        edge_proj,
        unflatten(rows),
        unflatten(cols),
        activation=activation,
        slope=slope,
        reduce=names,
        needs=tuple(needs),
    )


message_backward_op = torch.library.custom_op(
    "graphattn::message_backward", filled(_pull), mutates_args=()
)
pull_message = direct(message_backward_op, _pull)


@message_backward_op.register_fake
def _(
    grad_out: Tensor,
    stats: Tensor,
    a: Tensor,
    b: Tensor,
    weight: Tensor | None,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    rows: Sequence[Tensor],
    cols: Sequence[Tensor],
    activation: str,
    slope: float,
    reduce: str,
    impl: str,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    given = (a, b, weight, edge_attr, edge_proj)
    c, d, e, f, g = (
        a.new_empty(0)
        if t is None or not need
        else torch.empty_like(t, memory_format=torch.contiguous_format)
        for t, need in zip(given, needs, strict=True)
    )
    return c, d, e, f, g


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *given, rows, cols, activation, slope, reduce, impl = inputs
    ctx.there = [t is not None for t in given]
    ctx.sizes = len(rows), len(cols)
    ctx.options = activation, slope, reduce, impl
    ctx.save_for_backward(output[1], *rows, *cols, *(t for t in given if t is not None))
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_out: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    num_rows, num_cols = ctx.sizes
    stats, *rest = ctx.saved_tensors
    rows, cols = rest[:num_rows], rest[num_rows:][:num_cols]
    kept = iter(rest[num_rows + num_cols :])
    given = [next(kept) if there else None for there in ctx.there]
    needs = [bool(need) for need in ctx.needs_input_grad[:5]]
    nothing = [None] * num_rows, [None] * num_cols, None, None, None, None
    if grad_out is None:
        return *[None] * 5, *nothing
    if torch.is_grad_enabled():
        found = _differentiable_backward(grad_out, given, rows, ctx.options, needs)
    else:
        found = pull_message(grad_out, stats, *given, rows, cols, *ctx.options, needs)
    return *(g if need else None for g, need in zip(found, needs, strict=True)), *nothing


def _differentiable_backward(
    grad_out: Tensor,
    given: list[Tensor | None],
    rows: Sequence[Tensor],
    options: tuple[str, float, str, str],
    needs: list[bool],
) -> tuple[Tensor | None, ...]:
    """First derivative through the reference, so that it can be differentiated again."""
    activation, slope, reduce, _ = options
    five: tuple[Any, Any, Any, Any, Any] = tuple(given)  # type: ignore[assignment]
    out, _ = reference.message_forward(
        *five,
        unflatten(rows),
        activation=activation,
        slope=slope,
        reduce=tuple(reduce.split(",")),
    )
    wanted = [t for t, need in zip(given, needs, strict=True) if need and t is not None]
    found = iter(torch.autograd.grad(out, wanted, grad_out, create_graph=True))
    return tuple(next(found) if need else None for need in needs)


reduce_bent = direct(message_op, _reduce, _save, _backward)
register_batching(message_op, (0, 1, 2), (1, 1), broadcast=(2,), shared="edge_attr and edge_proj")
