"""Schema, fake kernels and derivative of the fused aggregation operator.

Two opaque operators: ``graphattn::aggregate`` and ``graphattn::aggregate_backward``. The names of
the reductions travel as one comma-separated string, graphs as flat tensor lists. ``side_by_side``
lays the results of a row beside each other, out [B, R, len(reduce), H, D].
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graphattn.kernels.reference import aggregate as reference
from graphattn.kernels.reference.edges import accumulate_dtype
from graphattn.ops.batching import register_batching
from graphattn.ops.derivatives import first_derivative, needed, save, saved
from graphattn.ops.fused import direct, filled, kernels, unflatten


def num_stats(reduce: tuple[str, ...]) -> int:
    """Two statistics for each family of reductions that is not linear: see the reference."""
    return 2 * (bool({"var", "std"} & set(reduce)) + ("max" in reduce) + ("min" in reduce))


def _reduce(
    x: Tensor,
    weight: Tensor | None,
    rows: Sequence[Tensor],
    cols: Sequence[Tensor],
    reduce: str,
    side_by_side: bool,
    impl: str,
) -> tuple[Tensor, Tensor]:
    names, form = tuple(reduce.split(",")), (x.shape[0], rows[0].shape[0] - 1, *x.shape[2:])
    given = x.contiguous(), None if weight is None else weight.contiguous(), unflatten(rows)
    forward = kernels(impl, "aggregate").aggregate_forward
    if impl == "cpu":
        found: tuple[Tensor, Tensor] = forward(
            *given, reduce=names, side_by_side=side_by_side, kept=bool(cols)
        )
        return found
    out, stats = forward(*given, reduce=names)
    if side_by_side:
        out = out.permute(1, 2, 0, 3, 4).contiguous()
    # Without columns there is no backward pass, which alone reads the statistics.
    return out, stats if cols else stats.new_empty((0, *form))


aggregate_op = torch.library.custom_op("graphattn::aggregate", _reduce, mutates_args=())


@aggregate_op.register_fake
def _(
    x: Tensor,
    weight: Tensor | None,
    rows: Sequence[Tensor],
    cols: Sequence[Tensor],
    reduce: str,
    side_by_side: bool,
    impl: str,
) -> tuple[Tensor, Tensor]:
    names, lead, tail = tuple(reduce.split(",")), (x.shape[0], rows[0].shape[0] - 1), x.shape[2:]
    first = (*lead, len(names)) if side_by_side else (len(names), *lead)
    count = num_stats(names) if cols else 0
    return x.new_empty((*first, *tail)), x.new_empty(
        (count, *lead, *tail), dtype=accumulate_dtype(x)
    )


def _pull(
    grad_out: Tensor,
    stats: Tensor,
    x: Tensor | None,
    weight: Tensor | None,
    rows: Sequence[Tensor],
    cols: Sequence[Tensor],
    reduce: str,
    impl: str,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    names = tuple(reduce.split(","))
    if impl == "cpu" and x is not None and kernels(impl, "push").push_pays(names, stats, weight):
        push = kernels(impl, "push").push_gradient
        grad_x = push(grad_out, stats, x, unflatten(rows), reduce=names)
        return grad_x, grad_x.new_empty(0)
    pulls = reference.message_pulls(grad_out.contiguous(), stats, rows[0], reduce=names)
    return kernels(impl, "aggregate").aggregate_backward(  # type: ignore[no-any-return]
        pulls,
        None if x is None else x.contiguous(),
        None if weight is None else weight.contiguous(),
        unflatten(cols),
        reduce=names,
        dtype=grad_out.dtype,
        needs=tuple(needs),
    )


aggregate_backward_op = torch.library.custom_op(
    "graphattn::aggregate_backward", filled(_pull), mutates_args=()
)
pull_messages = direct(aggregate_backward_op, _pull)


@aggregate_backward_op.register_fake
def _(
    grad_out: Tensor,
    stats: Tensor,
    x: Tensor | None,
    weight: Tensor | None,
    rows: Sequence[Tensor],
    cols: Sequence[Tensor],
    reduce: str,
    impl: str,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor]:
    shape = grad_out.shape[1], cols[0].shape[0] - 1, *grad_out.shape[3:]
    grad_x = grad_out.new_empty(shape if needs[0] else (0,))
    if weight is None or not needs[1]:
        return grad_x, grad_out.new_empty(0)
    return grad_x, torch.empty_like(weight, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, *rest = inputs
    stats = output[1]
    # A sum's gradient does not look at x: do not keep it alive.
    kept = x if weight is not None or stats.shape[0] > 0 else None
    save(ctx, (kept, weight, *rest), 2, (stats,))
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_out: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    (x, weight), (stats,), rows, cols, options = saved(ctx, 1)
    needs = [bool(ctx.needs_input_grad[0]), bool(ctx.needs_input_grad[1])]
    nothing = [None] * len(rows), [None] * len(cols), None, None, None
    reduce, side_by_side, impl = options
    if grad_out is None:
        return None, None, *nothing
    if side_by_side:
        grad_out = grad_out.permute(2, 0, 1, 3, 4)
    if torch.is_grad_enabled():
        found = _differentiable_backward(grad_out, x, weight, rows, cols, reduce, needs)
    else:
        found = pull_messages(grad_out, stats, x, weight, rows, cols, reduce, impl, needs)
    return *needed(found, needs), *nothing


def _differentiable_backward(
    grad_out: Tensor,
    x: Tensor | None,
    weight: Tensor | None,
    rows: Sequence[Tensor],
    cols: Sequence[Tensor],
    reduce: str,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """First derivative through the reference, so that it can be differentiated again."""
    if x is None:  # linear in x: its value does not matter
        shape = grad_out.shape[1], cols[0].shape[0] - 1, *grad_out.shape[3:]
        x = grad_out.new_zeros(shape).requires_grad_()
    out, _ = reference.aggregate_forward(
        x, weight, unflatten(rows), reduce=tuple(reduce.split(","))
    )
    return first_derivative([out], [grad_out], (x, weight), needs)


reduce_messages = direct(aggregate_op, _reduce, _save, _backward)
register_batching(aggregate_op, (0, 1), (1, 1), broadcast=(1,))
