"""Metrics by name, and OGB's own Evaluator behind the same two-argument call."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

METRICS = ("acc", "rocauc", "ap", "rmse")
_IMPORT_LOCK = threading.Lock()


@dataclass(frozen=True)
class Evaluator:
    """``evaluator(scores, labels) -> float``; picklable, and equal to one made from the same spec.

    Attributes:
        spec: A metric name, or ``"ogb:NAME"`` for OGB's Evaluator of that data set.
    """

    spec: str

    def __call__(self, scores: Tensor, labels: Tensor) -> float:
        """Evaluates.

        Args:
            scores: [n] or [n, K]: class scores or integer predictions for ``acc``; one score per
                row (or two, one per class) for a binary ``rocauc``/``ap``; [n, T] for T tasks.
            labels: [n], [n, 1] or [n, T]; NaN labels are left out.

        Returns:
            The metric; larger is better except for ``rmse``.

        Raises:
            ValueError: If nothing is given to evaluate, sizes differ, or a score is NaN.
        """
        metric = _ogb_info(self.spec)[1] if self.spec.startswith("ogb:") else self.spec
        scores, labels = _shape(metric, scores.detach().cpu(), labels.detach().cpu())
        if self.spec.startswith("ogb:"):
            return _ogb_evaluate(self.spec, metric, scores, labels)
        return _FUNCTIONS[metric](scores, labels)


def evaluator(spec: str) -> Evaluator:
    """Makes the evaluator of a metric, or of an OGB data set.

    Args:
        spec: ``"acc"``, ``"rocauc"``, ``"ap"``, ``"rmse"``, or ``"ogb:ogbn-arxiv"`` and the like.

    Raises:
        ValueError: If the metric is unknown.
    """
    if spec not in METRICS and not spec.startswith(("ogb:ogbn-", "ogb:ogbg-")):
        raise ValueError(f"unknown metric {spec!r}; expected one of {', '.join(METRICS)}")
    return Evaluator(spec)


def _shape(metric: str, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Both as [n, T]; class scores become predictions, two binary columns become one score."""
    if labels.shape[:1] != scores.shape[:1]:
        raise ValueError(f"{scores.shape[0]} scores but {labels.shape[0]} labels")
    if not len(labels):
        raise ValueError("nothing to evaluate: 0 rows; is the split empty?")
    bad = (
        int((~torch.isfinite(scores)).flatten(1).any(1).sum())
        if scores.dim() > 1
        else int((~torch.isfinite(scores)).sum())
    )
    if bad:
        raise ValueError(f"{bad} of {len(scores)} scores are NaN or infinite: the model diverged")
    labels = labels.view(len(labels), -1)
    if metric == "acc" and scores.dim() == 2 and scores.shape[1] > 1 and labels.shape[1] == 1:
        scores = scores.argmax(1)
    elif scores.dim() == 2 and scores.shape[1] == 2 and labels.shape[1] == 1:
        scores = scores[:, 1] - scores[:, 0]
    scores = scores.reshape(len(scores), -1)
    if scores.shape != labels.shape:
        raise ValueError(
            f"{metric} expected scores of shape {list(labels.shape)} like the labels, got "
            f"{list(scores.shape)}"
        )
    if metric == "acc" and scores.is_floating_point():
        scores = (scores > 0).to(labels.dtype)  # one logit per binary task
    return scores, labels


def _per_task(scores: Tensor, labels: Tensor, function: Any, needs_both: bool) -> float:
    values = []
    for task in range(labels.shape[1]):
        column = labels[:, task]
        known = (
            ~torch.isnan(column) if column.is_floating_point() else torch.ones_like(column).bool()
        )
        truth, score = column[known].numpy(), scores[known, task].numpy()
        if not needs_both or (0 < truth.sum() < len(truth)):
            values.append(float(function(truth, score)))
    if not values:
        raise ValueError("every task has labels of one class only: the metric is undefined")
    return sum(values) / len(values)


def _accuracy(scores: Tensor, labels: Tensor) -> float:
    return _per_task(scores, labels, lambda truth, score: (truth == score).mean(), False)


def _rmse(scores: Tensor, labels: Tensor) -> float:
    square = lambda truth, score: ((truth - score) ** 2).mean() ** 0.5  # noqa: E731
    return _per_task(scores, labels, square, False)


def _rocauc(scores: Tensor, labels: Tensor) -> float:
    from sklearn.metrics import roc_auc_score

    return _per_task(scores, labels, roc_auc_score, True)


def _average_precision(scores: Tensor, labels: Tensor) -> float:
    from sklearn.metrics import average_precision_score

    return _per_task(scores, labels, average_precision_score, True)


_FUNCTIONS = {"acc": _accuracy, "rocauc": _rocauc, "ap": _average_precision, "rmse": _rmse}


@lru_cache
def _ogb_info(spec: str) -> tuple[Any, str]:
    with _quiet_ogb():
        if spec.startswith("ogb:ogbn-"):
            from ogb.nodeproppred.evaluate import Evaluator as OGBEvaluator
        else:
            from ogb.graphproppred.evaluate import Evaluator as OGBEvaluator
    official = OGBEvaluator(spec.removeprefix("ogb:"))
    return official, official.eval_metric


def _ogb_evaluate(spec: str, metric: str, scores: Tensor, labels: Tensor) -> float:
    official, _ = _ogb_info(spec)
    if labels.shape[1] != official.num_tasks:
        raise ValueError(
            f"{official.name} has {official.num_tasks} tasks: expected labels of shape "
            f"[n, {official.num_tasks}], got {list(labels.shape)}"
        )
    return float(official.eval({"y_true": labels.numpy(), "y_pred": scores.numpy()})[metric])


@contextmanager
def _quiet_ogb() -> Iterator[None]:
    """Imports ogb without the thread that asks a package index for a newer version.

    ``ogb/version.py`` starts it when ``outdated`` can be imported, and does without otherwise.
    """
    with _IMPORT_LOCK:
        if "ogb" in sys.modules:
            yield
            return
        hidden = sys.modules.get("outdated")
        sys.modules["outdated"] = None  # type: ignore[assignment]
        try:
            yield
        finally:
            if hidden is None:
                del sys.modules["outdated"]
            else:
                sys.modules["outdated"] = hidden
