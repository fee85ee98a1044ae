"""Magnitude pruning of weights on a cubic schedule, with regrowth (GraNet)."""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from graphattn.sparsify.select import check_ratio


def cubic_sparsity(step: int, start: int, end: int, first: float, last: float) -> float:
    r"""Zhu and Gupta's schedule: ``first`` until ``start``, ``last`` from ``end`` on, flat there.

    .. math::
        s(t) = s_1 + (s_0 - s_1) \Big(1 - \frac{t - t_0}{t_1 - t_0}\Big)^3
    """
    if end <= start:
        raise ValueError(f"end must lie after start, got {start} and {end}")
    done = min(max((step - start) / (end - start), 0.0), 1.0)
    return first if done == 0.0 else last + (first - last) * (1.0 - done) ** 3


class WeightMasks:
    """Prune the smallest weights of all linear maps together, on a schedule.

    Every ``every`` calls of :meth:`step` between ``start`` and ``end`` the largest weights of the
    model stay, as many as :func:`cubic_sparsity` says; then a further share of them, falling from
    ``regrow`` to 0.005 by a cosine, is dropped and as many zeros of largest gradient are set free
    (at 0, to be learned). Masks are those of ``torch.nn.utils.prune``. Call it between ``backward``
    and the optimiser's step.

    Args:
        model: Its two-dimensional weights of linear maps are pruned.
        density: Share of the weights that are left at the end, in (0, 1].
        start, end: Steps of the schedule.
        every: Steps between prunings.
        regrow: First share that is dropped and regrown, in [0, 1).

    Zeros make a dense product no faster; :meth:`compact` makes them permanent, for storage.
    Papers: Liu et al., 2021 (GraNet); Liu et al., 2023, https://arxiv.org/abs/2312.05479 (GTSP).
    """

    def __init__(
        self,
        model: nn.Module,
        density: float,
        *,
        start: int = 0,
        end: int = 1000,
        every: int = 200,
        regrow: float = 0.5,
    ) -> None:
        check_ratio("density", density)
        if not 0.0 <= regrow < 1.0 or every < 1:
            raise ValueError(
                f"regrow must lie in [0, 1) and every be 1 or more, got {regrow}, {every}"
            )
        cubic_sparsity(0, start, end, 0.0, 1.0 - density)
        self.maps = [m for m in model.modules() if isinstance(m, nn.Linear) and m.weight.numel()]
        if not self.maps:
            raise ValueError(f"{type(model).__name__} has no linear maps to prune")
        self.density, self.start, self.end = density, start, end
        self.every, self.regrow, self.steps = every, regrow, 0
        for linear in self.maps:
            prune.identity(linear, "weight")

    @property
    def masks(self) -> list[Tensor]:
        """The mask of every linear map."""
        return [linear.weight_mask for linear in self.maps]  # type: ignore[misc]

    def measured(self) -> float:
        """Share of the weights that are left."""
        kept = sum(int(mask.sum()) for mask in self.masks)
        return kept / sum(mask.numel() for mask in self.masks)

    @torch.no_grad()
    def step(self) -> None:
        """Count a step; prune and regrow when it is time."""
        self.steps += 1
        due = self.steps % self.every == 0 or self.steps == self.end
        if not due or not self.start <= self.steps <= self.end:
            return
        sparsity = cubic_sparsity(self.steps, self.start, self.end, 0.0, 1.0 - self.density)
        weights = [linear.weight_orig for linear in self.maps]
        size = torch.cat(
            [(w * m).abs().flatten() for w, m in zip(weights, self.masks, strict=True)]
        )
        kept = round((1.0 - sparsity) * size.numel())
        chosen = _largest(size, kept)
        if self.steps < self.end:
            chosen = self._regrown(size, chosen)
        self._set(chosen)

    def _regrown(self, size: Tensor, chosen: Tensor) -> Tensor:
        """Drop the smallest of those chosen; set as many zeros of largest gradient free."""
        grads = [linear.weight_orig.grad for linear in self.maps]
        if any(g is None for g in grads):
            return chosen
        slope = torch.cat([g.abs().flatten() for g in grads if g is not None])
        done = (self.steps - self.start) / (self.end - self.start)
        share = 0.005 + 0.5 * (self.regrow - 0.005) * (1.0 + math.cos(math.pi * done))
        count = min(int(share * int(chosen.sum())), int((~chosen).sum()))
        left = _largest(size.masked_fill(~chosen, -1.0), int(chosen.sum()) - count)
        grown = _largest(slope.masked_fill(chosen, -1.0), count)
        return left | (grown & ~chosen)

    def _set(self, chosen: Tensor) -> None:
        start = 0
        for linear, mask in zip(self.maps, self.masks, strict=True):
            part = chosen[start : start + mask.numel()].view_as(mask).to(mask.dtype)
            fresh = (part > 0) & (mask == 0)
            mask.copy_(part)
            linear.weight_orig[fresh] = 0.0  # type: ignore[operator]
            start += mask.numel()

    def settle(self) -> None:
        """Forget how the masked weights came about, so that the model can be copied."""
        for linear, mask in zip(self.maps, self.masks, strict=True):
            linear.weight = (linear.weight_orig * mask).detach()  # type: ignore[assignment]

    def compact(self) -> None:
        """Make the zeros permanent and take the masks away."""
        for linear in self.maps:
            prune.remove(linear, "weight")


def _largest(values: Tensor, count: int) -> Tensor:
    """Mask of exactly ``count`` largest values, ties by lower position."""
    mask = torch.zeros_like(values, dtype=torch.bool)
    mask[values.argsort(descending=True, stable=True)[:count]] = True
    return mask
