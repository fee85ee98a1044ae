"""shared_key_attention: every row attends to one small set of keys, in blocks of rows."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graphattn.kernels.reference.edges import accumulate_dtype
from graphattn.ops.checks import FLOATS, check_same_dtype
from graphattn.ops.derivatives import first_derivative, needed, trained
from graphattn.ops.fused import direct
from graphattn.ops.inputs import autocast, fold_batch

# Weights of one block of rows: at most this many numbers, 8 MiB in float32, which caches hold.
BLOCK_NUMBERS = 2**21


def shared_key_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_weight: Tensor | None = None,
    *,
    scale: float | None = None,
    return_lse: bool = False,
) -> Any:
    r"""Attend from every row to the same keys, each of which stands for :math:`w_b` of its kind.

    .. math::
        o_i = \frac{\sum_b w_b\, e^{\,\mathrm{scale}\, q_i \cdot k_b}\, v_b}
                   {\sum_b w_b\, e^{\,\mathrm{scale}\, q_i \cdot k_b}}

    The attention of codebooks (a centroid weighs as many nodes as it stands for), of virtual nodes
    and of the globally best m nodes.

    Args:
        query: ``[..., N, H, D]``.
        key: ``[..., M, H, D]``; leading dimensions as query's.
        value: ``[..., M, H, Dv]``.
        log_weight: :math:`\log w`, ``[M]`` or ``[M, H]``; ``-inf`` leaves a key out.
        scale: Factor of the dot product; ``None`` means ``D ** -0.5``.
        return_lse: Also return the natural log of the denominators ``[..., N, H]``, for
            :func:`graphattn.merge` with attention over other keys.

    Returns:
        ``out [..., N, H, Dv]`` or ``(out, lse)``. Without a key that counts: 0 and ``-inf``.

    Raises:
        ValueError: shapes do not fit; the message says which.
        TypeError: a dtype is not floating point, or dtypes differ.

    Differentiable in all tensors, twice. Dense matrix products on every device, in blocks of rows:
    memory O(N H D) and 8 MiB of weights, which the backward pass computes anew from the LSE (Rabe
    and Staats, 2021); never N x M. Sums over rows run in the order of the blocks, so the result
    is the same in every run.
    """
    _check(query, key, value, log_weight)
    query, key, value = autocast(query, key, value)
    check_same_dtype(query, key, value)
    scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
    heads, lead = query.shape[-2], query.shape[:-3]
    # [B, H, nodes, D]: a matrix per batch entry and head.
    q, k, v = (fold_batch(t, heads).transpose(1, 2) for t in (query, key, value))
    bias = None
    if log_weight is not None:
        bias = log_weight.to(accumulate_dtype(q))
        bias = bias.expand(heads, -1) if bias.dim() == 1 else bias.t()
    out, lse = attend_shared(q, k, v, bias, scale)
    out = out.transpose(1, 2).reshape(*query.shape[:-1], value.shape[-1])
    if not return_lse:
        return out
    return out, lse.transpose(1, 2).reshape(*lead, *query.shape[-3:-1])


def _check(query: Tensor, key: Tensor, value: Tensor, log_weight: Tensor | None) -> None:
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if not isinstance(tensor, Tensor) or tensor.dtype not in FLOATS:
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(f"{name} must be a floating point tensor, got {kind}")
        if tensor.dim() < 3:
            raise ValueError(
                f"{name} must have shape [..., nodes, heads, width], got {list(tensor.shape)}"
            )
        if tensor.device != query.device:
            raise ValueError(f"{name} is on {tensor.device}, query on {query.device}; move it")
    lead, (count, heads) = query.shape[:-3], key.shape[-3:-1]
    wanted = {"key": (*lead, count, query.shape[-2], query.shape[-1])}
    wanted["value"] = (*lead, count, query.shape[-2], value.shape[-1])
    for name, tensor in (("key", key), ("value", value)):
        if tuple(tensor.shape) != wanted[name]:
            raise ValueError(
                f"{name} must have shape {list(wanted[name])} beside query {list(query.shape)}, "
                f"got {list(tensor.shape)}"
            )
    if log_weight is not None and tuple(log_weight.shape) not in ((count,), (count, heads)):
        raise ValueError(
            f"log_weight must have one entry per key, [{count}] or [{count}, {heads}], "
            f"got {list(log_weight.shape)}"
        )


def _logits(query: Tensor, key: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Logits [B, H, rows, M] in the accumulation dtype."""
    logit = (scale * query.to(accumulate_dtype(query))) @ key.to(accumulate_dtype(key)).mT
    return logit if bias is None else logit + bias[:, None]


def _blocks(query: Tensor, key: Tensor) -> list[slice]:
    per_row = max(query.shape[0] * query.shape[1] * key.shape[2], 1)
    step = max(BLOCK_NUMBERS // per_row, 1)
    return [slice(start, start + step) for start in range(0, query.shape[2], step)]


def _softmax(logit: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and LSE; 0 and -inf where every logit is -inf."""
    if logit.shape[-1] == 0:
        return logit, logit.new_full(logit.shape[:-1], -torch.inf)
    top = logit.detach().amax(-1, keepdim=True)
    top = torch.where(top == -torch.inf, 0.0, top)
    mass = (logit - top).exp()
    total = mass.sum(-1, keepdim=True)
    empty = total == 0
    safe = torch.where(empty, 1.0, total)
    return mass / safe, torch.where(empty, -torch.inf, safe.log() + top).squeeze(-1)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    out = value.new_empty((*query.shape[:-1], value.shape[-1]))
    lse = query.new_empty(query.shape[:-1], dtype=accumulate_dtype(query))
    wide = value.to(lse.dtype)
    for rows in _blocks(query, key):
        weight, lse[:, :, rows] = _softmax(_logits(query[:, :, rows], key, bias, scale))
        out[:, :, rows] = weight @ wide
    return out, lse


def _pull(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    out: Tensor,
    lse: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    high = lse.dtype
    wide_key, wide_value = key.to(high), value.to(high)
    grad_query = torch.empty_like(query, memory_format=torch.contiguous_format)
    grad_key, grad_value = torch.zeros_like(wide_key), torch.zeros_like(wide_value)
    grad_bias = query.new_zeros(key.shape[1:3] if bias is not None else 0, dtype=high)
    base = torch.where(lse == -torch.inf, torch.inf, lse)
    for rows in _blocks(query, key):
        pull, mine = grad_out[:, :, rows].to(high), query[:, :, rows].to(high)
        weight = (_logits(mine, key, bias, scale) - base[:, :, rows, None]).exp()
        delta = (pull * out[:, :, rows].to(high)).sum(-1, keepdim=True)
        if grad_lse is not None:
            delta = delta - grad_lse[:, :, rows, None]
        slope = weight * (pull @ wide_value.mT - delta)
        grad_query[:, :, rows] = scale * (slope @ wide_key)
        grad_key += scale * (slope.mT @ mine)
        grad_value += weight.mT @ pull
        if bias is not None:
            grad_bias += slope.sum((0, 2))
    return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), grad_bias


shared_op = torch.library.custom_op("graphattn::shared_key_attention", _attend, mutates_args=())
shared_backward_op = torch.library.custom_op(
    "graphattn::shared_key_attention_backward", _pull, mutates_args=()
)
pull_shared = direct(shared_backward_op, _pull)


@shared_op.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    out = value.new_empty((*query.shape[:-1], value.shape[-1]))
    return out, query.new_empty(query.shape[:-1], dtype=accumulate_dtype(query))


@shared_backward_op.register_fake
def _(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    out: Tensor,
    lse: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    a, b, c = (
        torch.empty_like(t, memory_format=torch.contiguous_format) for t in (query, key, value)
    )
    return a, b, c, lse.new_empty(key.shape[1:3] if bias is not None else 0)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, bias, ctx.scale = inputs
    ctx.biased = bias is not None
    ctx.save_for_backward(*output, query, key, value, *([] if bias is None else [bias]))
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> tuple[Any, ...]:
    out, lse, query, key, value, *rest = ctx.saved_tensors
    bias = rest[0] if ctx.biased else None
    if grad_out is None:
        grad_out = torch.zeros_like(out)
    if torch.is_grad_enabled():
        found = _differentiable_backward((query, key, value, bias), ctx.scale, grad_out, grad_lse)
    else:
        found = pull_shared(grad_out, grad_lse, out, lse, query, key, value, bias, ctx.scale)
    return *needed(found, ctx.needs_input_grad[:4]), None


def _differentiable_backward(
    given: tuple[Tensor, Tensor, Tensor, Tensor | None],
    scale: float,
    grad_out: Tensor,
    grad_lse: Tensor | None,
) -> Sequence[Tensor | None]:
    """First derivative of the plain formula, so that it can be differentiated again."""
    query, key, value, bias = given
    weight, lse = _softmax(_logits(query, key, bias, scale))
    outs, grads = [(weight @ value.to(lse.dtype)).to(value.dtype)], [grad_out]
    if grad_lse is not None:
        outs, grads = [*outs, lse], [*grads, grad_lse]
    return first_derivative(outs, grads, given, trained(given))


attend_shared = direct(shared_op, _attend, _save, _backward)
