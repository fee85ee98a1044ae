"""Magnitude pruning of weights on a cubic schedule, with regrowth (GraNet)."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

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


class _Masked(nn.Module):
    """A weight times its mask, at every access to it."""

    mask: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones_like(weight))

    def forward(self, weight: Tensor) -> Tensor:
        # Zeros have their gradient too: it says which of them would be worth regrowing.
        return weight + (weight * self.mask - weight).detach()

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


class WeightMasks(nn.Module):
    """Prune the smallest weights of all linear maps together, on a schedule.

    Every ``every`` calls of :meth:`step` between ``start`` and ``end`` the largest weights of the
    model stay, as many as :func:`cubic_sparsity` says; then a further share of them, falling from
    ``regrow`` to 0.005 by a cosine, is dropped and as many zeros of largest gradient are set free
    (at 0, to be learned). Call it between ``backward`` and the optimiser's step.

    Masks are parametrizations of torch, buffers in the model's state dict, and not those of
    ``torch.nn.utils.prune``: that renews a weight when its module is called, and some layers read
    ``lin_edge.weight`` without a call. This module's own state is the step.

    Args:
        model: Its two-dimensional weights of linear maps are pruned.
        density: Share of the weights that are left at the end, in (0, 1].
        start, end: Steps of the schedule.
        every: Steps between prunings.
        regrow: First share that is dropped and regrown, in [0, 1).

    Raises:
        ValueError: a number is out of range, or the model has no linear maps, lazy ones that have
            no weight yet, or masks already.

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
        super().__init__()
        check_ratio("density", density)
        if not 0.0 <= regrow < 1.0 or every < 1:
            raise ValueError(
                f"regrow must lie in [0, 1) and every be 1 or more, got {regrow}, {every}"
            )
        cubic_sparsity(0, start, end, 0.0, 1.0 - density)
        self.maps = _maps(model)
        self.density, self.start, self.end = density, start, end
        self.every, self.regrow, self.steps = every, regrow, 0
        for linear in self.maps:
            parametrize.register_parametrization(linear, "weight", _Masked(linear.weight))

    @property
    def masks(self) -> list[Tensor]:
        """The mask of every linear map."""
        return [_list(linear)[0].mask for linear in self.maps]

    @property
    def weights(self) -> list[nn.Parameter]:
        """The weight of every linear map without its mask: what the optimiser moves."""
        return [_list(linear).original for linear in self.maps]

    def get_extra_state(self) -> Tensor:
        """The step, for the state dict; masks are in the model's."""
        return torch.tensor(self.steps)

    def set_extra_state(self, state: Tensor) -> None:
        """Go on from a saved step."""
        self.steps = int(state)

    def measured(self) -> float:
        """Share of the weights that are left."""
        kept = sum(int(mask.sum()) for mask in self.masks)
        return kept / sum(mask.numel() for mask in self.masks)

    @torch.no_grad()
    def step(self) -> None:
        """Count a step; prune and regrow when it is time; zeros keep no gradient to move by."""
        self.steps += 1
        due = self.steps % self.every == 0 or self.steps == self.end
        if due and self.start <= self.steps <= self.end:
            self._prune()
        for weight, mask in zip(self.weights, self.masks, strict=True):
            if weight.grad is not None:
                weight.grad *= mask

    def _prune(self) -> None:
        sparsity = cubic_sparsity(self.steps, self.start, self.end, 0.0, 1.0 - self.density)
        size = torch.cat([linear.weight.abs().flatten() for linear in self.maps])
        kept = round((1.0 - sparsity) * size.numel())
        chosen = _largest(size, kept)
        if self.steps < self.end:
            chosen = self._regrown(size, chosen)
        self._set(chosen)

    def _regrown(self, size: Tensor, chosen: Tensor) -> Tensor:
        """Drop the smallest of those chosen; set as many zeros of largest gradient free."""
        grads = [weight.grad for weight in self.weights]
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
        for weight, mask in zip(self.weights, self.masks, strict=True):
            part = chosen[start : start + mask.numel()].view_as(mask).to(mask.dtype)
            fresh = (part > 0) & (mask == 0)
            mask.copy_(part)
            weight[fresh] = 0.0
            start += mask.numel()

    def compact(self) -> None:
        """Make the zeros permanent and take the masks away."""
        for linear, original in zip(self.maps, self.weights, strict=True):
            value = linear.weight.detach()
            # Torch's remove_parametrizations takes the property off the class, which a copy of a
            # module shares with it, so that the other one would have no weight.
            del linear.parametrizations
            linear.__class__ = type(linear).__bases__[0]
            linear.weight = nn.Parameter(value, requires_grad=original.requires_grad)


def _maps(model: nn.Module) -> list[nn.Linear]:
    """The linear maps that masks can be put on."""
    maps = [m for m in model.modules() if isinstance(m, nn.Linear)]
    name = type(model).__name__
    if any(is_lazy(linear.weight) for linear in maps):
        raise ValueError(
            f"{name} has lazy linear maps, whose weights do not exist yet; run it once, or build "
            "it with its input widths"
        )
    if any(parametrize.is_parametrized(linear) for linear in maps):
        raise ValueError(
            f"linear maps of {name} have masks or other parametrizations already; compact() those "
            "masks first, or remove the parametrizations"
        )
    maps = [linear for linear in maps if linear.weight.numel()]
    if not maps:
        raise ValueError(f"{name} has no linear maps to prune")
    return maps


def _list(linear: nn.Linear) -> Any:
    """Torch's list of what is done to a weight, with the weight itself as ``original``."""
    return linear.parametrizations["weight"]  # type: ignore[index]


def _largest(values: Tensor, count: int) -> Tensor:
    """Mask of exactly ``count`` largest values, ties by lower position."""
    mask = torch.zeros_like(values, dtype=torch.bool)
    mask[values.argsort(descending=True, stable=True)[:count]] = True
    return mask
