"""Projection of every head by its own matrix, as edge features need it."""

from typing import Any

import torch
from torch import Tensor

from graphattn.ops.fused import check_reverse_mode, direct, kernels, may_train


def project_heads(x: Tensor, matrices: Tensor, impl: str, start: Tensor | None = None) -> Tensor:
    r"""``out[b, n, h] = start[b, n, h] + x[b, n, h] P[h]``: [B, N, H, D] by [H, D, F].

    On the CPU in one pass over x that writes the result where it belongs; elsewhere, for wide
    heads, and where somebody watches torch's operators, an einsum.
    """
    found: Tensor = (_on_cpu if impl == "cpu" else _einsum)(x, matrices, start)
    return found


def _fits(x: Tensor, matrices: Tensor, start: Tensor | None) -> bool:
    """Of a dtype and of widths that the kernel takes."""
    if x.dtype not in (torch.float32, torch.float64) or x.numel() == 0:
        return False
    if matrices.dtype != x.dtype or (start is not None and start.dtype != x.dtype):
        return False
    takes: bool = kernels("cpu", "project").takes(*matrices.shape[1:], x.element_size())
    return takes


def _einsum(x: Tensor, matrices: Tensor, start: Tensor | None) -> Tensor:
    product = torch.einsum("bnhd,hdf->bnhf", x, matrices)
    # In place on the product, which nobody else holds: another new tensor costs more.
    return product if start is None else product.to(start.dtype).add_(start)


class _Projected(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, matrices: Tensor, start: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, matrices)
        found: Tensor = kernels("cpu", "project").project(x, matrices, start)
        return found

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        # Of operators that have derivatives themselves, for second derivatives.
        x, matrices = ctx.saved_tensors
        needs = ctx.needs_input_grad
        near = project_heads(grad, matrices.transpose(1, 2), "cpu") if needs[0] else None
        own = torch.einsum("bnhd,bnhf->hdf", x, grad) if needs[1] else None
        return near, own, grad if needs[2] else None


def _eager(x: Tensor, matrices: Tensor, start: Tensor | None) -> Any:
    if not _fits(x, matrices, start):
        return _einsum(x, matrices, start)
    check_reverse_mode("cpu")
    if not may_train(x, matrices, start):
        return kernels("cpu", "project").project(x, matrices, start)
    return _Projected.apply(x, matrices, start)  # type: ignore[no-untyped-call]


_on_cpu = direct(_einsum, _eager)
