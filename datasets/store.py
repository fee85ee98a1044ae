"""A graph store (``graphattn partition``) as a data set: everything stays on the disk.

``data.csr`` is the graph in the place of ``edge_index``; ``data.x`` keeps its stored dtype, as do
``part``, ``pe`` and ``hop1, hop2, ...`` where the store has them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from graphattn.datasets.base import NodeDataset, Split, announce
from graphattn.datasets.metrics import evaluator
from graphattn.datasets.splits import PARTS, check_labels, check_splits
from graphattn.graph.store import Store


def load(path: Path) -> NodeDataset:
    """Opens the store ``path``.

    Raises:
        ValueError: If the store is damaged, has no labels, or splits and labels fail a check.
    """
    from torch_geometric.data import Data

    store = Store(path)
    about = store.meta["extra"]
    if "task" not in about or "y" not in store.names:
        raise ValueError(f"{path} has no labels; build it from a data set with graphattn partition")
    data = Data(num_nodes=store.num_nodes, y=store.array("y"))
    if "x" in store.names:
        data.x = store.array("x")
    for name in store.names:
        if name in ("part", "pe") or name.startswith("hop"):
            data[name] = store.array(name)
    data.hop_direction = about.get("hop_direction")
    data.csr, data.csr_undirected = store.graph, store.meta["undirected"]
    splits = [_split(store, number) for number in range(about["splits"])]
    check_splits(splits, store.num_nodes, store.meta["name"])
    check_labels(data.y, splits, about["num_classes"], about["task"], store.meta["name"])
    announce(f"{store.meta['name']}: {about['edge_note']} (store {path})")
    return NodeDataset(
        data, splits, about["metric"], evaluator(about["evaluate"]), store.meta["name"],
        about["num_classes"], about["task"], about["split_note"], about["edge_note"],
    )  # fmt: skip


def contents(dataset: NodeDataset) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Arrays and ``extra`` of the store of a data set: what ``load`` reads back."""
    arrays = {"y": dataset.data.y}
    if dataset.data.x is not None:
        arrays["x"] = dataset.data.x
    if dataset.data.get("pe") is not None:  # an encoding of the user's own
        arrays["pe"] = dataset.data.pe
    for number, split in enumerate(dataset.splits):
        arrays |= {_name(part, number): nodes for part, nodes in split.items()}
    about = {
        "task": dataset.task,
        "metric": dataset.metric,
        "evaluate": getattr(dataset.evaluate, "spec", dataset.metric),
        "num_classes": dataset.num_classes,
        "splits": len(dataset.splits),
        "split_note": dataset.split_note,
        "edge_note": dataset.edge_note,
    }
    return arrays, about


def _name(part: str, number: int) -> str:
    return f"split_{part}" + (f"_{number}" if number else "")


def _split(store: Store, number: int) -> Split:
    return {part: torch.clone(store.array(_name(part, number))) for part in PARTS}
