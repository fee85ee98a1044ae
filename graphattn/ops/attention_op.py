"""Schema, fake kernels and derivative of the fused attention operator.

Two opaque operators: ``graphattn::attention`` and ``graphattn::attention_backward``. Layouts are
passed as flat tensor lists; optional results come back as empty tensors, so the arity is fixed.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from graphattn.kernels.layout import Layout
from graphattn.kernels.reference import attention as reference

_FOLDER = {"cpu": "cpu", "triton": "gpu"}


def flatten(layout: Layout) -> list[Tensor]:
    """A layout as the flat list that operator schemas can carry."""
    return [layout.indptr, layout.indices, layout.edges, *layout.plan]


def _layout(flat: Sequence[Tensor]) -> Layout:
    return Layout(flat[0], flat[1], flat[2], tuple(flat[3:]))


def kernels(impl: str) -> Any:
    """The kernel module; imported when a kernel runs, so that Triton and Numba stay lazy."""
    return import_module(f"graphattn.kernels.{_FOLDER[impl]}.attention")


def _or_empty(tensor: Tensor | None, like: Tensor) -> Tensor:
    return like.new_empty(0) if tensor is None else tensor


@torch.library.custom_op("graphattn::attention", mutates_args=())
def attention_op(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: Sequence[Tensor],
    cols: Sequence[Tensor],
    bias: Tensor | None,
    gate: Tensor | None,
    edge_attr: Tensor | None,
    edge_query: Tensor | None,
    streams: Tensor | None,
    scale: float,
    clamp: float | None,
    dropout_p: float,
    return_gated: bool,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    out, lse, edge_out, gated = kernels(impl).attention_forward(
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        _layout(rows),
        scale=scale,
        clamp=clamp,
        bias=bias,
        gate=gate,
        edge_attr=edge_attr,
        edge_query=edge_query,
        dropout_p=dropout_p,
        streams=streams,
        return_gated=return_gated,
    )
    return out, lse, _or_empty(edge_out, query), _or_empty(gated, query)


@attention_op.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: Sequence[Tensor],
    cols: Sequence[Tensor],
    bias: Tensor | None,
    gate: Tensor | None,
    edge_attr: Tensor | None,
    edge_query: Tensor | None,
    streams: Tensor | None,
    scale: float,
    clamp: float | None,
    dropout_p: float,
    return_gated: bool,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, num_rows, heads, width = query.shape
    high = torch.float64 if query.dtype == torch.float64 else torch.float32
    gated_shape = (batch, rows[1].shape[0], heads, width) if return_gated else (0,)
    return (
        value.new_empty((batch, num_rows, heads, value.shape[3])),
        query.new_empty((batch, num_rows, heads), dtype=high),
        query.new_empty((0,) if edge_query is None else edge_query.shape),
        query.new_empty(gated_shape),
    )


@torch.library.custom_op("graphattn::attention_backward", mutates_args=())
def attention_backward_op(
    grads: Sequence[Tensor],
    present: Sequence[bool],
    saved: Sequence[Tensor],
    rows: Sequence[Tensor],
    cols: Sequence[Tensor],
    bias: Tensor | None,
    gate: Tensor | None,
    edge_attr: Tensor | None,
    edge_query: Tensor | None,
    streams: Tensor | None,
    scale: float,
    clamp: float | None,
    dropout_p: float,
    impl: str,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    given = [g.contiguous() if there else None for g, there in zip(grads, present, strict=True)]
    query, key, value, out, lse, edge_out = saved
    if given[0] is None:
        given[0] = torch.zeros_like(out)
    found = kernels(impl).attention_backward(
        *given,
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        out,
        lse,
        None if edge_query is None else edge_out,
        _layout(rows),
        _layout(cols),
        scale=scale,
        clamp=clamp,
        bias=bias,
        gate=gate,
        edge_attr=edge_attr,
        edge_query=edge_query,
        dropout_p=dropout_p,
        streams=streams,
        needs=tuple(needs),
    )
    first, second, third, *rest = (_or_empty(g, query) for g in found)
    return first, second, third, rest[0], rest[1], rest[2], rest[3]


@attention_backward_op.register_fake
def _(
    grads: Sequence[Tensor],
    present: Sequence[bool],
    saved: Sequence[Tensor],
    rows: Sequence[Tensor],
    cols: Sequence[Tensor],
    bias: Tensor | None,
    gate: Tensor | None,
    edge_attr: Tensor | None,
    edge_query: Tensor | None,
    streams: Tensor | None,
    scale: float,
    clamp: float | None,
    dropout_p: float,
    impl: str,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    query = saved[0]
    optional = [
        torch.empty_like(t, memory_format=torch.contiguous_format)
        if t is not None and need
        else query.new_empty(0)
        for t, need in zip((bias, gate, edge_attr, edge_query), needs, strict=True)
    ]
    dense = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in saved[:3]]
    return dense[0], dense[1], dense[2], optional[0], optional[1], optional[2], optional[3]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    query, key, value, rows, cols, *optional = inputs[:10]
    ctx.options = inputs[10:]
    ctx.sizes = len(rows), len(cols)
    ctx.given = [t is not None for t in optional]
    there = [t for t in optional if t is not None]
    ctx.save_for_backward(query, key, value, *output[:3], *rows, *cols, *there)
    ctx.set_materialize_grads(False)


def _saved_parts(ctx: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor | None]]:
    tensors = list(ctx.saved_tensors)
    num_rows, num_cols = ctx.sizes
    saved, rest = tensors[:6], tensors[6:]
    rows, cols, there = (
        rest[:num_rows],
        rest[num_rows : num_rows + num_cols],
        iter(rest[num_rows + num_cols :]),
    )
    return saved, rows, cols, [next(there) if given else None for given in ctx.given]


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    saved, rows, cols, optional = _saved_parts(ctx)
    scale, clamp, dropout_p, return_gated, impl = ctx.options
    # The compiler hands in gradients of the placeholders of results that were not asked for.
    asked = True, True, optional[3] is not None, return_gated
    grads = tuple(g if there else None for g, there in zip(grads, asked, strict=True))
    needs = [
        bool(n) and t is not None
        for n, t in zip(ctx.needs_input_grad[5:9], optional[:4], strict=True)
    ]
    if torch.is_grad_enabled():
        found = _differentiable_backward(saved, rows, optional, ctx.options, grads)
    else:
        query = saved[0]
        found = attention_backward_op(
            [_or_empty(g, query) for g in grads],
            [g is not None for g in grads],
            saved,
            rows,
            cols,
            *optional,
            scale,
            clamp,
            dropout_p,
            impl,
            needs,
        )
    edge_grads = [g if need else None for g, need in zip(found[3:], needs, strict=True)]
    nothing = [None] * len(rows), [None] * len(cols)
    return (*found[:3], *nothing, *edge_grads, None, None, None, None, None, None)


def _differentiable_backward(
    saved: list[Tensor],
    rows: list[Tensor],
    optional: list[Tensor | None],
    options: tuple[Any, ...],
    grads: tuple[Tensor | None, ...],
) -> list[Tensor | None]:
    """First derivative through the reference, so that it can be differentiated again."""
    scale, clamp, dropout_p, return_gated, _ = options
    inputs = [*saved[:3], *optional[:4]]
    query, key, value = saved[:3]
    outputs = reference.attention_forward(
        query,
        key,
        value,
        _layout(rows),
        scale=scale,
        clamp=clamp,
        dropout_p=dropout_p,
        return_gated=return_gated,
        bias=optional[0],
        gate=optional[1],
        edge_attr=optional[2],
        edge_query=optional[3],
        streams=optional[4],
    )
    pairs = [(o, g) for o, g in zip(outputs, grads, strict=True) if g is not None and o is not None]
    wanted = [t for t in inputs if t is not None and t.requires_grad]
    found = iter(
        torch.autograd.grad(
            [o for o, _ in pairs],
            wanted,
            [g for _, g in pairs],
            create_graph=True,
            allow_unused=True,
        )
    )
    return [next(found) if t is not None and t.requires_grad else None for t in inputs]


attention_op.register_autograd(_backward, setup_context=_save)
