"""Interleaved timing: the machine drifts, so peers take turns and only ratios are quoted."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Call = Callable[[], object]
PAUSE = 0.02
"""Seconds between calls on the CPU."""


@dataclass(frozen=True)
class Times:
    """Seconds of one contestant over its repetitions."""

    p20: float
    p50: float
    p80: float

    @property
    def spread(self) -> str:
        """The three in milliseconds."""
        return "/".join(f"{1e3 * t:.4g}" for t in (self.p20, self.p50, self.p80))


def interleave(calls: dict[str, Call], repeats: int, device: str) -> dict[str, Times]:
    """Run every call once per round for ``repeats`` rounds after one warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for round_number in range(repeats + 1):
        for name, call in calls.items():
            _settle(device)
            start = time.perf_counter()
            call()
            _wait(device)
            if round_number:
                seconds[name].append(time.perf_counter() - start)
    return {name: _percentiles(values) for name, values in seconds.items()}


def no_grad(call: Callable[..., Tensor], leaves: list[Tensor]) -> Call:
    """The forward pass alone."""

    def once() -> object:
        with torch.no_grad():
            return call(*leaves)

    return once


def training(call: Callable[..., Tensor], leaves: list[Tensor], grad: Tensor) -> Call:
    """Forward and backward pass to all leaves."""

    def once() -> object:
        out = call(*leaves)
        return torch.autograd.grad(out, leaves, grad.view_as(out))

    return once


def _percentiles(values: list[float]) -> Times:
    if len(values) < 2:
        return Times(values[0], values[0], values[0])
    cuts = statistics.quantiles(values, n=5, method="inclusive")
    return Times(cuts[0], statistics.median(values), cuts[3])


def _settle(device: str) -> None:
    """Let what was called before come to rest.

    OpenMP spins for a millisecond or two after a call, on the core that the next one wants;
    without a pause it would pay for standing behind that peer in the round.
    """
    _wait(device)
    if device == "cpu":
        time.sleep(PAUSE)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
