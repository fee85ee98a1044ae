"""Reductions of weighted messages over rows: the definition that every kernel is held against.

The message of an edge is m = weight * x of its column. Differentiable (twice) torch that allocates
per-edge vectors. ``reduce`` names reductions in the order of ``REDUCTIONS``, without repetition;
they come in four families, which decide what is saved for the backward pass:

* linear (sum, mean): nothing;
* spread (var, std): (mean, variance), with variance the mean of (m - mean)^2;
* top (max), bottom (min): (the extreme, number of edges that reach it; NaN where it is NaN).

``stats`` [S, B, R, H, D] holds these pairs, in this order, in the accumulation dtype.
"""

import torch
from torch import Tensor

from graphattn.kernels.layout import Layout
from graphattn.kernels.reference.edges import accumulate_dtype, edge_list, row_sum

REDUCTIONS = ("sum", "mean", "min", "max", "var", "std")
LEAST_VARIANCE = 1e-5
"""PyG's bound: std is 0, and so is its gradient, where the variance does not exceed it."""


def aggregate_forward(
    x: Tensor, weight: Tensor | None, rows: Layout, *, reduce: tuple[str, ...]
) -> tuple[Tensor, Tensor]:
    """Reduce the messages of every row.

    x [B, C, H, D], weight [1 or B, E, H] in the caller's edge order or None -> out
    [len(reduce), B, R, H, D] in x's dtype, and ``stats``. Empty rows give 0.
    """
    high = accumulate_dtype(x)
    edges = edge_list(rows)
    message = x.to(high)[:, edges.col]
    if weight is not None:
        message = weight.to(high)[:, edges.id, :, None] * message
    return reduce_messages(message, edges.row, rows, reduce, x.dtype)


def reduce_messages(
    message: Tensor, row: Tensor, rows: Layout, reduce: tuple[str, ...], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Reductions in ``dtype`` and statistics of messages [B, E, H, D] in CSR order."""
    high, count = message.dtype, _count(rows, message.dtype)
    found: dict[str, Tensor] = {}
    saved: list[Tensor] = []
    if {"sum", "mean"} & set(reduce):
        found["sum"] = row_sum(message, row, count.shape[0])
        found["mean"] = found["sum"] / count
    if {"var", "std"} & set(reduce):
        mean, variance = _moments(message, row, count)
        found["var"], found["std"] = variance, _deviation(variance)
        saved += [mean, variance]
    for name, how in (("max", "amax"), ("min", "amin")):
        if name in reduce:
            found[name], ties = _extreme(message, row, count, how)
            saved += [found[name], ties]
    out = torch.stack([found[name] for name in reduce]).to(dtype)
    stats = torch.stack(saved).detach() if saved else out.new_empty((0, *out.shape[1:]), dtype=high)
    return out, stats


def message_pulls(
    grad_out: Tensor, stats: Tensor, indptr: Tensor, *, reduce: tuple[str, ...]
) -> Tensor:
    """What a row hands its edges: terms [B, R, T, H, D] that make a message's gradient.

    The gradient of a message m is ``add + slope (m - mean) + [m = top] share``, the last likewise
    for the bottom. The terms lie in this order, those of the families in ``reduce`` alone:
    add; slope, mean; top, share; bottom, share. For a sum it is ``grad_out`` itself.
    """
    if reduce == ("sum",):
        return grad_out[0][:, :, None]
    high = accumulate_dtype(grad_out)
    count = indptr.diff().clamp(min=1).to(high)[:, None, None]
    grads = dict(zip(reduce, grad_out.to(high), strict=True))
    families, saved = [], list(stats)
    if {"sum", "mean"} & set(reduce):
        parts = [g if n == "sum" else g / count for n, g in grads.items() if n in ("sum", "mean")]
        families.append(sum(parts[1:], parts[0]))
    if {"var", "std"} & set(reduce):
        mean, variance, *saved = saved
        families += [_slope(grads, variance, count), mean]
    for name in ("max", "min"):
        if name in reduce:
            extreme, ties, *saved = saved
            families += [extreme, grads[name] / ties]
    # One family alone needs no copy.
    return torch.stack(families, 2) if len(families) > 1 else families[0].unsqueeze(2)


def aggregate_backward(
    pulls: Tensor,
    x: Tensor | None,
    weight: Tensor | None,
    cols: Layout,
    *,
    reduce: tuple[str, ...],
    dtype: torch.dtype,
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of x [B, C, H, D] and of weight, from the ``message_pulls`` of the rows.

    ``x`` may be None where ``reduce`` is linear and there is no weight. ``needs``: which of the
    two gradients are wanted; that of x comes in ``dtype``.
    """
    edges, high = edge_list(cols), accumulate_dtype(pulls)
    own = None if x is None else x.to(high)[:, edges.row]
    factor = None if weight is None else weight.to(high)[:, edges.id, :, None]
    message = own if factor is None else factor * own
    pull = message_gradient(pulls.to(high)[:, edges.col], message, reduce)
    grad_x = grad_weight = None
    if needs[0]:
        num_rows = cols.indptr.shape[0] - 1
        grad_x = row_sum(pull if factor is None else factor * pull, edges.row, num_rows).to(dtype)
    if needs[1] and weight is not None and own is not None:
        per_edge = (pull * own).sum(-1)[:, edges.id.argsort()]
        grad_weight = per_edge if weight.shape[0] > 1 else per_edge.sum(0, keepdim=True)
    return grad_x, grad_weight


def message_gradient(pull: Tensor, message: Tensor | None, reduce: tuple[str, ...]) -> Tensor:
    """Gradient of every message [B, E, H, D] from its row's terms [B, E, T, H, D]."""
    terms, grad = list(pull.unbind(2)), torch.zeros_like(pull[:, :, 0])
    if {"sum", "mean"} & set(reduce):
        grad = grad + terms.pop(0)
    if message is None:
        return grad
    if {"var", "std"} & set(reduce):
        slope, mean, *terms = terms
        grad = grad + slope * (message - mean)
    for name in ("max", "min"):
        if name in reduce:
            extreme, share, *terms = terms
            hit = (message == extreme) | extreme.isnan()
            grad = grad + torch.where(hit, share, 0.0)
    return grad


def _slope(grads: dict[str, Tensor], variance: Tensor, count: Tensor) -> Tensor:
    """Derivative of var and std by a message, divided by its distance to the mean."""
    slope = torch.zeros_like(variance)
    if "var" in grads:
        slope = slope + 2.0 * grads["var"] / count
    if "std" in grads:
        safe = torch.where(variance <= LEAST_VARIANCE, 1.0, variance).sqrt()
        slope = slope + torch.where(variance <= LEAST_VARIANCE, 0.0, grads["std"] / (count * safe))
    return slope


def _deviation(variance: Tensor) -> Tensor:
    small = variance <= LEAST_VARIANCE
    return torch.where(small, 0.0, torch.where(small, 1.0, variance).sqrt())


def _moments(message: Tensor, row: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each row, corrected for the rounding of a first mean."""
    mean = row_sum(message, row, count.shape[0]) / count
    away = message - mean[:, row]
    rest = row_sum(away, row, count.shape[0]) / count
    variance = row_sum(away.square(), row, count.shape[0]) / count - rest.square()
    return mean + rest, variance.clamp(min=0.0)


def _extreme(message: Tensor, row: Tensor, count: Tensor, how: str) -> tuple[Tensor, Tensor]:
    """Largest or smallest message of each row, 0 for an empty one, and how many edges reach it.

    A start of NaN that does not take part: it never counts among the ties of the derivative.
    """
    start = message.new_full((message.shape[0], count.shape[0], *message.shape[2:]), torch.nan)
    index = row[None, :, None, None].expand_as(message)
    found = start.scatter_reduce(1, index, message, how, include_self=False)
    reached = (message == found[:, row]).to(message.dtype).detach()
    ties = row_sum(reached, row, count.shape[0])
    filled = torch.zeros(count.shape[0], dtype=torch.bool, device=row.device)
    filled = filled.index_fill(0, row, True)[:, None, None]
    return torch.where(filled, found, 0.0), torch.where(found.isnan() & filled, torch.nan, ties)


def _count(rows: Layout, dtype: torch.dtype) -> Tensor:
    """Edges per row [R, 1, 1], at least 1."""
    return rows.indptr.diff().clamp(min=1).to(dtype)[:, None, None]
