"""What a task needs from a model: how many outputs, which loss, and which scores."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TASKS = ("multiclass", "binary", "multilabel", "regression")


def check_task(task: str) -> None:
    """Raises ``ValueError`` unless ``task`` is one of ``TASKS``."""
    if task not in TASKS:
        raise ValueError(f"expected a task among {', '.join(TASKS)}, got {task!r}")


def out_channels(task: str, num_classes: int) -> int:
    """Outputs per node: one logit for a binary task, else ``num_classes``."""
    check_task(task)
    return 1 if task == "binary" else num_classes


def loss(task: str, outputs: Tensor, labels: Tensor) -> Tensor:
    r"""Mean loss over the labelled rows.

    Cross entropy for ``multiclass``; binary cross entropy with logits for ``binary`` and
    ``multilabel``; mean absolute error for ``regression``. Labels that are NaN or -1 are left out.
    Computed in float32 (float64 for float64) also under autocast.

    Args:
        task: One of ``TASKS``.
        outputs: [n, out_channels].
        labels: int64 [n], or float32 [n, T].
    """
    check_task(task)
    outputs = outputs if outputs.dtype == torch.float64 else outputs.float()
    if task == "multiclass":
        return F.cross_entropy(outputs, labels.view(-1), ignore_index=-1)
    labels = labels.view(outputs.shape).to(outputs.dtype)
    known = (labels == labels) if task == "regression" else (labels >= 0)
    outputs, labels = outputs[known], labels[known]
    if task == "regression":
        return F.l1_loss(outputs, labels)
    return F.binary_cross_entropy_with_logits(outputs, labels)


def count(task: str, labels: Tensor) -> int:
    """Labels that :func:`loss` averages over."""
    check_task(task)
    if task == "multiclass":
        return int((labels != -1).sum())
    return int((labels == labels).sum() if task == "regression" else (labels >= 0).sum())


def scores(task: str, outputs: Tensor) -> Tensor:
    """What the data set's ``evaluate`` expects: one logit per row if binary, else all outputs."""
    check_task(task)
    return outputs.float().squeeze(-1) if task == "binary" else outputs.float()


def larger_is_better(metric: str) -> bool:
    """False for errors such as ``rmse`` and ``mae``."""
    return metric not in ("rmse", "mae", "mse")
