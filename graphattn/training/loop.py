"""Training: full-graph steps or mini-batches, the best validation epoch kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from graphattn.graph import CSRGraph
from graphattn.nn.sums import summed
from graphattn.ops._dispatch import resolve
from graphattn.training import tasks
from graphattn.training.config import TrainConfig
from graphattn.training.distributed import share_of, sum_gradients
from graphattn.training.inputs import Inputs, Step
from graphattn.training.optim import Schedule, make_optimizer
from graphattn.training.seed import rng_state, set_rng_state

_PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Autocast to ``bf16`` or ``fp16``; without effect for ``fp32``.

    Raises:
        ValueError: If the precision is none of these.
    """
    if precision not in _PRECISIONS:
        raise ValueError(f"expected loop.precision {', '.join(_PRECISIONS)}, got {precision!r}")
    dtype = _PRECISIONS[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


@dataclass(frozen=True)
class Supervision:
    """The labels a training loop may see: those of training and validation nodes.

    Attributes:
        train: int64 [n] node indices.
        train_labels: Labels of those nodes, in their order.
        valid: int64 [m] node indices.
        valid_labels: Labels of those nodes, in their order.
        task: One of ``tasks.TASKS``.
        metric: Name of the metric.
        evaluate: ``evaluate(scores, labels) -> float``.
    """

    train: Tensor
    train_labels: Tensor
    valid: Tensor
    valid_labels: Tensor
    task: str
    metric: str
    evaluate: Callable[[Tensor, Tensor], float]

    def to(self, device: torch.device) -> Supervision:
        """Indices and training labels on ``device``."""
        return Supervision(
            self.train.to(device),
            self.train_labels.to(device),
            self.valid.to(device),
            self.valid_labels,
            self.task,
            self.metric,
            self.evaluate,
        )


@dataclass
class Best:
    """Scores at the best validation epoch so far; ``epoch`` 0 means none yet."""

    epoch: int = 0
    valid: float = math.nan
    train: float = math.nan


def _compiled(model: nn.Module) -> Callable[..., Any]:
    """The compiled model, called with graphs whose plans are made: else each step made its own."""
    forward = torch.compile(model)

    def call(*arguments: Any) -> Any:
        for graph in arguments:
            if isinstance(graph, CSRGraph):
                graph.layout(resolve("auto", graph.device))
        return forward(*arguments)

    return call


class Trainer:
    """Trains one model on one graph.

    It holds no test labels: the test score is a separate call (``evaluate.test_score``) on the
    weights of the best validation epoch, which ``best_weights`` holds until they are written.

    Args:
        model: ``model(*arguments of a step) -> outputs``, on its device.
        inputs: What feeds it: the full graph, or batches.
        supervision: Training and validation labels.
        config: Sections ``optim`` and ``loop`` are used.
    """

    def __init__(
        self, model: nn.Module, inputs: Inputs, supervision: Supervision, config: TrainConfig
    ) -> None:
        self.config, self.model, self.inputs = config, model, inputs
        self.device = inputs.device
        self.supervision = supervision.to(self.device)
        self._forward = _compiled(model) if config.loop.compile else model
        self.optimizer = make_optimizer(model, config.optim)
        self.larger_is_better = tasks.larger_is_better(supervision.metric)
        self.schedule = Schedule(
            self.optimizer, config.optim, config.loop.epochs, self.larger_is_better
        )
        # bf16 has float32's range; only fp16 needs its gradients scaled.
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=config.loop.precision == "fp16"
        )
        self.epoch = 0
        self.best = Best()
        self.best_weights: dict[str, Tensor] | None = None

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or patience has run out."""
        loop = self.config.loop
        stalled = self.best.epoch > 0 and self.epoch - self.best.epoch >= loop.patience > 0
        return self.epoch >= loop.epochs or stalled

    def run_epoch(self) -> dict[str, Any]:
        """Trains one pass, evaluates if the epoch is due, and returns the entry to record.

        Raises:
            FloatingPointError: If the loss or a score is NaN or infinite.
        """
        rate = self.optimizer.param_groups[0]["lr"]
        start = time.perf_counter()
        loss = self._train()
        self.epoch += 1
        seconds = time.perf_counter() - start
        if not math.isfinite(loss):
            raise self._diverged(f"the loss became {loss}", rate)
        entry = {"epoch": self.epoch, "loss": loss, "lr": rate, "seconds": seconds}
        loop = self.config.loop
        valid = None
        if self.epoch % loop.eval_every == 0 or self.epoch == loop.epochs:
            entry |= self._validate(rate)
            valid = entry["valid"]
        self.schedule.step(valid)
        return entry

    def _train(self) -> float:
        """One pass over the training nodes -> mean loss over their labels."""
        self.model.train()
        self.inputs.start_epoch(self.model, self.epoch)
        total = labels = 0.0
        for step in self.inputs.steps(self.supervision.train, self.epoch):
            loss, count = self._train_step(step)
            total, labels = total + loss * count, labels + count
        return total / labels if labels else math.nan

    def _train_step(self, step: Step) -> tuple[float, float]:
        """Mean loss over the labels of a step, on all ranks, and their number."""
        self.optimizer.zero_grad(set_to_none=True)
        seen = self.supervision
        labels = seen.train_labels[step.places]
        outputs = self._outputs(*step.arguments)
        loss = tasks.loss(seen.task, outputs[step.rows], labels)
        share, count = share_of(float(tasks.count(seen.task, labels)), self.device)
        loss = loss if share == 1.0 else loss * share if share else outputs.sum() * 0.0
        self.scaler.scale(loss).backward()
        sum_gradients(self.model)
        if self.config.optim.clip > 0:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return float(summed(loss.detach())), count

    @torch.no_grad()
    def _validate(self, rate: float) -> dict[str, float]:
        self.model.eval()
        seen = self.supervision
        nodes = torch.cat([seen.valid, seen.train])
        with autocast(self.device, self.config.loop.precision):
            outputs = self.inputs.outputs(self._forward, self.model, nodes)
        scores = tasks.scores(seen.task, outputs)
        of_valid, of_train = scores[: len(seen.valid)], scores[len(seen.valid) :]
        if not (of_valid.isfinite().all() and of_train.isfinite().all()):
            raise self._diverged("the scores became NaN or infinite", rate)
        valid = seen.evaluate(of_valid, seen.valid_labels)
        train = seen.evaluate(of_train, seen.train_labels)
        sign = 1 if self.larger_is_better else -1
        if not self.best.epoch or sign * valid > sign * self.best.valid:
            self.best = Best(self.epoch, valid, train)
            state = self.model.state_dict()
            self.best_weights = {key: value.cpu().clone() for key, value in state.items()}
        return {"train": train, "valid": valid}

    def _outputs(self, *arguments: Any) -> Tensor:
        with autocast(self.device, self.config.loop.precision):
            return cast(Tensor, self._forward(*arguments))

    def _diverged(self, what: str, rate: float) -> FloatingPointError:
        return FloatingPointError(
            f"{what} in epoch {self.epoch}; lower the learning rate (--optim.lr, "
            f"now {rate:g}), clip gradients (--optim.clip 1), warm up (--optim.warmup 10), or "
            f"train in fp32 (--loop.precision, now {self.config.loop.precision})"
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resume needs to go on to the same numbers."""
        return {
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best": asdict(self.best),
            "rng": rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores ``state_dict``, the random number generators included."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch = state["epoch"]
        self.best = Best(**state["best"])
        set_rng_state(state["rng"])
