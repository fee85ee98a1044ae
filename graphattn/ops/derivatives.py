"""What the derivatives of fused operators share: what is kept, and the way through the reference.

Operators take tensors, two layouts as flat lists (by rows, by columns), and options, in this order.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graphattn.ops.fused import Flat


def save(ctx: Any, inputs: tuple[Any, ...], count: int, output: tuple[Tensor | None, ...]) -> None:
    """Keep the first ``count`` inputs, the results and the layouts; the rest are options.

    Layouts that come as ``Flat`` belong to the graph, which no step edits: they are spared what
    saved tensors cost.
    """
    given, (rows, cols, *ctx.options) = (*output, *inputs[:count]), inputs[count:]
    ctx.layouts = (rows, cols) if type(rows) is Flat else None
    arrays = () if ctx.layouts else (*rows, *cols)
    ctx.sizes = len(rows), len(cols)
    ctx.there = [t is not None for t in given]
    ctx.save_for_backward(*arrays, *(t for t in given if t is not None))


def saved(ctx: Any, results: int) -> tuple[Any, ...]:
    """What ``save`` kept: inputs, ``results`` results, rows, columns, options."""
    tensors = ctx.saved_tensors  # once: torch.utils.checkpoint gives them out a single time
    num_rows, num_cols = ctx.sizes
    rows, cols = ctx.layouts or (tensors[:num_rows], tensors[num_rows : num_rows + num_cols])
    kept = iter(tensors[len(tensors) - sum(ctx.there) :])
    given = [next(kept) if there else None for there in ctx.there]
    return given[results:], given[:results], rows, cols, ctx.options


def first_derivative(
    outs: Sequence[Tensor],
    grads: Sequence[Tensor],
    given: Sequence[Tensor | None],
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of ``given`` that can be differentiated again; ``outs`` come from the reference."""
    wanted = [t for t, need in zip(given, needs, strict=True) if need and t is not None]
    found = iter(torch.autograd.grad(outs, wanted, grads, create_graph=True, allow_unused=True))
    return [next(found) if need else None for need in needs]


def trained(given: Sequence[Tensor | None]) -> list[bool]:
    """Which tensors have a gradient."""
    return [t is not None and t.requires_grad for t in given]


def needed(found: Sequence[Tensor | None], needs: Sequence[bool]) -> list[Tensor | None]:
    """Gradients without those that nobody asked for."""
    return [g if need else None for g, need in zip(found, needs, strict=True)]


def like(given: Sequence[Tensor | None], needs: Sequence[bool]) -> list[Tensor]:
    """Empty gradients; of size 0 where none is needed."""
    first = next(t for t in given if t is not None)
    return [
        first.new_empty(0)
        if t is None or not need
        else torch.empty_like(t, memory_format=torch.contiguous_format)
        for t, need in zip(given, needs, strict=True)
    ]
