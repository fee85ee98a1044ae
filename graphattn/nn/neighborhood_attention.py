"""Attention layers on grids: NATTEN's modules, and windows of a partition."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from graphattn.graph import GridGraph, ProductGraph, grid_blocks, shared
from graphattn.graph.grid import per_axis
from graphattn.nn.blocks import Linear, check_heads
from graphattn.ops import TableBias, attention
from graphattn.ops.neighborhood import check_rpb

Sizes = int | Sequence[int]
Flags = bool | Sequence[bool]


class GridAttention(nn.Module):
    """Multi-head attention of the nodes of a grid over one graph; the base of the layers here.

    Parameters are named as in NATTEN: ``qkv`` (query, key and value one after the other), ``proj``
    and, with ``rel_pos_bias``, ``rpb`` of one entry per head and relative position. Subclasses say
    which graph a grid of a shape has.
    """

    dims: ClassVar[int] = 2

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        relative_shape: Sequence[int] | None,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        impl: str = "auto",
    ) -> None:
        super().__init__()
        check_heads(embed_dim, num_heads)
        self.embed_dim, self.num_heads = embed_dim, num_heads
        self.head_dim = embed_dim // num_heads
        self.scale = self.head_dim**-0.5 if qk_scale is None else qk_scale
        self.attn_drop, self.impl = attn_drop, impl
        self.qkv = Linear(embed_dim, 3 * embed_dim, bias=qkv_bias)
        self.proj = Linear(embed_dim, embed_dim)
        self.proj_drop = nn.Dropout(proj_drop)
        table = None if relative_shape is None else torch.empty(num_heads, *relative_shape)
        self.rpb = None if table is None else nn.Parameter(table)
        if self.rpb is not None:
            nn.init.trunc_normal_(self.rpb, std=0.02)

    def graph(self, shape: tuple[int, ...], device: torch.device) -> ProductGraph:
        """Who attends to whom on a grid of ``shape``."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """``[B, *grid, C]`` -> the same; the grid may differ from call to call."""
        self._check(x)
        shape = tuple(x.shape[1:-1])
        parts = self.qkv(x).view(x.shape[0], -1, 3, self.num_heads, self.head_dim)
        query, key, value = parts.unbind(2)
        mixed = attention(
            query,
            key,
            value,
            self.graph(shape, x.device),
            scale=self.scale,
            bias=None if self.rpb is None else TableBias(self.rpb.flatten(1)),
            dropout_p=self.attn_drop if self.training else 0.0,
            impl=self.impl,
        )
        return self.proj_drop(self.proj(mixed.reshape(x.shape)))  # type: ignore[no-any-return]

    def _check(self, x: Tensor) -> None:
        axes = ", ".join("XYZ"[: self.dims])
        if not isinstance(x, Tensor) or not x.is_floating_point():
            came = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(
                f"{type(self).__name__} takes a floating point tensor, got {came}; call "
                "torch.as_tensor(x).float()"
            )
        if x.dim() != self.dims + 2 or x.shape[-1] != self.embed_dim:
            raise ValueError(
                f"{type(self).__name__} takes [B, {axes}, {self.embed_dim}] (channels last), got "
                f"{list(x.shape)}"
            )

    def extra_repr(self) -> str:
        """Sizes, for ``print``."""
        return f"head_dim={self.head_dim}, num_heads={self.num_heads}"


class NeighborhoodAttention2D(GridAttention):
    r"""Every node of a grid attends to the window around it: NATTEN's module of this name.

    Swap the import and keep the weights: arguments, their order and parameter names are NATTEN's.
    ``rel_pos_bias=True`` brings back the bias ``rpb [H, 2 k - 1, 2 k - 1]`` that NATTEN dropped in
    0.20, so state dicts of NAT and DiNAT load.

    Args:
        embed_dim: Width ``C`` of input and output.
        num_heads: Number of heads; divides ``embed_dim``.
        kernel_size: Window per axis; one number serves all.
        stride: Queries that share a window, per axis.
        dilation: Distance of the keys in a window, per axis.
        is_causal: Whether later keys are left out, bool per axis.
        qkv_bias: Whether query, key and value have an additive bias.
        qk_scale: Factor of the dot product; ``None`` means ``head width ** -0.5``.
        proj_drop: Dropout of the output.
        rel_pos_bias: Learn a relative position bias; odd windows, no causal axis.
        attn_drop: Dropout of the attention weights.
        border: ``"clamp"`` (NATTEN's), ``"truncate"`` or ``"wrap"``; see
            :class:`graphattn.GridGraph`.
        impl: Implementation of the attention (see :func:`graphattn.attention`).

    Shapes: ``[B, X, Y, C]`` to the same; one axis or three for the 1-D and 3-D modules. A grid
    smaller than ``kernel_size * dilation`` is refused (NATTEN up to 0.14 padded it with zeros that
    took part in the softmax); ``border="truncate"`` takes any grid.

    Memory O(B N C), whatever the window. Papers: Hassani et al., Neighborhood Attention
    Transformer (CVPR 2023); Hassani and Shi, Dilated Neighborhood Attention Transformer (2022).

    Example:
        >>> NeighborhoodAttention2D(64, 4, kernel_size=7)(torch.randn(1, 14, 14, 64)).shape
        torch.Size([1, 14, 14, 64])
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        dilation: Sizes = 1,
        is_causal: Flags = False,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        proj_drop: float = 0.0,
        *,
        rel_pos_bias: bool = False,
        attn_drop: float = 0.0,
        border: str = "clamp",
        impl: str = "auto",
    ) -> None:
        sizes = per_axis("kernel_size", kernel_size, self.dims)
        steps = per_axis("dilation", dilation, self.dims)
        self._rule = (kernel_size, stride, dilation, is_causal, border)
        # The smallest grid that they fit: wrong arguments are refused here and not in a forward.
        least = GridGraph([k * d for k, d in zip(sizes, steps, strict=True)], *self._rule)
        if rel_pos_bias:
            check_rpb(least)
        super().__init__(
            embed_dim,
            num_heads,
            least.relative_shape if rel_pos_bias else None,
            qkv_bias,
            qk_scale,
            attn_drop,
            proj_drop,
            impl,
        )

    def graph(self, shape: tuple[int, ...], device: torch.device) -> ProductGraph:
        """The windows on a grid of ``shape``."""
        return shared(GridGraph, shape, *self._rule, str(device))

    def extra_repr(self) -> str:
        """Sizes, for ``print``."""
        names = ("kernel_size", "stride", "dilation", "is_causal", "border")
        rule = ", ".join(f"{n}={v!r}" for n, v in zip(names, self._rule, strict=True))
        return f"{super().extra_repr()}, {rule}"


class NeighborhoodAttention1D(NeighborhoodAttention2D):
    """Neighbourhood attention on sequences ``[B, X, C]``; see :class:`NeighborhoodAttention2D`."""

    dims = 1


class NeighborhoodAttention3D(NeighborhoodAttention2D):
    """Neighbourhood attention on ``[B, X, Y, Z, C]``; see :class:`NeighborhoodAttention2D`."""

    dims = 3


class WindowAttention(GridAttention):
    """Swin's attention in windows of a partition, shifted ones without a mask.

    Args:
        embed_dim: Width ``C`` of input and output.
        num_heads: Number of heads; divides ``embed_dim``.
        window: Extent of a window along both axes.
        shift: Where windows begin, modulo ``window``; Swin takes ``window // 2`` in every second
            block.
        rel_pos_bias: Learn a bias ``rpb [H, 2 w - 1, 2 w - 1]`` by key minus query. Swin's tables
            run by query minus key: flip both axes to load one.
        qkv_bias, qk_scale, proj_drop, attn_drop, impl: As in :class:`NeighborhoodAttention2D`.

    Shapes: ``[B, X, Y, C]`` to the same, for any X and Y; the last windows may be smaller.
    Paper: Liu et al., Swin Transformer (ICCV 2021).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        window: int,
        shift: int = 0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        proj_drop: float = 0.0,
        *,
        rel_pos_bias: bool = True,
        attn_drop: float = 0.0,
        impl: str = "auto",
    ) -> None:
        self.window, self.shift = window, shift
        relative = grid_blocks((1, 1), window, shift).relative_shape if rel_pos_bias else None
        super().__init__(
            embed_dim, num_heads, relative, qkv_bias, qk_scale, attn_drop, proj_drop, impl
        )

    def graph(self, shape: tuple[int, ...], device: torch.device) -> ProductGraph:
        """The windows on a grid of ``shape``."""
        return shared(grid_blocks, shape, self.window, self.shift).to(device)

    def extra_repr(self) -> str:
        """Sizes, for ``print``."""
        return f"{super().extra_repr()}, window={self.window}, shift={self.shift}"
