"""edge_softmax: normalise one number per edge over the edges of every row."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graphattn.graph import as_graph
from graphattn.kernels.reference import edge_softmax as reference
from graphattn.ops._dispatch import resolve
from graphattn.ops.batching import register_batching
from graphattn.ops.dims import check_float_tensor, has_heads
from graphattn.ops.fused import check_reverse_mode, direct, flat, kernels, unflatten


def edge_softmax(
    scores: Tensor, graph: Any, *, heads: bool | None = None, impl: str = "auto"
) -> Tensor:
    r"""Softmax of edge scores over the neighbours of every row.

    .. math::
        w_{ij} = \frac{e^{s_{ij}}}{\sum_{k \in N(i)} e^{s_{ik}}}

    Args:
        scores: ``[..., E]`` or ``[..., E, H]`` in the caller's edge order; ``-inf`` masks an edge.
        graph: A :class:`CSRGraph` or whatever :func:`as_graph` takes.
        heads: Whether scores has a head dimension; ``None`` finds out from the shape, and asks
            where it fits both ways.
        impl: ``"auto"``, ``"reference"``, ``"cpu"`` (Numba) or ``"triton"``; never changes the
            meaning.

    Returns:
        Weights of the shape and dtype of ``scores``, which sum to 1 in every row and head; 0 in
        rows that are masked altogether. A NaN makes its row and head NaN.

    Raises:
        ValueError: the shape or the device does not fit; the message says which.
        TypeError: scores is not a floating point tensor.
        BackendUnavailable: ``impl`` cannot run here.

    Kept for backward: the weights. Computed in float32 (float64 for float64); deterministic bit
    for bit; twice differentiable. ``torch.vmap`` works; forward-mode differentiation and the other
    ``torch.func`` transforms need ``impl="reference"``.
    """
    graph = as_graph(graph)
    check_float_tensor("scores", scores, graph, 1)
    split = has_heads("scores", scores, graph.num_edges, "edges", 0, heads)
    lead = scores.shape[: scores.dim() - (2 if split else 1)]
    folded = scores.reshape(math.prod(lead), graph.num_edges, scores.shape[-1] if split else 1)
    impl = resolve(impl, scores.device)
    if impl == "reference":
        return reference.edge_softmax_forward(folded, graph.rows_layout(impl)).reshape(scores.shape)
    check_reverse_mode(impl)
    weights: Tensor = normalise(folded, flat(graph.rows_layout(impl)), impl)
    return weights.reshape(scores.shape)


def _normalise(scores: Tensor, rows: Sequence[Tensor], impl: str) -> Tensor:
    weights: Tensor = kernels(impl, "edge_softmax").edge_softmax_forward(
        scores.contiguous(), unflatten(rows)
    )
    return weights


def _pull(grad: Tensor, weights: Tensor, rows: Sequence[Tensor], impl: str) -> Tensor:
    found: Tensor = kernels(impl, "edge_softmax").edge_softmax_backward(
        grad.contiguous(), weights, unflatten(rows)
    )
    return found


edge_softmax_op = torch.library.custom_op("graphattn::edge_softmax", _normalise, mutates_args=())
edge_softmax_backward_op = torch.library.custom_op(
    "graphattn::edge_softmax_backward", _pull, mutates_args=()
)
pull_weights = direct(edge_softmax_backward_op, _pull)


@edge_softmax_op.register_fake
def _(scores: Tensor, rows: Sequence[Tensor], impl: str) -> Tensor:
    return torch.empty_like(scores, memory_format=torch.contiguous_format)


@edge_softmax_backward_op.register_fake
def _(grad: Tensor, weights: Tensor, rows: Sequence[Tensor], impl: str) -> Tensor:
    return torch.empty_like(weights, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, rows, ctx.impl = inputs
    ctx.save_for_backward(output, *rows)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    weights, *rows = ctx.saved_tensors
    if torch.is_grad_enabled():  # the saved weights know how they came from the scores
        found = reference.edge_softmax_backward(grad, weights, unflatten(rows))
    else:
        found = pull_weights(grad, weights, rows, ctx.impl)
    return found, [None] * len(rows), None


normalise = direct(edge_softmax_op, _normalise, _save, _backward)
register_batching(edge_softmax_op, (0,), (0,))
