"""NeighborhoodTransformer: NAT and DiNAT, and the same network with windows or dense attention."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from graphattn.models.image_classifier import ImageClassifier, initialise
from graphattn.nn.image_blocks import Block, Downsample, Stage, Stem
from graphattn.nn.neighborhood_attention import (
    GridAttention,
    NeighborhoodAttention2D,
    WindowAttention,
)

ATTENTION = ("neighborhood", "windows", "dense")
# The published sizes, Mini and Tiny, of NAT; with dilations="dinat" those of DiNAT.
SIZES: dict[str, dict[str, Any]] = {
    "mini": {"depths": (3, 4, 6, 5), "num_heads": (2, 4, 8, 16), "embed_dim": 64},
    "tiny": {"depths": (3, 4, 18, 5), "num_heads": (2, 4, 8, 16), "embed_dim": 64},
}


def dilation_schedule(
    extents: Sequence[int], kernel_size: int, depths: Sequence[int]
) -> list[tuple[int, ...]]:
    """DiNAT's dilations: blocks alternate between 1 and ``extent // kernel_size`` of their stage.

    At 224 pixels with windows of 7: (1, 8, 1), (1, 4, 1, 4), (1, 2, ...), (1, 1, ...).
    """
    widest = [max(extent // kernel_size, 1) for extent in extents]
    return [tuple((1, d)[n % 2] for n in range(k)) for d, k in zip(widest, depths, strict=True)]


class NeighborhoodTransformer(ImageClassifier):
    r"""Hierarchical image classifier of neighbourhood attention blocks: NAT, and DiNAT if dilated.

    Stem, four stages whose width doubles where the resolution halves, mean over the grid, linear
    head. Arguments and methods follow timm; parameters are named as in the published NAT and DiNAT
    checkpoints. The defaults are NAT-Mini, 19,984,174 parameters; ``**SIZES["tiny"]`` gives
    NAT-Tiny, 27,901,582.

    Args:
        num_classes: Width of the head; 0 for none.
        in_chans: Channels of the image.
        global_pool: ``"avg"``, or ``""`` to keep the grid.
        embed_dim: Width of the first stage.
        depths: Number of blocks per stage.
        num_heads: Number of heads per stage.
        kernel_size: Window of every block.
        dilations: ``None`` for 1 everywhere (NAT), ``"dinat"`` for :func:`dilation_schedule` at
            ``img_size``, or one sequence per stage.
        img_size: Side of the images that ``"dinat"`` and ``"dense"`` are laid out for; others are
            taken too, but by ``"dense"`` no larger ones.
        stem_strides: Strides of the stem's convolutions; ``(1, 1)`` for small images.
        attention: ``"neighborhood"``; ``"windows"``, Swin's, shifted in every second block; or
            ``"dense"``: the same network with other graphs.
        mlp_ratio, qkv_bias, qk_scale, rel_pos_bias, layer_scale: As published for NAT.
        drop_rate, proj_drop_rate, attn_drop_rate, drop_path_rate: Dropout of the head's input, of
            linear maps, of attention weights, of branches (rising linearly to this).
        border: What windows do at the border; ``"truncate"`` also takes grids below the window.
        norm_layer, act_layer: Modules to normalise with, and between the linear maps.
        impl: Implementation of the attention.
        device, dtype: Where and how the parameters are made.

    Shapes: ``[B, 3, H, W]`` to ``[B, num_classes]``. Papers: Hassani et al., Neighborhood Attention
    Transformer (CVPR 2023); Hassani and Shi, DiNAT (2022).
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        embed_dim: int = 64,
        depths: Sequence[int] = (3, 4, 6, 5),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        kernel_size: int = 7,
        dilations: str | Sequence[Sequence[int]] | None = None,
        img_size: int = 224,
        stem_strides: Sequence[int] = (2, 2),
        attention: str = "neighborhood",
        mlp_ratio: float = 3.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        rel_pos_bias: bool = True,
        layer_scale: float | None = None,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        border: str = "clamp",
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        impl: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check(depths, num_heads, attention, img_size, stem_strides, norm_layer, act_layer)
        self.side, grids = _grids(img_size, stem_strides, attention, dilations, kernel_size, depths)
        rates = [drop_path_rate * n / max(sum(depths) - 1, 1) for n in range(sum(depths))]
        mixers: dict[str, Any] = {
            "qkv_bias": qkv_bias, "qk_scale": qk_scale, "proj_drop": proj_drop_rate,
            "rel_pos_bias": rel_pos_bias, "attn_drop": attn_drop_rate, "impl": impl,
        }  # fmt: skip
        parts = norm_layer, act_layer, mlp_ratio, proj_drop_rate
        self.patch_embed = Stem(in_chans, embed_dim, stem_strides, norm_layer)
        self.levels, dim = nn.ModuleList(), embed_dim
        for n, (heads, (extent, steps)) in enumerate(zip(num_heads, grids, strict=True)):
            made = [
                Block(layer(dim, heads, **mixers), *parts, rates.pop(0), layer_scale)
                for layer in _mixers(attention, kernel_size, steps, extent, border)
            ]
            down = Downsample(dim, norm_layer) if n < len(depths) - 1 else None
            self.levels.append(Stage(made, down))
            dim *= 1 if down is None else 2
        self.in_chans, self.feature_info = in_chans, _feature_info(embed_dim, depths, stem_strides)
        self.end_with(norm_layer(dim), dim, drop_rate, num_classes, global_pool)
        self.apply(initialise).to(device=device, dtype=dtype)

    def _stem(self, x: torch.Tensor) -> torch.Tensor:
        if self.side is not None and x.dim() == 4 and max(x.shape[2:]) > self.side:
            raise ValueError(
                f"attention='dense' was laid out for images of up to {self.side} x "
                f"{self.side}, got {list(x.shape[2:])}; give img_size the longest side"
            )
        return super()._stem(x)


def _check(
    depths: Sequence[int],
    num_heads: Sequence[int],
    attention: str,
    img_size: Any,
    stem_strides: Any,
    *layers: Any,
) -> None:
    if len(depths) != len(num_heads) or not depths:
        raise ValueError(
            f"depths and num_heads must have one entry per stage, got {tuple(depths)} and "
            f"{tuple(num_heads)}"
        )
    if attention not in ATTENTION:
        raise ValueError(f"attention must be one of {', '.join(ATTENTION)}, got {attention!r}")
    for n, depth in enumerate(depths):
        _at_least_one(f"depths[{n}]", depth)
    _at_least_one("img_size (one side of the images)", img_size)
    if not isinstance(stem_strides, Sequence) or len(stem_strides) != 2:
        raise ValueError(f"stem_strides must be two ints, such as (2, 2), got {stem_strides!r}")
    for n, stride in enumerate(stem_strides):
        _at_least_one(f"stem_strides[{n}]", stride)
    for name, layer in zip(("norm_layer", "act_layer"), layers, strict=True):
        if not callable(layer):
            raise TypeError(
                f"{name} must be a class or function that makes a Module, such as nn.LayerNorm or "
                f"nn.GELU, got {layer!r}"
            )


def _at_least_one(name: str, number: Any) -> None:
    if not hasattr(number, "__index__"):
        raise TypeError(f"{name} must be an int, got {number!r}")
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {number}")


def _extents(side: int, strides: Sequence[int], stages: int, whole: bool) -> list[int]:
    """Extent of the grid of every stage; ``whole``: as it is, rounded up, else DiNAT's, down."""

    def divide(extent: int, step: int) -> int:
        return -(-extent // step) if whole else max(extent // step, 1)

    for stride in strides:
        side = divide(side, stride)
    found = [int(side)]
    for _ in range(stages - 1):
        found.append(divide(found[-1], 2))
    return found


def _grids(
    img_size: int,
    strides: Sequence[int],
    attention: str,
    dilations: str | Sequence[Sequence[int]] | None,
    kernel_size: int,
    depths: Sequence[int],
) -> tuple[int | None, list[tuple[int, tuple[int, ...]]]]:
    """Largest side that images may have, if any; extent and dilations of the blocks of a stage."""
    whole = attention == "dense"
    extents = _extents(int(img_size), strides, len(depths), whole)
    steps = [(1,) * depth for depth in depths]
    if isinstance(dilations, str):
        if dilations != "dinat":
            raise ValueError(f"dilations must be None, 'dinat' or numbers, got {dilations!r}")
        steps = dilation_schedule(extents, kernel_size, depths)
    elif dilations is not None:
        steps = _explicit(dilations, depths)
    return int(img_size) if whole else None, list(zip(extents, steps, strict=True))


def _explicit(dilations: Sequence[Sequence[int]], depths: Sequence[int]) -> list[tuple[int, ...]]:
    """Dilations as given, a sequence per stage with a number per block."""
    counts = [len(stage) if isinstance(stage, Sequence) else None for stage in dilations]
    if counts != list(depths):
        raise ValueError(
            f"dilations must have one number per block, in a sequence per stage of {tuple(depths)} "
            f"blocks, got {dilations!r}"
        )
    return [tuple(stage) for stage in dilations]


def _feature_info(dim: int, depths: Sequence[int], strides: Sequence[int]) -> list[dict[str, Any]]:
    """What timm's feature extractors ask of a stage: width, stride and the module that ends it."""
    reduction = math.prod(strides)
    return [
        {
            "num_chs": dim * 2**n,
            "reduction": reduction * 2**n,
            "module": f"levels.{n}.blocks.{depth - 1}",
        }
        for n, depth in enumerate(depths)
    ]


def _mixers(
    attention: str, kernel_size: int, dilations: Sequence[int], extent: int, border: str
) -> list[Callable[..., GridAttention]]:
    """The attention layers of a stage's blocks, still without width and heads."""
    if attention == "windows":
        shifts = [kernel_size // 2 if n % 2 else 0 for n in range(len(dilations))]
        return [partial(WindowAttention, window=kernel_size, shift=s) for s in shifts]
    if attention == "dense":  # a window that reaches every node from every node
        every = partial(NeighborhoodAttention2D, kernel_size=2 * extent - 1, border="truncate")
        return [every] * len(dilations)
    windows = partial(NeighborhoodAttention2D, kernel_size=kernel_size, border=border)
    return [partial(windows, dilation=dilation) for dilation in dilations]
