"""Scores of a trained model: exact inference, every neighbour read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from graphattn.training import tasks
from graphattn.training.checkpoint import BEST, load_weights
from graphattn.training.config import TrainConfig
from graphattn.training.inputs import Inputs
from graphattn.training.loop import autocast

if TYPE_CHECKING:
    from graphattn.datasets.base import NodeDataset
    from graphattn.training.build import Prepared


@torch.no_grad()
def predict(
    model: nn.Module,
    inputs: Inputs,
    task: str,
    precision: str = "fp32",
    nodes: Tensor | None = None,
) -> Tensor:
    """Scores of nodes on the CPU; every neighbour of every node is read.

    Args:
        model: The network; it is left in evaluation mode.
        inputs: Its inputs, on its device.
        task: One of ``tasks.TASKS``.
        precision: As in training, so that the validation score is the one that chose the epoch.
        nodes: Which; ``None`` is all N.

    Returns:
        [n] for a binary task, else [n, C].
    """
    model.eval()
    with autocast(inputs.device, precision):
        outputs = inputs.outputs(model, model, nodes)
    return tasks.scores(task, outputs).cpu()


def score(dataset: NodeDataset, scores: Tensor, nodes: Tensor) -> float | None:
    """The data set's metric for the ``scores`` of ``nodes``; None if there are none of them."""
    if not len(nodes):
        return None
    return dataset.evaluate(scores, dataset.data.y[nodes])


def best_scores(run: Prepared, folder: Path, precision: str = "fp32") -> dict[str, float | None]:
    """Train, validation and test score of ``best.safetensors`` in a run folder.

    The one place where test labels are read.
    """
    load_weights(folder / BEST, run.model)
    nodes = torch.cat(list(run.split.values()))
    found = predict(run.model, run.inputs, run.dataset.task, precision, nodes)
    parts = found.split([len(part) for part in run.split.values()])
    return {
        name: score(run.dataset, scores, part)
        for (name, part), scores in zip(run.split.items(), parts, strict=True)
    }


def evaluate_run(config: TrainConfig, folder: Path) -> dict[str, Any]:
    """Loads a run's data and best weights, and computes its scores anew.

    Args:
        config: The run's configuration (``config.yaml``, perhaps with another data root).
        folder: The run folder.
    """
    from graphattn.training.build import prepare

    run = prepare(config)
    return describe_run(config, run) | best_scores(run, folder, config.loop.precision)


def describe_run(config: TrainConfig, run: Prepared) -> dict[str, Any]:
    """What was trained on what: the first fields of ``result.json``."""
    return {
        "data": run.dataset.name,
        "model": config.model.name,
        "seed": config.loop.seed,
        "split": config.data.split,
        "metric": run.dataset.metric,
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "split_note": run.dataset.split_note,
        "edge_note": run.dataset.edge_note,
    }
