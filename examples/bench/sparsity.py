"""Accuracy against density on NCI1: nodes, edges, heads, layers and weights that GT can lose."""

import os
from pathlib import Path
from typing import Any

import graph_level
from torch import nn

import graphattn as ga
from graphattn.models import GraphTransformer
from graphattn.sparsify import Sparsified

DENSITIES = (0.25, 0.5, 0.75)
EPOCHS = 30


def _builder(dimension: str, density: float, steps: int) -> Any:
    """A GT with one dimension pruned to ``density``."""
    given: dict[str, Any] = {dimension: density}
    if dimension == "skip":
        given = {"skip": 1.0 - density}
    if dimension == "weights":
        schedule = {"start": steps // 8, "end": 3 * steps // 4, "every": max(steps // 20, 1)}
        given["weight_options"] = schedule
    if dimension == "heads":
        given["head_options"] = {"every": max(steps // 10, 1)}

    def make(channels: int, out: int) -> nn.Module:
        size = (channels, graph_level.WIDTH, out, graph_level.LAYERS, graph_level.HEADS)
        model = GraphTransformer(*size, norm="batch", dropout=0.2, pool="mean")
        pruned = Sparsified(model, channels, **given)
        pruned.self_loops = True
        return pruned

    return make


def run(device: str, repeats: int, compiled: bool = True) -> tuple[list[dict[str, Any]], list[str]]:
    """One row per dimension with a column per density, and a picture."""
    root = os.environ.get("GRAPHATTN_DATA")
    if not root or device != "cpu":
        return [], ["left out: runs on the CPU, with GRAPHATTN_DATA set to the data folder"]
    dataset = ga.load_dataset("NCI1", str(Path(root, "tu_gin")), download=False)
    steps = EPOCHS * -(-len(dataset.splits[0]["train"]) // graph_level.BATCH)
    rows = []
    for dimension in ("nodes", "edges", "heads", "skip", "weights"):
        shown = "layers (skipped in training)" if dimension == "skip" else dimension
        row: dict[str, Any] = {"workload": shown}
        for density in (*DENSITIES, 1.0):
            # All dimensions at 1 are one and the same model.
            what = f"{dimension}-{density}" if density < 1.0 else "whole"
            row[f"{density:.0%}"] = graph_level.kept(
                Path("runs/sparsity") / f"{what}.json",
                lambda dimension=dimension, density=density: graph_level.fit(
                    dataset,
                    _builder(dimension, density, steps),
                    epochs=EPOCHS,
                    after_backward=lambda model: model.step(),
                    name=f"{dimension} {density}",
                )[0],
            )
        rows.append(row)
    _draw(rows)
    return rows, [f"NCI1, {dataset.metric}, fold 0, seed 0, {EPOCHS} epochs; {dataset.split_note}"]


def _draw(rows: list[dict[str, Any]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from report import RESULTS

    RESULTS.mkdir(exist_ok=True)
    figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
    for row in rows:
        points = [(float(k.rstrip("%")) / 100, v) for k, v in row.items() if k != "workload"]
        axes.plot(*zip(*points, strict=True), marker="o", label=row["workload"])
    axes.set_xlabel("density")
    axes.set_ylabel("test accuracy, NCI1")
    axes.legend()
    figure.savefig(RESULTS / "sparsity-cpu.png", dpi=110)
    plt.close(figure)
