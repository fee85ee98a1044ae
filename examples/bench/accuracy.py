"""Accuracy: graph transformers beside their tuned baselines on small real graphs.

Every row is ``graphattn protocol`` with the arguments shown; finished runs are kept in
``runs/accuracy`` (``GRAPHATTN_RUNS`` moves ``runs``), so the table can be made in several sittings.
"""

import os
from pathlib import Path
from typing import Any

from tqdm import tqdm

from graphattn.training.arguments import parse
from graphattn.training.protocol import remarks, row, run_protocol

MODELS = ("gt", "gt-sep", "gcn", "sage", "gat")
# Row name: folder below GRAPHATTN_DATA, arguments of the protocol.
SETS = {
    "Cora (public split)": ("planetoid", ["Cora", "--loop.epochs", "200"]),
    "Cora (20 per class)": (
        "planetoid",
        ["Cora", "--data.options.split", "random", "--loop.epochs", "200"],
    ),
    "Cora_ML": ("citationfull", ["Cora_ML", "--loop.epochs", "200"]),
    "chameleon_filtered": ("heterophilous_extra", ["chameleon_filtered", "--loop.epochs", "200"]),
    "actor": ("heterophilous_extra", ["actor", "--loop.epochs", "100"]),
    "BlogCatalog": ("attributed", ["BlogCatalog", "--model.width", "64", "--loop.epochs", "100"]),
    "GitHub": ("musae", ["github", "--model.width", "64", "--loop.epochs", "60"]),
}
SEEDS = 3
RUNS = Path(os.environ.get("GRAPHATTN_RUNS", "runs"))


def protocol(arguments: list[str], out: Path, device: str, seeds: int | None) -> dict[str, Any]:
    """Summary of ``graphattn protocol`` on the first split; what is finished in ``out`` is read."""
    config, _ = parse("protocol", [*arguments, "--loop.device", device])
    summary: dict[str, Any] = run_protocol(config, out, splits="0", seeds=seeds)["summary"]
    return summary


def full_graph(name: str, model: str, data: Path, device: str) -> dict[str, Any]:
    """Summary of a model trained on the whole graph of one of ``SETS``."""
    folder, settings = SETS[name]
    shown = [*settings, "--model", model, "--root", str(data / folder)]
    out = RUNS / "accuracy" / f"{name}-{model}".replace(" ", "-")
    return protocol(shown, out, device, SEEDS)


def run(device: str, repeats: int, compiled: bool = True) -> tuple[list[dict[str, Any]], list[str]]:
    """One row per data set with a column per model; ``SEEDS`` seeds on the first split."""
    data = os.environ.get("GRAPHATTN_DATA")
    if not data:
        return [], ["left out: set GRAPHATTN_DATA to the folder that holds planetoid/, musae/, ..."]
    notes: list[str] = []
    todo = tqdm([(name, model) for name in SETS for model in MODELS], desc="accuracy")
    found: dict[str, dict[str, Any]] = {}
    for name, model in todo:
        todo.set_postfix_str(f"{name} {model}")
        settings = SETS[name][1]
        summary = full_graph(name, model, Path(data), device)
        found.setdefault(name, {"workload": name})[model] = row(summary)["test acc %"]
        if model == MODELS[0]:
            about = remarks(summary)
            notes.append(f"{name}: {about['split']}; {about['edges']}")
            arguments = " ".join([*settings, "--model MODEL --seeds", str(SEEDS)])
            notes.append(f"{name}: `graphattn protocol {arguments}`")
    return list(found.values()), notes
