"""Schema, fake kernels and derivative of the fused attention operator.

Two opaque operators: ``graphattn::attention`` and ``graphattn::attention_backward``. Layouts are
passed as flat tensor lists. Results that were not asked for are None in a direct call; operators
return empty tensors in their place, so that the arity is fixed.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graphattn.kernels.reference import attention as reference
from graphattn.kernels.reference.edges import accumulate_dtype
from graphattn.kernels.score import Results, Score
from graphattn.ops.batching import register_batching
from graphattn.ops.derivatives import first_derivative, needed, save, saved, trained
from graphattn.ops.fused import direct, filled, kernels, unflatten

# Tensors of a ``Score`` in the order of the operators; the first four can have a gradient.
TENSORS = ("bias", "gate", "edge_attr", "edge_query", "bias_index", "mask", "streams")


def _score(
    tensors: Sequence[Tensor | None], scale: float, clamp: float | None, dropout_p: float
) -> Score:
    bias, gate, edge_attr, edge_query, index, mask, streams = tensors
    return Score(scale, clamp, bias, index, gate, edge_attr, edge_query, mask, dropout_p, streams)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    bias: Tensor | None,
    gate: Tensor | None,
    edge_attr: Tensor | None,
    edge_query: Tensor | None,
    bias_index: Tensor | None,
    mask: Tensor | None,
    streams: Tensor | None,
    rows: Sequence[Tensor],
    cols: Sequence[Tensor],
    scale: float,
    clamp: float | None,
    dropout_p: float,
    return_gated: bool,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    tensors = (bias, gate, edge_attr, edge_query, bias_index, mask, streams)
    return kernels(impl, "attention").attention_forward(  # type: ignore[no-any-return]
        query.contiguous(),
        key.contiguous(),
        None if value is None else value.contiguous(),
        unflatten(rows),
        _score(tensors, scale, clamp, dropout_p),
        return_gated,
    )


attention_op = torch.library.custom_op("graphattn::attention", filled(_attend), mutates_args=())


@attention_op.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    bias: Tensor | None,
    gate: Tensor | None,
    edge_attr: Tensor | None,
    edge_query: Tensor | None,
    bias_index: Tensor | None,
    mask: Tensor | None,
    streams: Tensor | None,
    rows: Sequence[Tensor],
    cols: Sequence[Tensor],
    scale: float,
    clamp: float | None,
    dropout_p: float,
    return_gated: bool,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, num_rows, heads, width = query.shape
    num_edges = rows[1].shape[0]
    high = accumulate_dtype(query)
    gated = query.new_empty((batch, num_edges, heads, width) if return_gated else (0,))
    if value is None:
        nothing = [query.new_empty(0) for _ in range(3)]
        scores = query.new_empty((batch, num_edges, heads), dtype=high)
        return nothing[0], nothing[1], nothing[2], gated, scores
    return (
        value.new_empty((batch, num_rows, heads, value.shape[3])),
        query.new_empty((batch, num_rows, heads), dtype=high),
        query.new_empty((0,) if edge_query is None else edge_query.shape),
        gated,
        query.new_empty(0),
    )


def _pull(
    grads: Sequence[Tensor | None],
    nodes: Sequence[Tensor | None],
    results: Sequence[Tensor | None],
    tensors: Sequence[Tensor | None],
    rows: Sequence[Tensor],
    cols: Sequence[Tensor],
    scale: float,
    clamp: float | None,
    dropout_p: float,
    impl: str,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    query, key, value = (t if t is None else t.contiguous() for t in nodes)
    pulls = Results(*(g if g is None else g.contiguous() for g in grads))
    done = Results(*(r if r is None else r.contiguous() for r in results))
    assert query is not None
    if done.out is not None and pulls.out is None:
        pulls = pulls._replace(out=torch.zeros_like(done.out))
    found = kernels(impl, "attention").attention_backward(
        pulls,
        query,
        key,
        value,
        done,
        unflatten(rows),
        unflatten(cols),
        _score(tensors, scale, clamp, dropout_p),
        tuple(needs),
    )
    # Additive scores have an operator of their own.
    return found[:7]  # type: ignore[no-any-return]


attention_backward_op = torch.library.custom_op(
    "graphattn::attention_backward", filled(_pull), mutates_args=()
)
pull_attention = direct(attention_backward_op, _pull)


@attention_backward_op.register_fake
def _(
    grads: Sequence[Tensor | None],
    nodes: Sequence[Tensor | None],
    results: Sequence[Tensor | None],
    tensors: Sequence[Tensor | None],
    rows: Sequence[Tensor],
    cols: Sequence[Tensor],
    scale: float,
    clamp: float | None,
    dropout_p: float,
    impl: str,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    query = nodes[0]
    assert query is not None
    wanted = [*nodes, *(t if n else None for t, n in zip(tensors[:4], needs, strict=True))]
    a, b, c, d, e, f, g = (
        query.new_empty(0 if t is None else t.shape, dtype=None if t is None else t.dtype)
        for t in wanted
    )
    return a, b, c, d, e, f, g


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    save(ctx, inputs, 10, output[:3])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    given, results, rows, cols, options = saved(ctx, 3)
    nodes, inputs = given[:3], given[3:]
    scale, clamp, dropout_p, return_gated, impl = options
    # The compiler hands in gradients of the placeholders of results that were not asked for.
    fused = nodes[2] is not None
    asked = fused, fused, fused and inputs[3] is not None, return_gated, not fused
    grads = tuple(g if wanted else None for g, wanted in zip(grads, asked, strict=True))
    needs = [bool(n) for n in ctx.needs_input_grad[3:7]]
    if torch.is_grad_enabled():
        score = _score(inputs, scale, clamp, dropout_p)
        found = differentiable_backward(nodes, rows, score, return_gated, grads)
    else:
        # Only edge_out is None without the option; out and lse are placeholders without a value.
        kept = [t if wanted else None for t, wanted in zip(results, asked[:3], strict=True)]
        found = pull_attention(
            grads, nodes, kept, inputs, rows, cols, scale, clamp, dropout_p, impl, needs
        )
    found = needed(found, (*ctx.needs_input_grad[:3], *needs))
    return (*found, *[None] * 3, [None] * len(rows), [None] * len(cols), *[None] * 5)


def differentiable_backward(
    nodes: list[Tensor | None],
    rows: Sequence[Tensor],
    score: Score,
    return_gated: bool,
    grads: tuple[Tensor | None, ...],
) -> list[Tensor | None]:
    """First derivative through the reference, so that it can be differentiated again."""
    query, key, value = nodes
    assert query is not None and key is not None
    results = reference.attention_forward(query, key, value, unflatten(rows), score, return_gated)
    inputs = [*nodes, *(getattr(score, name) for name in TENSORS[:4])]
    pairs = [(o, g) for o, g in zip(results, grads, strict=True) if g is not None and o is not None]
    outs, pulls = [o for o, _ in pairs], [g for _, g in pairs]
    return first_derivative(outs, pulls, inputs, trained(inputs))


attend = direct(attention_op, _attend, _save, _backward)
# query, key, value, edge_query, mask and streams lead with the batch, and so do all results.
register_batching(attention_op, (0, 1, 2, 6, 8, 9), (0,) * 5, shared="bias, gate and edge_attr")
