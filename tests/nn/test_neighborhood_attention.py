"""NATTEN's modules: parameter names, the old unfused formula, shapes, wrong input."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from graphattn.nn import (
    NeighborhoodAttention1D,
    NeighborhoodAttention2D,
    NeighborhoodAttention3D,
    WindowAttention,
)


def unfused(layer: Any, x: Tensor, k: int, d: int) -> Tensor:
    """NATTEN 0.14's layer for odd windows: scores by offset, bias, softmax, weighted values."""
    batch, height, width, channels = x.shape
    q, key, value = layer.qkv(x).unflatten(3, (3, layer.num_heads, -1)).unbind(3)
    q = q * layer.scale

    def places(extent: int) -> tuple[Tensor, Tensor]:
        """Key coordinates [extent, k], and where each of them is in a table [2 k - 1]."""
        at = torch.arange(extent)
        group, inner = at % d, at // d
        size = (extent - group + d - 1) // d
        start = torch.minimum((inner - k // 2).clamp(min=0), size - k)
        keys = group[:, None] + d * (start[:, None] + torch.arange(k))
        return keys, (keys - at[:, None]) // d + k - 1

    (down, by_y), (right, by_x) = places(height), places(width)
    scores = []
    for a, b in itertools.product(range(k), range(k)):
        near = key[:, down[:, a]][:, :, right[:, b]]
        bias = layer.rpb[:, by_y[:, a]][:, :, by_x[:, b]].permute(1, 2, 0)
        scores.append((q * near).sum(-1) + bias)
    weights = torch.stack(scores, -1).softmax(-1)
    out = torch.zeros_like(q)
    for n, (a, b) in enumerate(itertools.product(range(k), range(k))):
        out += weights[..., n, None] * value[:, down[:, a]][:, :, right[:, b]]
    return layer.proj(out.reshape(batch, height, width, channels))


@pytest.mark.parametrize(
    ("side", "k", "dilation"), [(12, 3, 4), pytest.param(56, 7, 8, marks=pytest.mark.slow)]
)
def test_an_old_layer_gives_its_old_output(side: int, k: int, dilation: int) -> None:
    old = {
        "rpb": torch.randn(2, 2 * k - 1, 2 * k - 1),
        "qkv.weight": torch.randn(24, 8) / 3,
        "qkv.bias": torch.randn(24),
        "proj.weight": torch.randn(8, 8) / 3,
        "proj.bias": torch.randn(8),
    }
    layer = NeighborhoodAttention2D(8, 2, k, dilation=dilation, rel_pos_bias=True).double()
    layer.load_state_dict(old)
    x = torch.randn(1, side, side, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), unfused(layer, x, k, dilation), rtol=1e-9, atol=1e-9)


def test_arguments_and_names_are_nattens() -> None:
    layer = NeighborhoodAttention2D(8, 2, (3, 5), 1, (2, 1), False, False, 0.3, 0.1)
    assert list(layer.state_dict()) == ["qkv.weight", "proj.weight", "proj.bias"]
    assert layer.scale == 0.3 and layer.proj_drop.p == 0.1
    assert "kernel_size=(3, 5)" in repr(layer) and "border='clamp'" in repr(layer)
    biased = NeighborhoodAttention1D(8, 2, 5, rel_pos_bias=True)
    assert biased.rpb is not None and biased.rpb.shape == (2, 9)
    assert 0.005 < float(biased.rpb.detach().std()) < 0.05


def test_other_axes_and_grids_of_any_size() -> None:
    video = NeighborhoodAttention3D(8, 2, (2, 3, 3), is_causal=(True, False, False)).double()
    x = torch.randn(1, 3, 4, 5, 8, dtype=torch.float64)
    out = video(x)
    later = x.clone()
    later[:, 2] = 0.0
    assert out.shape == x.shape
    assert torch.equal(video(later)[:, :2], out[:, :2])  # frames before do not see it
    sequence = NeighborhoodAttention1D(8, 2, 3).double()
    for length in (3, 11):
        assert sequence(x.new_zeros(2, length, 8)).shape == (2, length, 8)


def test_shifted_windows_equal_roll_and_mask() -> None:
    layer = WindowAttention(8, 2, window=4, shift=2).double()
    x = torch.randn(1, 8, 8, 8, dtype=torch.float64)
    found = layer(x)
    # An image of one window has no neighbour window: attention over all of it.
    cut = x[:, 2:6, 2:6]
    alone = WindowAttention(8, 2, window=4).double()
    alone.load_state_dict(layer.state_dict())
    torch.testing.assert_close(found[:, 2:6, 2:6], alone(cut))
    torch.testing.assert_close(found[:, :2, :2], alone(x[:, :2, :2]))


def test_dropout_of_weights_is_for_training_only() -> None:
    layer = NeighborhoodAttention2D(8, 2, 3, attn_drop=0.5, impl="reference")
    x = torch.randn(1, 4, 4, 8)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_wrong_input() -> None:
    layer = NeighborhoodAttention2D(8, 2, 3)
    for wrong, came in ((torch.ones(1, 5, 5, 8).long(), "torch.int64"), ([1.0], "list")):
        with pytest.raises(TypeError, match=f"floating point tensor, got {came}"):
            layer(wrong)
    layer = NeighborhoodAttention2D(8, 2, 5, dilation=2)
    with pytest.raises(ValueError, match=r"takes \[B, X, Y, 8\] \(channels last\), got \[1, 8, 9"):
        layer(torch.randn(1, 8, 9, 9))
    with pytest.raises(ValueError, match="axis 0 must be at most its extent 9"):
        layer(torch.randn(1, 9, 10, 8))
    with pytest.raises(ValueError, match="stride of axis 1"):
        NeighborhoodAttention2D(8, 2, 3, stride=(1, 4))
    with pytest.raises(ValueError, match="axis 0 is 4; take an odd one"):
        NeighborhoodAttention2D(8, 2, 4, rel_pos_bias=True)
    with pytest.raises(ValueError, match="axis 0 is causal"):
        NeighborhoodAttention2D(8, 2, 3, is_causal=True, rel_pos_bias=True)
    with pytest.raises(ValueError, match="multiple of heads"):
        NeighborhoodAttention2D(9, 2, 3)
