"""Node-level accuracy: the layers' models beside the graph transformer and the best baseline.

Every cell is ``graphattn protocol`` with the arguments in the notes. Finished runs are kept in
``runs/node-level`` (``GRAPHATTN_RUNS`` moves ``runs``); the transformer and the baselines are read
from the last table, or are the runs of the families ``accuracy`` and ``minesweeper``.
"""

import os
from pathlib import Path
from typing import Any

import minesweeper
from accuracy import RUNS, SEEDS, SETS, protocol
from large_gt import cell, full_graph
from tqdm import tqdm

NAMES = ("gin-attention", "pna-attention", "tangnn", "sinc")
# As the transformer's own runs on these sets, which stand beside.
CHOSEN = {
    name: SETS[name] for name in ("Cora (public split)", "Cora_ML", "chameleon_filtered", "GitHub")
}
CHOSEN["minesweeper"] = ("heterophilous", ["minesweeper", *minesweeper.DEFAULT])


def run(device: str, repeats: int, compiled: bool = True) -> tuple[list[dict[str, Any]], list[str]]:
    """One row per data set with a column per model; ``SEEDS`` seeds on the first split."""
    data = os.environ.get("GRAPHATTN_DATA")
    if not data:
        return [], ["left out: set GRAPHATTN_DATA to the folder that holds planetoid/, musae/, ..."]
    rows: dict[str, dict[str, Any]] = {}
    todo = tqdm([(name, model) for name in CHOSEN for model in NAMES], desc="node-level")
    for name, model in todo:
        todo.set_postfix_str(f"{name} {model}")
        if name not in rows:
            rows[name] = {"workload": name} | full_graph(name, Path(data), device)
        folder, settings = CHOSEN[name]
        arguments = [*settings, "--model", model]
        out = RUNS / "node-level" / f"{name}-{model}".replace(" ", "-")
        summary = protocol([*arguments, "--root", str(Path(data, folder))], out, device, SEEDS)
        rows[name][model] = cell(summary)
    notes = [
        f"{name}: `graphattn protocol {' '.join(CHOSEN[name][1])} --model MODEL --seeds {SEEDS}`"
        for name in rows
    ]
    notes.append("the baseline of a row is the best of gcn, sage and gat by validation")
    return list(rows.values()), notes
