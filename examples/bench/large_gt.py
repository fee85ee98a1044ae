"""LargeGT and sampled neighbourhoods beside full-graph transformers and tuned baselines.

Real graphs that fit in memory, so that the full graph can stand beside what batches reach. Every
cell is ``graphattn protocol`` with the arguments in the notes; finished runs are kept in
``runs/large-gt`` (``GRAPHATTN_RUNS`` moves ``runs``): the table can be made in several sittings.
The columns of the full graph are those of ``node-level`` where it has the set, else the cells and
runs of the families ``accuracy`` and ``minesweeper``.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

import minesweeper
from accuracy import RUNS, SEEDS, protocol
from accuracy import full_graph as _accuracy
from report import written
from tqdm import tqdm

from graphattn.training.protocol import row as table_row

# With the norm: as published (batch), or layer norm, which keeps no averages that lag behind codes.
VARIANTS = (("local", ""), ("global", ""), ("global", "layer"), ("full", ""))
BASELINES = ("gcn", "sage", "gat")
FULL_GRAPH = ("gt, full graph", "baseline")  # columns
TABLES = ("node-level", "large-gt")  # that have them


class Batches(NamedTuple):
    """How a data set is trained in batches.

    Attributes:
        folder: Below ``GRAPHATTN_DATA``.
        name: Of the data set.
        seeds: Of a batch.
        epochs: Of the transformer in batches: as many steps as the full-graph run has.
        large: Epochs of LargeGT.
        transformer: Further arguments of the transformer, those of the full-graph run.
    """

    folder: str
    name: str
    seeds: int
    epochs: int
    large: int
    transformer: list[str]


SETS = {
    "Cora_ML": Batches("citationfull", "Cora_ML", 512, 50, 50, []),
    "actor": Batches("heterophilous_extra", "actor", 1024, 25, 50, []),
    "minesweeper": Batches(
        "heterophilous", "minesweeper", 1024, 30, 100, [*minesweeper.DEFAULT, "--optim.warmup", "2"]
    ),
    "BlogCatalog": Batches("attributed", "BlogCatalog", 1024, 25, 25, ["--model.width", "64"]),
    "GitHub": Batches("musae", "github", 2048, 5, 10, ["--model.width", "64"]),
}
# Six hops of a board, or four of the others: what the model reads, with the widest rows cut.
FANOUTS = {"minesweeper": [8, 8, 8, 8, 8, 8]}
TOKENS, CODES, WIDTH = 20, 512, 64


def columns(name: str) -> dict[str, list[str]]:
    """Arguments of the runs in batches, by column of the table."""
    own = SETS[name]
    batch = ["--sampling.batch_size", str(own.seeds)]
    fanouts = str(FANOUTS.get(name, [15, 10, 5, 5]))
    sampled = [*own.transformer, *batch, "--sampling.num_neighbors", fanouts]
    found = {
        "gt in batches": [own.name, "--model", "gt", *sampled, "--loop.epochs", str(own.epochs)]
    }
    for variant, norm in VARIANTS:
        options = f"{{variant: {variant}, num_codes: {CODES}}}"
        settings = ["--model.width", str(WIDTH), "--model.options", options, *batch]
        settings += ["--sampling.tokens", str(TOKENS), "--encoding.k", "32"]
        settings += ["--loop.epochs", str(own.large), "--loop.eval_every", "2"]
        settings += ["--model.norm", norm] if norm else []
        column = f"large-gt {variant}" + (f", {norm} norm" if norm else "")
        found[column] = [own.name, "--model", "large-gt", *settings]
    return found


def full_graph(name: str, data: Path, device: str) -> dict[str, str]:
    """The cells of runs on the whole graph: the transformer, and the best baseline.

    Read from a table that has them, else run: delete the row to run them anew.
    """
    for row in (row for family in TABLES for row in written(family, device)):
        if row["workload"] == name:
            return {column: row[column] for column in FULL_GRAPH}
    if name == "minesweeper":
        gt = cell(minesweeper.entry("make train, published file", data, device))
        best, summary = "gcn", minesweeper.entry("gcn", data, device)
    else:
        known = {row["workload"]: row for row in written("accuracy", device)}
        gt = known[name]["gt"] if name in known else cell(_accuracy(name, "gt", data, device))
        found = {model: _accuracy(name, model, data, device) for model in BASELINES}
        best, summary = max(found.items(), key=lambda item: item[1]["valid"]["mean"])
    return dict(zip(FULL_GRAPH, (gt, f"{best} {cell(summary)}"), strict=True))


def cell(summary: dict[str, Any]) -> str:
    """Test score with its deviation, in percent."""
    return next(value for key, value in table_row(summary).items() if key.startswith("test "))


def run(device: str, repeats: int, compiled: bool = True) -> tuple[list[dict[str, Any]], list[str]]:
    """One row per data set; ``SEEDS`` seeds on the first split."""
    data = os.environ.get("GRAPHATTN_DATA")
    if not data:
        return [], [
            "left out: set GRAPHATTN_DATA to the folder that holds musae/, attributed/, ..."
        ]
    rows, notes = [], []
    for name in tqdm(SETS, desc="large-gt"):
        found = {"workload": name} | full_graph(name, Path(data), device)
        for column, arguments in columns(name).items():
            out = RUNS / "large-gt" / f"{name}-{column}".replace(" ", "-")
            root = ["--root", str(Path(data, SETS[name].folder))]
            summary = protocol([*arguments, *root], out, device, SEEDS)
            found[column] = cell(summary)
            notes.append(f"{name}, {column}: `graphattn protocol {' '.join(arguments)}`")
        rows.append(found)
    notes.append("the baseline of a row is the best of gcn, sage and gat by validation")
    notes.append("gt in batches: as many optimiser steps as on the full graph")
    return rows, notes
