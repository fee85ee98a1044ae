"""Optimisers and schedules from their configuration."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from graphattn.training.config import OptimConfig


def parameter_groups(
    model: nn.Module, weight_decay: float, decay_all: bool
) -> list[dict[str, Any]]:
    """Two groups: matrices, which decay, and vectors and scalars (biases, norms), which do not.

    Args:
        model: The network.
        weight_decay: Weight decay of the first group.
        decay_all: Put everything into the first group.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if decay_all or p.dim() > 1]
    spared = [p for p in trained if not decay_all and p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}]
    return groups + ([{"params": spared, "weight_decay": 0.0}] if spared else [])


def make_optimizer(model: nn.Module, config: OptimConfig) -> Optimizer:
    """AdamW, Adam or plain SGD over ``parameter_groups``.

    Raises:
        ValueError: If the name is none of ``adamw``, ``adam``, ``sgd``.
    """
    kinds: dict[str, Any] = {
        "adamw": torch.optim.AdamW,
        "adam": torch.optim.Adam,
        "sgd": torch.optim.SGD,
    }
    if config.name not in kinds:
        raise ValueError(f"expected optim.name adamw, adam or sgd, got {config.name!r}")
    groups = parameter_groups(model, config.weight_decay, config.decay_all)
    optimizer: torch.optim.Optimizer = kinds[config.name](groups, lr=config.lr)
    return optimizer


class Schedule:
    r"""Learning rate over epochs, with linear warm-up.

    Cosine: ``lr · ½(1 + cos(π · (epoch - warmup) / (epochs - warmup)))``; plateau: ``lr`` times
    ``plateau_factor`` whenever ``plateau_patience`` evaluations brought no improvement.

    Args:
        optimizer: Its groups are changed in place.
        config: The section ``optim``.
        epochs: Length of the run.
        larger_is_better: Direction of the validation metric, for plateau.
    """

    def __init__(
        self, optimizer: Optimizer, config: OptimConfig, epochs: int, larger_is_better: bool
    ) -> None:
        if config.schedule not in ("none", "cosine", "plateau"):
            raise ValueError(
                f"expected optim.schedule none, cosine or plateau, got {config.schedule!r}"
            )
        if config.schedule == "plateau" and config.warmup:
            raise ValueError(
                f"optim.warmup {config.warmup} does not combine with the schedule plateau, whose "
                "reductions it would overwrite; set optim.warmup 0 or optim.schedule cosine"
            )
        self._plateau: ReduceLROnPlateau | None = None
        self._by_epoch: LambdaLR | None = None
        if config.schedule == "plateau":
            self._plateau = ReduceLROnPlateau(
                optimizer,
                mode="max" if larger_is_better else "min",
                factor=config.plateau_factor,
                patience=config.plateau_patience,
            )
        else:
            self._by_epoch = LambdaLR(optimizer, lambda epoch: rate(epoch, epochs, config))

    def step(self, validation: float | None) -> None:
        """Ends an epoch; ``validation`` is None where the epoch was not evaluated."""
        if self._by_epoch is not None:
            self._by_epoch.step()
        elif self._plateau is not None and validation is not None:
            self._plateau.step(validation)

    def state_dict(self) -> dict[str, Any]:
        """State of the torch scheduler."""
        return (self._by_epoch or self._plateau).state_dict()  # type: ignore[union-attr]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores ``state_dict``."""
        (self._by_epoch or self._plateau).load_state_dict(state)  # type: ignore[union-attr]


def rate(epoch: int, epochs: int, config: OptimConfig) -> float:
    """Factor on the learning rate in ``epoch`` (counted from 0) of ``none`` and ``cosine``."""
    if epoch < config.warmup:
        return (epoch + 1) / config.warmup
    if config.schedule == "none":
        return 1.0
    done = (epoch - config.warmup) / max(1, epochs - config.warmup)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
