"""Linear maps whose large results and gradients lie on huge pages."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from graphattn.kernels.cpu.pages import LEAST_BYTES, empty
from graphattn.ops.fused import PLAIN, is_watched

_DTYPES = (torch.float32, torch.float64)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    r"""``x W^T + b``: :func:`torch.nn.functional.linear`, to the bit.

    On the CPU a product of many nodes with a narrow matrix is little arithmetic per byte of fresh
    memory, whose first writes cost a fault per page of 4 KiB. Results and gradients of at least
    4 MiB are therefore put on huge pages, where Linux offers them: in eager mode, in float32 and
    float64.

    Args:
        x: ``[..., in]``.
        weight: ``[out, in]``.
        bias: ``[out]``.

    Returns:
        ``[..., out]``.
    """
    if _is_watched() or not _is_large(x, weight) or not _is_plain(x, weight, bias):
        return F.linear(x, weight, bias)
    return _apply(x, weight, bias)


def _is_watched() -> bool:
    """Whether a compiler, a tracer, a mode or a transform wants to see torch's operators."""
    traced = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    return traced or is_watched() or forward_ad._current_level >= 0


def _is_large(x: Tensor, weight: Tensor) -> bool:
    """Whether a result or a gradient is."""
    if x.device.type != "cpu" or x.is_nested or x.dim() < 2 or weight.dim() != 2:
        return False
    rows = x.numel() // max(x.shape[-1], 1)
    return rows * max(weight.shape) * x.element_size() >= LEAST_BYTES


def _is_plain(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether these are dense tensors of one device and dtype, and autocast is off."""
    given = [x, weight] if bias is None else [x, weight, bias]
    alike = all(type(t) in PLAIN and t.dtype == x.dtype and t.device == x.device for t in given)
    dense = all(t.layout == torch.strided for t in given) and (x.dim() == 2 or x.is_contiguous())
    return alike and dense and x.dtype in _DTYPES and not torch.is_autocast_enabled("cpu")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        needs = ctx.needs_input_grad  # a frozen layer keeps nothing that nobody will read
        ctx.save_for_backward(x if needs[1] else None, weight if needs[0] else None)
        return _multiply(x, weight.t(), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        flat = _flat(grad)
        # The vmap of is_grads_batched has no rule for products into given memory.
        batched = torch._C._functorch.is_legacy_batchedtensor(grad)
        fresh = not (torch.is_grad_enabled() or batched or _is_watched())
        multiply = _multiply if fresh else torch.matmul
        return (
            None if weight is None else multiply(grad, weight),
            None if x is None else flat.t() @ _flat(x),
            flat.sum(0) if ctx.needs_input_grad[2] else None,
        )


_apply: Callable[..., Tensor] = _Linear.apply


def _multiply(x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x M + b`` into fresh memory: ``x [..., k]``, ``M [k, m]``.

    The result is no view: those of a ``Function`` may not be changed in place.
    """
    out = empty(x, (*x.shape[:-1], matrix.shape[1]))
    if bias is None:
        torch.mm(_flat(x), matrix, out=_flat(out))
    else:
        torch.addmm(bias, _flat(x), matrix, out=_flat(out))
    return out


def _flat(x: Tensor) -> Tensor:
    """``[..., k]`` as ``[rows, k]``; ``flatten`` has no rule in the vmap of batched gradients."""
    return x if x.dim() == 2 else x.reshape(prod(x.shape[:-1]), x.shape[-1])
