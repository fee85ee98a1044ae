"""Parts of image networks on channels-last grids: block, stem, downsampling, stage."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from graphattn.nn.neighborhood_attention import GridAttention


class DropPath(nn.Module):
    """Drop whole residual branches of random images (Huang et al., Stochastic Depth, 2016)."""

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """``[B, ...]``; the branches that stay are scaled up."""
        if self.p == 0.0 or not self.training:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.dim() - 1), device=x.device) >= self.p
        return x * keep.to(x.dtype) / (1.0 - self.p)


class Mlp(nn.Module):
    """Two linear maps with a nonlinearity between them."""

    def __init__(self, dim: int, hidden: int, act_layer: Callable[[], nn.Module], p: float) -> None:
        super().__init__()
        self.fc1, self.act = nn.Linear(dim, hidden), act_layer()
        self.fc2, self.drop = nn.Linear(hidden, dim), nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., C]`` to the same."""
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))  # type: ignore[no-any-return]


class Block(nn.Module):
    r"""Pre-norm block: :math:`x + A(N(x))`, then :math:`x + M(N(x))`, on ``[B, H, W, C]``.

    ``layer_scale`` multiplies both branches by learned ``gamma1`` and ``gamma2`` that start there.
    """

    def __init__(
        self,
        attn: GridAttention,
        norm_layer: Callable[[int], nn.Module],
        act_layer: Callable[[], nn.Module],
        mlp_ratio: float,
        proj_drop: float,
        drop_path: float,
        layer_scale: float | None,
    ) -> None:
        super().__init__()
        dim = attn.embed_dim
        self.norm1, self.attn = norm_layer(dim), attn
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), act_layer, proj_drop)
        self.drop_path = DropPath(drop_path)
        scales = [None, None] if layer_scale is None else [torch.full((dim,), layer_scale)] * 2
        self.gamma1, self.gamma2 = (None if s is None else nn.Parameter(s.clone()) for s in scales)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` to the same."""
        mixed = self.attn(self.norm1(x))
        x = x + self.drop_path(mixed if self.gamma1 is None else self.gamma1 * mixed)
        mixed = self.mlp(self.norm2(x))
        branch: Tensor = self.drop_path(mixed if self.gamma2 is None else self.gamma2 * mixed)
        return x + branch


def _convolution(layer: nn.Module, x: Tensor) -> Tensor:
    """A convolution on channels-last images."""
    return layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # type: ignore[no-any-return]


class Stem(nn.Module):
    """Two 3x3 convolutions, normalised: ``[B, H, W, 3]`` to ``[B, H / 4, W / 4, C]``."""

    def __init__(
        self,
        channels: int,
        dim: int,
        strides: Sequence[int],
        norm_layer: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        first, second = strides
        self.proj = nn.Sequential(
            nn.Conv2d(channels, dim // 2, 3, first, 1), nn.Conv2d(dim // 2, dim, 3, second, 1)
        )
        self.norm = norm_layer(dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, channels]`` to ``[B, H / s, W / s, dim]``."""
        return self.norm(_convolution(self.proj, x))  # type: ignore[no-any-return]


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2 that doubles the width, normalised."""

    def __init__(self, dim: int, norm_layer: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.reduction = nn.Conv2d(dim, 2 * dim, 3, 2, 1, bias=False)
        self.norm = norm_layer(2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` to ``[B, H / 2, W / 2, 2 C]``."""
        return self.norm(_convolution(self.reduction, x))  # type: ignore[no-any-return]


class Stage(nn.Module):
    """Blocks of one resolution, and the way to the next one (None after the last)."""

    def __init__(self, blocks: list[Block], downsample: Downsample | None) -> None:
        super().__init__()
        self.blocks, self.downsample = nn.ModuleList(blocks), downsample
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """``[B, H, W, C]`` to the same, or to ``[B, H / 2, W / 2, 2 C]`` where it leaves."""
        return self.leave(self.mix(x))

    def mix(self, x: Tensor) -> Tensor:
        """The blocks: ``[B, H, W, C]`` to the same."""
        for block in self.blocks:
            if self.grad_checkpointing and self.training:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x

    def leave(self, x: Tensor) -> Tensor:
        """To the next stage's grid."""
        return x if self.downsample is None else self.downsample(x)
