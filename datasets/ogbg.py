"""OGB graph property prediction: the ogbg-mol* sets (Hu et al. 2020, from MoleculeNet)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from graphattn.datasets.base import GraphDataset, edge_note
from graphattn.datasets.metrics import evaluator
from graphattn.datasets.names import OGBG_NAMES
from graphattn.datasets.ogb_raw import add_inverse, locate

NAMES = OGBG_NAMES


def load(name: str, root: Path, *, download: bool, undirected: bool, seed: int) -> GraphDataset:
    """Loads one set from OGB's raw files; the split is OGB's scaffold split, whatever the seed.

    Args:
        name: One of ``NAMES``.
        root: The folder that holds ``ogbg_molbace`` and the like.
        download: Fetch the set from OGB when its folder is missing.
        undirected: No effect: OGB adds the inverse of every bond on reading, and so do we.
        seed: Not used.

    Returns:
        Graphs with ``x`` int64 [n, 9] and ``edge_attr`` int64 [e, 3] (categories, as OGB has them)
        and ``y`` [1, tasks]: int64, or float32 with NaN where a label is missing.
    """
    from torch_geometric.data import Data

    raw = locate(name, root, download, "graphproppred")
    nodes = raw.csv("raw/num-node-list.csv.gz")[:, 0].tolist()
    bonds = raw.csv("raw/num-edge-list.csv.gz", len(nodes))[:, 0]
    edges = add_inverse(raw.edges("raw/edge.csv.gz", int(bonds.sum())))
    attr = np.repeat(raw.csv("raw/edge-feat.csv.gz", int(bonds.sum())), 2, axis=0)
    x = raw.csv("raw/node-feat.csv.gz", sum(nodes))
    labels = raw.csv("raw/graph-label.csv.gz", len(nodes))
    tasks, regression = int(raw.info["num tasks"]), raw.info["task type"] == "regression"
    y = torch.from_numpy(labels.astype(np.float32) if regression else labels)
    sizes = (2 * bonds).tolist()
    columns = zip(
        torch.from_numpy(x).split(nodes),
        torch.from_numpy(edges).split(sizes, 1),
        torch.from_numpy(attr).split(sizes),
        y.split(1),
        strict=True,
    )
    return GraphDataset(
        graphs=[Data(x=a, edge_index=b, edge_attr=c, y=d) for a, b, c, d in columns],
        splits=raw.splits(),
        metric=raw.info["eval metric"],
        evaluate=evaluator(f"ogb:{name}"),
        name=name,
        num_classes=tasks if regression or tasks > 1 else int(raw.info["num classes"]),
        task="regression" if regression else "multilabel" if tasks > 1 else "binary",
        split_note=f"official split (by {raw.info['split']})",
        edge_note=edge_note(name, len(attr) // 2, len(attr), "with inverse edges, as OGB does"),
        sources=tuple(raw.sources),
    )
