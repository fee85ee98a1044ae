"""Schema, fake kernels and derivative of attention with additive scores.

The CPU's kernels of attention know additive scores. Elsewhere, and with edge features, attention
takes them (additive_scores_op.py) as its bias: they live for the length of a call, and the backward
pass computes them anew.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graphattn.kernels.reference import attention as reference_attention
from graphattn.kernels.reference import message as reference
from graphattn.kernels.reference.edges import accumulate_dtype
from graphattn.kernels.score import Results, Score
from graphattn.ops.additive_scores_op import pull_scores, scores_of_edges
from graphattn.ops.derivatives import first_derivative, like, needed, save, saved
from graphattn.ops.fused import direct, filled, kernels, unflatten


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    att: Tensor,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    streams: Tensor | None,
    rows: Sequence[Tensor],
    cols: Sequence[Tensor],
    activation: str,
    slope: float,
    dropout_p: float,
    impl: str,
) -> tuple[Tensor, Tensor]:
    module, layout = kernels(impl, "attention"), unflatten(rows)
    if _is_one_kernel(impl, edge_attr):
        score = _additive(att, streams, activation, slope, dropout_p)
        done = module.attention_forward(query, key, value, layout, score)
        return done.out, done.lse
    terms = query, key, att, edge_attr, edge_proj
    scores = scores_of_edges(*terms, rows, cols, activation, slope, impl)
    found = [
        module.attention_forward(*_blank(query, key, value, n), layout, score)
        for n, score in enumerate(_biases(scores, streams, dropout_p))
    ]
    return torch.cat([r.out for r in found]), torch.cat([r.lse for r in found])


def _is_one_kernel(impl: str, edge_attr: Tensor | None) -> bool:
    return impl == "cpu" and edge_attr is None


def _additive(
    att: Tensor, streams: Tensor | None, activation: str, slope: float, dropout_p: float
) -> Score:
    return Score(dropout_p=dropout_p, streams=streams, att=att, activation=activation, slope=slope)


def _blank(query: Tensor, key: Tensor, value: Tensor, entry: int) -> tuple[Tensor, Tensor, Tensor]:
    """Query and key of one zero per head, and the value, of one entry of the batch."""
    none, nobody = (value.new_zeros(1, *t.shape[1:3], 1) for t in (query, key))
    return none, nobody, value[entry : entry + 1].contiguous()


def _biases(scores: Tensor, streams: Tensor | None, dropout_p: float) -> list[Score]:
    """The scores of each entry of the batch as the bias of attention."""
    heads = scores.shape[2]
    return [
        Score(
            bias=bias,
            dropout_p=dropout_p,
            streams=None if streams is None else streams[n * heads : (n + 1) * heads],
        )
        for n, bias in enumerate(scores)
    ]


def _pull(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    out: Tensor,
    lse: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    att: Tensor,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    streams: Tensor | None,
    rows: Sequence[Tensor],
    cols: Sequence[Tensor],
    activation: str,
    slope: float,
    dropout_p: float,
    impl: str,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    layouts = unflatten(rows), unflatten(cols)
    if _is_one_kernel(impl, edge_attr):
        score = _additive(att, streams, activation, slope, dropout_p)
        pulls, done = Results(grad_out, grad_lse), Results(out, lse)
        found = kernels(impl, "attention").attention_backward(
            pulls, query, key, value, done, *layouts, score, (*[False] * 4, needs[3])
        )
        nodes = (g if n else None for g, n in zip(found[:2], needs, strict=False))
        return *nodes, found.value, found.att, None, None
    terms, options = (query, key, att, edge_attr, edge_proj), (activation, slope, impl)
    scores = scores_of_edges(*terms, rows, cols, *options)
    grads = []
    for n, score in enumerate(_biases(scores, streams, dropout_p)):
        one = slice(n, n + 1)
        pulls = Results(
            grad_out[one].contiguous(), None if grad_lse is None else grad_lse[one].contiguous()
        )
        done = Results(out[one], lse[one])
        blank = _blank(query, key, value, n)
        grads.append(
            kernels(impl, "attention").attention_backward(
                pulls, *blank, done, *layouts, score, (True, False, False, False)
            )
        )
    slopes = torch.stack([g.bias for g in grads])
    score_needs = needs[0], needs[1], *needs[3:6]
    found = pull_scores(slopes, *terms, rows, cols, *options, score_needs)
    return *found[:2], torch.cat([g.value for g in grads]), *found[2:]


attend_op = torch.library.custom_op("graphattn::additive_attention", _attend, mutates_args=())
attend_backward_op = torch.library.custom_op(
    "graphattn::additive_attention_backward", filled(_pull), mutates_args=()
)
pull_attention = direct(attend_backward_op, _pull)


@attend_op.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    att: Tensor,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    streams: Tensor | None,
    rows: Sequence[Tensor],
    cols: Sequence[Tensor],
    activation: str,
    slope: float,
    dropout_p: float,
    impl: str,
) -> tuple[Tensor, Tensor]:
    batch, num_rows, heads, _ = query.shape
    lse = query.new_empty((batch, num_rows, heads), dtype=accumulate_dtype(query))
    return value.new_empty((batch, num_rows, heads, value.shape[3])), lse


@attend_backward_op.register_fake
def _(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    out: Tensor,
    lse: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    att: Tensor,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    streams: Tensor | None,
    rows: Sequence[Tensor],
    cols: Sequence[Tensor],
    activation: str,
    slope: float,
    dropout_p: float,
    impl: str,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    wanted = needs[0], needs[1], True, *needs[3:]
    a, b, c, d, e, f = like((query, key, value, att, edge_attr, edge_proj), wanted)
    return a, b, c, d, e, f


def _save_attend(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    save(ctx, inputs, 7, output)
    ctx.set_materialize_grads(False)


def _backward_attend(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> tuple[Any, ...]:
    given, (out, lse), rows, cols, options = saved(ctx, 2)
    needs = [bool(n) for n in ctx.needs_input_grad[:6]]
    if grad_out is None:
        grad_out = torch.zeros_like(out)
    if torch.is_grad_enabled():
        activation, slope, dropout_p, _ = options
        repeated = attend_by_reference(given, rows, activation, slope, dropout_p)
        pulls = [grad_out, torch.zeros_like(lse) if grad_lse is None else grad_lse]
        found = first_derivative(repeated, pulls, given[:6], needs)
    else:
        found = pull_attention(grad_out, grad_lse, out, lse, *given, rows, cols, *options, needs)
    grads = needed(found, needs)
    return *grads, None, [None] * len(rows), [None] * len(cols), *[None] * 4


def attend_by_reference(
    given: Sequence[Tensor | None],
    rows: Sequence[Tensor],
    activation: str,
    slope: float,
    dropout_p: float,
) -> tuple[Tensor, Tensor]:
    """``_attend`` in differentiable torch; given: query, key, value, att, attr, proj, streams."""
    query, key, value, att, edge_attr, edge_proj, streams = given
    assert query is not None and key is not None and value is not None and att is not None
    layout = unflatten(rows)
    if edge_attr is None:
        score = _additive(att, streams, activation, slope, dropout_p)
        done = reference_attention.attention_forward(query, key, value, layout, score)
        assert done.out is not None and done.lse is not None
        return done.out, done.lse
    scores = reference.additive_scores(
        query, key, att, edge_attr, edge_proj, layout, activation=activation, slope=slope
    )
    found = [
        reference_attention.attention_forward(*_blank(query, key, value, n), layout, score)
        for n, score in enumerate(_biases(scores, streams, dropout_p))
    ]
    out = torch.cat([r.out for r in found if r.out is not None])
    return out, torch.cat([r.lse for r in found if r.lse is not None])


attend_additively = direct(attend_op, _attend, _save_attend, _backward_attend)
