"""Layers that are skipped at random in training, and dropped for good afterwards."""

from typing import Any

import torch
from torch import Tensor, nn


def blocks_of(model: nn.Module) -> nn.ModuleList:
    """The residual blocks of a model: its ``blocks`` or ``layers``."""
    for name in ("blocks", "layers"):
        found = getattr(model, name, None)
        if isinstance(found, nn.ModuleList):
            return found
    raise ValueError(
        f"{type(model).__name__} has no list of residual blocks; expected a ModuleList named "
        "'blocks' (GraphTransformer) or 'layers'"
    )


class LayerSkips:
    r"""Stochastic depth: a block adds :math:`b / (1 - p)` of its change, b Bernoulli(1 - p).

    One draw per block and step, or per graph with a ``batch``; nothing happens in evaluation.

    Args:
        model: A model with residual blocks ``(x, ...) -> x`` of equal width.
        p: Probability of skipping a block, in [0, 1).

    Set ``batch`` [N] before a forward pass to draw per graph. Papers: Huang et al., 2016; Liu et
    al., 2023, https://arxiv.org/abs/2312.05479 (GTSP; drawn per node in its code).
    """

    def __init__(self, model: nn.Module, p: float) -> None:
        if not 0.0 <= p < 1.0:
            raise ValueError(f"p must lie in [0, 1), got {p}: 1 would prune every layer")
        self.p = p
        self.batch: Tensor | None = None
        self._hooks = [block.register_forward_hook(self._skip) for block in blocks_of(model)]

    def _skip(self, block: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not block.training or self.p == 0.0:
            return None
        x = inputs[0]
        if self.batch is None:
            kept = (torch.rand(1, device=x.device) >= self.p).to(x.dtype)
        else:
            graphs = int(self.batch.max()) + 1
            kept = (torch.rand(graphs, device=x.device) >= self.p).to(x.dtype)[self.batch, None]
        return x + (output - x) * (kept / (1.0 - self.p))

    def remove(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()


def drop_layers(model: nn.Module, count: int) -> list[int]:
    """Delete ``count`` residual blocks, evenly spaced and neither first nor last while others are.

    Returns:
        The numbers of the blocks that are left.

    Raises:
        ValueError: no block would be left, or the model has no list of blocks.
    """
    blocks = blocks_of(model)
    total = len(blocks)
    if not 0 <= count < total:
        raise ValueError(
            f"count must lie in [0, {total}), got {count}: one of {total} blocks must be left"
        )
    places = torch.linspace(0, total - 1, total - count).round().long().unique().tolist()
    if total - count == 1:
        places = [0]
    kept = [blocks[place] for place in places]
    del blocks[:]
    blocks.extend(kept)
    return [int(place) for place in places]
