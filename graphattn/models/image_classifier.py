"""ImageClassifier: timm's methods for networks of a stem, stages on grids, a norm and a head."""

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor, nn

from graphattn.nn.blocks import Linear
from graphattn.nn.image_blocks import Stage

POOLS = ("avg", "")


class ImageClassifier(nn.Module):
    """Stem ``patch_embed``, stages ``levels`` on grids ``[B, H, W, C]``, ``norm`` and ``head``.

    Method and attribute names, arguments and meanings are timm's, so that its training scripts,
    feature pyramids and layer-wise learning rates work on it. A subclass makes stem and stages,
    sets ``in_chans`` and ``feature_info``, and calls :meth:`end_with`.
    """

    output_fmt = "NHWC"  # layout of forward_features, by which timm transposes
    patch_embed: nn.Module
    levels: nn.ModuleList
    norm: nn.Module
    in_chans: int
    feature_info: list[dict[str, Any]]

    def end_with(
        self, norm: nn.Module, width: int, drop_rate: float, num_classes: int, global_pool: str
    ) -> None:
        """The parts after the last stage, which has ``width`` channels."""
        self.num_features = self.head_hidden_size = width
        self.norm, self.head_drop = norm, nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)

    def forward_features(self, x: Tensor) -> Tensor:
        """``[B, channels, H, W]`` to the normalised grid of the last stage ``[B, h, w, C]``."""
        x = self._stem(x)
        for level in self.levels:
            x = level(x)
        return self.norm(x)  # type: ignore[no-any-return]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The grid ``[B, h, w, C]`` to logits, or with ``pre_logits`` to what the head reads."""
        x = x.mean((1, 2)) if self.global_pool == "avg" else x
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, channels, H, W]`` to ``[B, num_classes]``."""
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The grids of several stages, a feature pyramid for detection and segmentation.

        Args:
            x: Images ``[B, channels, H, W]``.
            indices: Stages to return; a number n for the last n, ``None`` for all.
            norm: Normalise the last stage's grid; the others have no norm of their own.
            stop_early: Leave out the stages after the last one asked for.
            output_fmt: ``"NCHW"``, timm's, or ``"NHWC"``, which copies nothing.
            intermediates_only: Return the grids alone.

        Returns:
            The final grid ``[B, h, w, C]``, as :meth:`forward_features`, and a list of
            ``[B, C_n, h_n, w_n]``, where ``feature_info[n]`` has C_n and the reduction H / h_n.

        Raises:
            ValueError: There is no such stage or format.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt must be 'NCHW' or 'NHWC', got {output_fmt!r}")
        wanted = self._stages(indices)
        grids: dict[int, Tensor] = {}
        x = self._stem(x)
        stages = cast("list[Stage]", list(self.levels))
        for n, level in enumerate(stages[: max(wanted) + 1 if stop_early else None]):
            x = grids[n] = level.mix(x)
            x = level.leave(x)
        if len(grids) == len(stages):
            x = self.norm(x)
            if norm:
                grids[len(stages) - 1] = x
        taken = [grids[n] for n in wanted]
        if output_fmt == "NCHW":
            taken = [grid.permute(0, 3, 1, 2).contiguous() for grid in taken]
        return taken if intermediates_only else (x, taken)

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] | None = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drop what :meth:`forward_intermediates` does not need for ``indices``; returns them."""
        wanted = self._stages(indices)
        if max(wanted) < len(self.levels) - 1:
            prune_norm = True  # it has the width of the stage that goes
        self.levels = self.levels[: max(wanted) + 1]
        last: Stage = self.levels[-1]  # type: ignore[assignment]
        last.downsample = None
        self.feature_info = self.feature_info[: max(wanted) + 1]
        self.num_features = self.head_hidden_size = self.feature_info[-1]["num_chs"]
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return wanted

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new head for ``num_classes``; 0 for none. ``global_pool``: see the constructor."""
        if global_pool is not None:
            if global_pool not in POOLS:
                raise ValueError(f"global_pool must be 'avg' or '', got {global_pool!r}")
            self.global_pool = global_pool
        if num_classes < 0:
            raise ValueError(f"num_classes must be at least 0 (0 for no head), got {num_classes}")
        self.num_classes = num_classes
        self.head: nn.Module = nn.Identity()
        if num_classes > 0:
            self.head = Linear(self.num_features, num_classes)
            initialise(self.head)
            self.head.to(next(self.patch_embed.parameters()))

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.head

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that optimisers should not decay: the bias tables."""
        return {name for name, _ in self.named_parameters() if name.endswith("rpb")}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass instead of keeping their activations."""
        for level in self.levels:
            level.grad_checkpointing = enable  # type: ignore[assignment]

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions that group parameters by depth, for layer-wise learning rates.

        A group per block, or with ``coarse`` per stage. Downsampling and norm belong to the block
        before them, which is what timm's 99999 says.
        """
        blocks = [(r"^levels\.(\d+)\.blocks\.(\d+)", None), (r"^levels\.(\d+)\.down", (99999,))]
        deep = [(r"^levels\.(\d+)", None)] if coarse else blocks
        return {"stem": r"^patch_embed", "blocks": [*deep, (r"^norm", (99999,))]}

    def _stem(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[1] != self.in_chans:
            raise ValueError(
                f"images must be [B, channels, H, W] with {self.in_chans} channels, got "
                f"{list(x.shape)}; move channels to axis 1, or set in_chans"
            )
        return self.patch_embed(x.permute(0, 2, 3, 1))  # type: ignore[no-any-return]

    def _stages(self, indices: int | Sequence[int] | None) -> list[int]:
        """Numbers of stages from timm's ways to name them."""
        count = len(self.levels)
        if indices is None:
            return list(range(count))
        given = range(-indices, 0) if isinstance(indices, int) else indices
        if not given or not all(-count <= n < count for n in given):
            raise ValueError(
                f"indices must be stages from {-count} to {count - 1}, or how many of the last "
                f"ones (1 to {count}), got {indices!r}"
            )
        return [n % count for n in given]


def initialise(module: nn.Module) -> None:
    """Linear maps as NAT and Swin draw them: normal, truncated, std 0.02; bias 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
