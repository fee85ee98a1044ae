"""Linear maps whose large results and gradients lie on huge pages."""

from collections.abc import Callable
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

    On the CPU a product of many nodes with a narrow matrix takes as long as the first writes to
    the fresh memory of its result, in pages of 4 KiB. Results and gradients of at least 4 MiB are
    therefore put on huge pages, where Linux offers them: in eager mode, in float32 and float64.

    Args:
        x: ``[..., in]``.
        weight: ``[out, in]``.
        bias: ``[out]``.

    Returns:
        ``[..., out]``.
    """
    if _is_large(x, weight) and not _is_special(x, weight, bias):
        found: Tensor = _apply(x, weight, bias)
        return found
    return F.linear(x, weight, bias)


def _is_large(x: Tensor, weight: Tensor) -> bool:
    """Whether a result or a gradient is."""
    if x.dim() < 2 or weight.dim() != 2 or x.device.type != "cpu" or x.shape[-1] == 0:
        return False
    rows = x.numel() // x.shape[-1]
    return rows * max(weight.shape) * x.element_size() >= LEAST_BYTES


def _is_special(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether somebody else has a say: a compiler, a mode, a transform, a subclass, autocast."""
    if torch.compiler.is_compiling() or is_watched() or forward_ad._current_level >= 0:
        return True
    given = [x, weight] if bias is None else [x, weight, bias]
    plain = all(type(t) in PLAIN and t.dtype == x.dtype and t.layout == x.layout for t in given)
    strided = x.layout == torch.strided and (x.dim() == 2 or x.is_contiguous())
    return not (plain and strided and x.dtype in _DTYPES) or torch.is_autocast_enabled("cpu")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _multiply(x, weight.t(), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs, flat = ctx.needs_input_grad, grad.flatten(0, -2)
        multiply = torch.matmul if torch.is_grad_enabled() else _multiply
        return (
            multiply(grad, weight) if needs[0] else None,
            flat.t() @ x.flatten(0, -2) if needs[1] else None,
            flat.sum(0) if needs[2] else None,
        )


_apply: Callable[..., Tensor] = _Linear.apply


def _multiply(x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x M + b`` into fresh memory: ``x [..., k]``, ``M [k, m]``."""
    flat = x.flatten(0, -2)
    out = empty(x, (flat.shape[0], matrix.shape[1]))
    if bias is None:
        torch.mm(flat, matrix, out=out)
    else:
        torch.addmm(bias, flat, matrix, out=out)
    return out if x.dim() == 2 else out.view(*x.shape[:-1], matrix.shape[1])
