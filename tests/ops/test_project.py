"""Projection of heads: the kernel against einsum, values and derivatives of both orders."""

import pytest
import torch
from torch import Tensor

from graphattn.kernels.cpu.project import takes
from graphattn.ops.project import project_heads

SHAPES = [(2, 5, 3, 4, 8), (1, 200, 8, 16, 16), (1, 7, 2, 24, 64), (3, 0, 2, 4, 8), (1, 9, 4, 5, 7)]


def _given(shape: tuple[int, ...], dtype: torch.dtype, strided: bool = False) -> list[Tensor]:
    batch, nodes, heads, width, found = shape
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=dtype)

    matrices = (
        normal(heads, found, width).transpose(1, 2) if strided else normal(heads, width, found)
    )
    return [normal(batch, nodes, heads, width), matrices, normal(batch, nodes, heads, found)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_einsum(shape: tuple[int, ...], added: bool, dtype: torch.dtype) -> None:
    x, matrices, start = _given(shape, dtype, strided=added)
    leaves = [t.clone().requires_grad_() for t in (x, matrices, *([start] if added else []))]
    found = project_heads(leaves[0], leaves[1], "cpu", leaves[2] if added else None)
    want = torch.einsum("bnhd,hdf->bnhf", x.double(), matrices.double()) + (start if added else 0)
    torch.testing.assert_close(found, want.to(dtype))
    pull = torch.randn_like(found)
    twins = [t.detach().double().requires_grad_() for t in leaves]
    twin = torch.einsum("bnhd,hdf->bnhf", *twins[:2]) + (twins[2] if added else 0)
    wanted = torch.autograd.grad(twin, twins, pull.double())
    for ours, theirs in zip(torch.autograd.grad(found, leaves, pull), wanted, strict=True):
        torch.testing.assert_close(ours, theirs.to(dtype), rtol=1e-4, atol=1e-4)


def test_has_second_derivatives() -> None:
    leaves = [t.requires_grad_() for t in _given((1, 3, 2, 4, 4), torch.float64)]
    assert takes(4, 4, 8)
    assert torch.autograd.gradgradcheck(lambda x, p, s: project_heads(x, p, "cpu", s), leaves)


def test_same_for_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    x, matrices, start = _given((1, 5000, 8, 16, 16), torch.float32)
    monkeypatch.setattr("graphattn.kernels.cpu.threads.INLINE_WORK", 0)
    found = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(project_heads(x, matrices, "cpu", start))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize("width, found", [(65, 16), (16, 72), (16, 12)])
def test_what_is_left_to_torch(width: int, found: int) -> None:
    assert not takes(width, found, 4)
    x, matrices, _ = _given((1, 6, 2, width, found), torch.float32)
    torch.testing.assert_close(
        project_heads(x, matrices, "cpu"), torch.einsum("bnhd,hdf->bnhf", x, matrices)
    )
