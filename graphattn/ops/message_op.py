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
from graphattn.ops.derivatives import first_derivative, like, needed, save, saved
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
    c, d, e, f, g = like((a, b, weight, edge_attr, edge_proj), needs)
    return c, d, e, f, g


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    save(ctx, inputs, 5, output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_out: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    given, (stats,), rows, cols, options = saved(ctx, 1)
    needs = [bool(need) for need in ctx.needs_input_grad[:5]]
    nothing = [None] * len(rows), [None] * len(cols), None, None, None, None
    if grad_out is None:
        return *[None] * 5, *nothing
    if torch.is_grad_enabled():
        activation, slope, reduce, _ = options
        names, layout = tuple(reduce.split(",")), unflatten(rows)
        five: tuple[Any, Any, Any, Any, Any] = tuple(given)
        out, _ = reference.message_forward(
            *five, layout, activation=activation, slope=slope, reduce=names
        )
        found = first_derivative([out], [grad_out], given, needs)
    else:
        found = pull_message(grad_out, stats, *given, rows, cols, *options, needs)
    return *needed(found, needs), *nothing


reduce_bent = direct(message_op, _reduce, _save, _backward)
register_batching(message_op, (0, 1, 2), (1, 1), broadcast=(2,), shared="edge_attr and edge_proj")
