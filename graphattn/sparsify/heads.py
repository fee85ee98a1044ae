"""Masks of attention heads, of 0 and 1, that learn which heads a layer can do without."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from graphattn.nn.adjacency import share_of
from graphattn.sparsify.head_layers import KNOWN, keep_heads, layers_with_heads
from graphattn.sparsify.select import check_ratio


class HeadMasks(nn.Module):
    r"""Keep :math:`\lfloor \rho H \rfloor` heads of every layer, and learn which.

    A mask of 0 or 1 multiplies each head's output, before the output projection where a layer has
    one. Its importance is
    :math:`|\partial L / \partial m_h| = |\sum_{n,c} Z_{nhc}\, \partial L / \partial Z_{nhc}|`,
    which heads that are off have too. Every ``every`` calls of :meth:`step` the
    :math:`\lceil q \cdot \text{active} \rceil` least important active heads are turned off, and as
    many of the most important inactive ones on (those just turned off can come back).

    Args:
        model: A model of our layers of attention; hooks are attached to it.
        density: rho, in (0, 1].
        exchange: q, in [0, 1].
        every: Steps between exchanges.
        generator: Of the first choice; None is torch's own.

    Masks, importance and the step are its state dict: save and load it with the model's. Masks are
    buffers, which no optimiser moves.

    Raises:
        ValueError: a number is out of range, no head would be left, or the model has no heads that
            can be masked, as PyG's layers and the pooled form of TopMAttention.

    Paper: Liu et al., 2023, https://arxiv.org/abs/2312.05479 (GTSP), with the outputs before the
    projection and one optimiser step per iteration.
    """

    def __init__(
        self,
        model: nn.Module,
        density: float,
        *,
        exchange: float = 0.5,
        every: int = 200,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_ratio("density", density)
        if not 0.0 <= exchange <= 1.0 or every < 1:
            raise ValueError(
                f"exchange must lie in [0, 1] and every be at least 1, got {exchange} and {every}"
            )
        self.layers = list(layers_with_heads(model))
        if not self.layers:
            raise ValueError(
                f"{type(model).__name__} has no heads that can be masked; expected {KNOWN}"
            )
        self.density, self.exchange, self.every, self.steps = density, exchange, every, 0
        self._hooks: list[Any] = []
        for number, layer in enumerate(self.layers):
            active = int(share_of(torch.tensor(layer.number), density, down=True))
            if active == 0:
                raise ValueError(
                    f"a density of {density} leaves none of {layer.number} heads; "
                    f"keep at least {1 / layer.number:g}"
                )
            mask = torch.zeros(layer.number, device=layer.made_by[0].weight.device)
            mask[torch.randperm(layer.number, generator=generator)[:active]] = 1.0
            self.register_buffer(f"mask{number}", mask)
            self.register_buffer(f"importance{number}", torch.zeros_like(mask))
            for linear, offset in layer.read_by:
                hook = _Masking(self, number, offset, (linear.in_features - offset) // layer.number)
                self._hooks.append(linear.register_forward_pre_hook(hook))
            if layer.join is not None:
                self._hooks.append(layer.join.register_forward_pre_hook(_Masking(self, number)))
        self.register_load_state_dict_post_hook(_renew)  # type: ignore[no-untyped-call]
        _renew(self)

    @property
    def masks(self) -> list[Tensor]:
        """The mask of every layer, [H] of 0 and 1."""
        return [getattr(self, f"mask{number}") for number in range(len(self.layers))]

    @property
    def importance(self) -> list[Tensor]:
        """The importance of every layer's heads since the last exchange, [H]."""
        return [getattr(self, f"importance{number}") for number in range(len(self.layers))]

    def get_extra_state(self) -> Tensor:
        """The step, for the state dict."""
        return torch.tensor(self.steps)

    def set_extra_state(self, state: Tensor) -> None:
        """Go on from a saved step."""
        self.steps = int(state)

    def _apply(self, fn: Any, recurse: bool = True) -> "HeadMasks":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        _renew(self)
        return self

    def step(self) -> None:
        """Note the importance of this step; exchange heads every ``every`` steps."""
        self.steps += 1
        for mask, total in zip(self.masks, self.importance, strict=True):
            if mask.grad is not None:
                total += mask.grad.abs()
                mask.grad = None
        if self.steps % self.every == 0:
            for mask, total in zip(self.masks, self.importance, strict=True):
                _exchange(mask, total, self.exchange)
                total.zero_()

    def remove(self) -> None:
        """Take the hooks away: the model is as it was."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def compact(self) -> None:
        """Delete the masked heads from the layers, and take the hooks away.

        Raises:
            ValueError: their weights have masks, which would keep the old shape.
        """
        maps = [
            m for layer in self.layers for m in (*layer.made_by, *(r for r, _ in layer.read_by))
        ]
        if any(parametrize.is_parametrized(linear) for linear in maps):
            raise ValueError(
                "linear maps of these heads have masks or other parametrizations; compact() "
                "WeightMasks before HeadMasks, or remove the parametrizations"
            )
        self.remove()
        for layer, mask in zip(self.layers, self.masks, strict=True):
            keep_heads(layer, mask.detach().to(layer.made_by[0].weight.device) > 0)


def _renew(masks: HeadMasks, _: Any = None) -> None:
    """Make leaves of the masks again: what moves or assigns buffers makes tensors of no grad."""
    for number, mask in enumerate(masks.masks):
        if not (mask.is_leaf and mask.requires_grad):
            setattr(masks, f"mask{number}", mask.detach().requires_grad_())


class _Masking:
    """A hook that multiplies each head [..., H, d], or its ``width`` columns, by its mask."""

    def __init__(self, masks: HeadMasks, number: int, offset: int = 0, width: int = 0) -> None:
        self.masks, self.number, self.offset, self.width = masks, number, offset, width

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0]
        factor = self.masks.masks[self.number].to(x)
        if not self.width:
            return (x * factor[:, None], *inputs[1:])
        factor = factor.repeat_interleave(self.width)
        if self.offset:
            factor = torch.cat([factor.new_ones(self.offset), factor])
        return (x * factor, *inputs[1:])


@torch.no_grad()
def _exchange(mask: Tensor, importance: Tensor, share: float) -> None:
    """Turn the least important active heads off, and as many of the best inactive ones on."""
    active = mask > 0
    count = int(share_of(active.sum(), share))
    if count == 0:
        return
    weakest = importance.masked_fill(~active, torch.inf).argsort(stable=True)[:count]
    mask[weakest] = 0.0
    resting = importance.masked_fill(mask > 0, -torch.inf)
    mask[resting.argsort(descending=True, stable=True)[:count]] = 1.0
