"""Schema, fake kernels and derivative of additive scores.

No kernels of their own: a score is the gradient that a sum of messages gives the weight of an
edge (see kernels/reference/message.py), and its gradients are those of messages that the score's
gradient weighs.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from graphattn.kernels.reference import message as reference
from graphattn.kernels.reference.edges import accumulate_dtype
from graphattn.ops.derivatives import first_derivative, like, needed, save, saved
from graphattn.ops.fused import direct, filled, kernels, unflatten


class _Terms(NamedTuple):
    """What scores are made of: query [B, R, H, D], key [B, C, H, D], att [H, D], edge features."""

    query: Tensor
    key: Tensor
    att: Tensor
    edge_attr: Tensor | None
    edge_proj: Tensor | None

    def pulls(self, nodes: Tensor) -> Tensor:
        """``att`` as what every one of ``nodes`` hands its edges, [B, N, 1, H, D]."""
        batch, count, *form = nodes.shape
        return self.att.to(accumulate_dtype(nodes)).expand(batch, count, 1, *form)

    def contiguous(self) -> "_Terms":
        """The same numbers, contiguous."""
        attr, proj = (t if t is None else t.contiguous() for t in self[3:])
        return _Terms(self.query.contiguous(), self.key.contiguous(), self.att, attr, proj)


def scores_of_edges(
    query: Tensor,
    key: Tensor,
    att: Tensor,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    rows: Sequence[Tensor],
    cols: Sequence[Tensor],
    activation: str,
    slope: float,
    impl: str,
) -> Tensor:
    terms = _Terms(query, key, att, edge_attr, edge_proj).contiguous()
    shape = query.shape[0], rows[1].shape[0], query.shape[2]
    # The gradient of a weight does not look at the weight.
    layout, nothing = unflatten(rows), query.new_empty(shape, dtype=accumulate_dtype(query))
    found: Tensor = kernels(impl, "message").message_backward(
        terms.pulls(terms.query), terms.query, terms.key, nothing, edge_attr, edge_proj,
        layout, layout, activation=activation, slope=slope, reduce=("sum",),
        needs=(False, False, True, False, False),
    )[2]  # fmt: skip
    return found


def pull_scores(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    att: Tensor,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    rows: Sequence[Tensor],
    cols: Sequence[Tensor],
    activation: str,
    slope: float,
    impl: str,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    terms, module = (
        _Terms(query, key, att, edge_attr, edge_proj).contiguous(),
        kernels(impl, "message"),
    )
    options: dict[str, Any] = {"activation": activation, "slope": slope, "reduce": ("sum",)}
    given = terms.query, terms.key, grad.contiguous(), terms.edge_attr, terms.edge_proj
    layout, columns = unflatten(rows), unflatten(cols)
    grad_query, _, _, grad_attr, grad_proj, *total = module.message_backward(
        terms.pulls(terms.query), *given, layout, layout, **options,
        needs=(needs[0], False, False, needs[3], needs[4]), total=needs[2],
    )  # fmt: skip
    grad_key, grad_att = None, total[0].to(att.dtype) if total else None
    if needs[1]:
        # A column owns the same terms as a row: walked as rows they need not be gathered.
        turned = terms.key, terms.query, *given[2:]
        grad_key = module.message_backward(
            terms.pulls(terms.key), *turned, columns, columns, **options,
            needs=(True, False, False, False, False),
        )[0]  # fmt: skip
    return grad_query, grad_key, grad_att, grad_attr, grad_proj  # type: ignore[return-value]


scores_op = torch.library.custom_op("graphattn::additive_scores", scores_of_edges, mutates_args=())
scores_backward_op = torch.library.custom_op(
    "graphattn::additive_scores_backward", filled(pull_scores), mutates_args=()
)
_pull_directly = direct(scores_backward_op, pull_scores)


@scores_op.register_fake
def _(
    query: Tensor,
    key: Tensor,
    att: Tensor,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    rows: Sequence[Tensor],
    cols: Sequence[Tensor],
    activation: str,
    slope: float,
    impl: str,
) -> Tensor:
    shape = query.shape[0], rows[1].shape[0], query.shape[2]
    return query.new_empty(shape, dtype=accumulate_dtype(query))


@scores_backward_op.register_fake
def _(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    att: Tensor,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    rows: Sequence[Tensor],
    cols: Sequence[Tensor],
    activation: str,
    slope: float,
    impl: str,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    a, b, c, d, e = like((query, key, att, edge_attr, edge_proj), needs)
    return a, b, c, d, e


def _save_scores(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    save(ctx, inputs, 5, ())


def _backward_scores(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    given, _, rows, cols, options = saved(ctx, 0)
    needs = [bool(n) for n in ctx.needs_input_grad[:5]]
    if torch.is_grad_enabled():
        layout, (activation, slope, _) = unflatten(rows), options
        five: tuple[Any, Any, Any, Any, Any] = tuple(given)
        repeated = reference.additive_scores(*five, layout, activation=activation, slope=slope)
        found = first_derivative([repeated], [grad], given, needs)
    else:
        found = _pull_directly(grad, *given, rows, cols, *options, needs)
    return *needed(found, needs), [None] * len(rows), [None] * len(cols), *[None] * 3


score_edges = direct(scores_op, scores_of_edges, _save_scores, _backward_scores)
