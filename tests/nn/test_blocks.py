"""Shared parts of layers: pooling and normalisation."""

from typing import Any

import pytest
import torch

from graphattn.nn import mean_pool
from graphattn.nn.blocks import make_norm


def test_mean_pool_by_hand() -> None:
    x = torch.tensor([[1.0, 2.0], [10.0, 20.0], [3.0, 6.0]])
    batch = torch.tensor([2, 0, 2])
    out = mean_pool(x, batch)
    assert out.tolist() == [[10.0, 20.0], [0.0, 0.0], [2.0, 4.0]]
    assert mean_pool(x, batch, num_graphs=4).shape == (4, 2)
    torch.testing.assert_close(mean_pool(x), x.mean(0, keepdim=True))
    assert mean_pool(x[:0], batch[:0]).shape == (0, 2)


def test_mean_pool_gradient() -> None:
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    batch = torch.tensor([1, 0, 1, 3, 3, 3, 0])
    assert torch.autograd.gradcheck(lambda t: mean_pool(t, batch), (x,))


def test_mean_pool_takes_int32() -> None:
    x, batch = torch.randn(5, 2), torch.tensor([1, 0, 1, 3, 0])
    assert torch.equal(mean_pool(x, batch.int()), mean_pool(x, batch))


@pytest.mark.parametrize(
    "batch, error, message",
    [
        (torch.tensor([0, -1, 1]), ValueError, r"batch .* in \[0, 2\), got -1"),
        (torch.tensor([0, 2, 1]), ValueError, r"batch .* in \[0, 2\), got 2"),
        (torch.tensor([0, 1]), ValueError, r"one graph number per node \[3\], got \[2\]"),
        (torch.tensor([0.0, 1.0, 1.0]), TypeError, "int64 or int32, got torch.float32"),
        ([0, 1, 1], TypeError, "tensor .*got list"),
    ],
)
def test_mean_pool_checks_batch(batch: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mean_pool(torch.randn(3, 4), batch, num_graphs=2)


def test_norms_by_name() -> None:
    assert isinstance(make_norm("layer", 3), torch.nn.LayerNorm)
    assert isinstance(make_norm("batch", 3), torch.nn.BatchNorm1d)
    assert isinstance(make_norm("none", 3), torch.nn.Identity)
    with pytest.raises(ValueError, match="one of layer, batch, none, got 'group'"):
        make_norm("group", 3)
