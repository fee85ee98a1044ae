"""Reductions of non-linear messages over rows: the definition that every kernel is held against.

The message of the edge from column j to row i is m = weight * phi(a_i + b_j + P e), with the
activation phi by name and an optional edge feature e that P projects. The reductions and the
``stats`` saved for the backward pass are those of kernels/reference/aggregate.py. Differentiable
(twice) torch that allocates per-edge vectors.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.kernels.layout import Layout
from graphattn.kernels.reference.aggregate import message_gradient, reduce_messages
from graphattn.kernels.reference.edges import Edges, accumulate_dtype, edge_list, row_sum

ACTIVATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "identity": lambda z, _: z,
    "relu": lambda z, _: F.relu(z),
    "leaky_relu": lambda z, slope: F.leaky_relu(z, slope),
    "gelu": lambda z, _: F.gelu(z),
    "silu": lambda z, _: F.silu(z),
    "tanh": lambda z, _: torch.tanh(z),
    "square": lambda z, _: z * z,
}
"""phi by name; the second argument is the slope of the leaky one."""


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
    """Reduce the messages of every row.

    a [B, R, H, D], b [B, C, H, D], weight [1 or B, E, H], edge_attr [E, F], edge_proj [H, D, F];
    edge tensors in the caller's order -> out [len(reduce), B, R, H, D] in a's dtype, and
    ``stats``. Empty rows give 0.
    """
    edges = edge_list(rows)
    message = ACTIVATIONS[activation](_before(a, b, edge_attr, edge_proj, edges), slope)
    if weight is not None:
        message = weight.to(message.dtype)[:, edges.id, :, None] * message
    return reduce_messages(message, edges.row, rows, reduce, a.dtype)


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
    """Gradients of (a, b, weight, edge_attr, edge_proj) from the ``message_pulls`` of the rows.

    ``needs``: which of them are wanted; the others are None. With ``total`` the sum of all
    messages, [H, D], comes sixth: it is the gradient of what multiplies phi in every edge's weight.
    """
    edges, high = edge_list(rows), accumulate_dtype(a)
    with torch.enable_grad():
        before = _before(a, b, edge_attr, edge_proj, edges).detach().requires_grad_()
        value = ACTIVATIONS[activation](before, slope)
    factor = None if weight is None else weight.to(high)[:, edges.id, :, None]
    message = value.detach() if factor is None else factor * value.detach()
    pull = message_gradient(pulls.to(high)[:, edges.row], message, reduce)
    (change,) = torch.autograd.grad(value, before, pull if factor is None else factor * pull)
    found: list[Tensor | None] = [
        row_sum(change, edges.row, a.shape[1]).to(a.dtype),
        row_sum(change, edges.col, b.shape[1]).to(b.dtype),
        *[None] * 3,
    ]
    if weight is not None:
        per_edge = (pull * value.detach()).sum(-1)[:, edges.id.argsort()]
        per_edge = per_edge if weight.shape[0] > 1 else per_edge.sum(0, keepdim=True)
        found[2] = per_edge.to(weight.dtype)
    if edge_attr is not None and edge_proj is not None:
        attr, changes = edge_attr.to(high)[edges.id], change.sum(0)
        per_edge = torch.einsum("ehd,hdf->ef", changes, edge_proj.to(high))[edges.id.argsort()]
        found[3] = per_edge.to(edge_attr.dtype)
        found[4] = torch.einsum("ehd,ef->hdf", changes, attr).to(edge_proj.dtype)
    found = [g if need else None for g, need in zip(found, needs, strict=True)]
    return (*found, message.sum((0, 1))) if total else tuple(found)


def additive_scores(
    query: Tensor,
    key: Tensor,
    att: Tensor,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    rows: Layout,
    *,
    activation: str,
    slope: float,
) -> Tensor:
    """s = sum_c att_c phi(q_i + k_j + P e)_c of every edge, [B, E, H] in the caller's order.

    query [B, R, H, D], key [B, C, H, D], att [H, D]. It is the gradient that ``message_forward``
    gives the weight of an edge where every row's gradient is ``att``, so kernels need no other.
    """
    edges = edge_list(rows)
    value = ACTIVATIONS[activation](_before(query, key, edge_attr, edge_proj, edges), slope)
    return (value * att.to(value.dtype)).sum(-1)[:, edges.id.argsort()]


def _before(
    a: Tensor, b: Tensor, edge_attr: Tensor | None, edge_proj: Tensor | None, edges: Edges
) -> Tensor:
    """a_i + b_j + P e of every edge, [B, E, H, D] in CSR order and the accumulation dtype."""
    high = accumulate_dtype(a)
    before = a.to(high)[:, edges.row] + b.to(high)[:, edges.col]
    if edge_attr is not None and edge_proj is not None:
        features = edge_attr.to(high)[edges.id]
        before = before + torch.einsum("ef,hdf->ehd", features, edge_proj.to(high))
    return before
