"""A user's own graph: a folder of .npy files, opened like any other data set.

====================  =======================================================================
edge_index.npy        integers [2, E]: source, target (or indptr.npy [N + 1] and indices.npy
                      [E]: row i lists the nodes that i attends to)
x.npy                 optional floats [N, F]                     (or features.npy)
y.npy                 integers [N], -1 = no label; floats [N] or [N, T] for regression and
                      multilabel                                 (or labels.npy)
edge_attr.npy         optional floats [E, D], in the order of the edges
train.npy valid.npy   optional: node indices, or masks bool [N] or [S, N] for S splits;
test.npy              without them one seeded 50/25/25 split   (or split_train.npy, ...)
meta.json             optional: {"task": ..., "metric": ..., "num_classes": ...}
====================  =======================================================================
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphattn.datasets.base import NodeDataset, Split, check_edges, edge_note, symmetrise
from graphattn.datasets.files import need_file, reading
from graphattn.datasets.metrics import evaluator
from graphattn.datasets.splits import PARTS, labelled, random_splits

_ALSO = {"x": "features", "y": "labels"} | {part: f"split_{part}" for part in PARTS}
_METRICS = {"multiclass": "acc", "binary": "rocauc", "multilabel": "rocauc", "regression": "rmse"}
_FILES = (
    "expected are edge_index.npy (or indptr.npy and indices.npy) and y.npy (or labels.npy); "
    "optional are x.npy (or features.npy), edge_attr.npy, meta.json, and, all three or none, "
    "train.npy, valid.npy and test.npy"
)


def is_dataset(path: Path) -> bool:
    """Whether ``path`` is a folder with the edges of a graph in it."""
    return any((path / f"{key}.npy").is_file() for key in ("edge_index", "indptr"))


def load(name: str, root: Path, *, download: bool, undirected: bool, seed: int) -> NodeDataset:
    """Loads ``root / name``.

    Args:
        name: The folder's name.
        root: Its parent.
        download: No effect.
        undirected: Add missing reverse edges and merge duplicates.
        seed: Of the split, where the folder has none.

    Raises:
        FileNotFoundError: If y.npy is missing, or some of train, valid and test.
        ValueError: If a file is damaged, shapes disagree, a class label is below -1, no node has
            a label, or meta.json has an unknown entry.
    """
    from torch_geometric.data import Data

    folder = Folder(root / name)
    labels, x = folder.need("y"), folder.array("x")
    edge_index, edge_attr = _edges(folder, len(labels))
    in_file, how = edge_index.shape[1], "as in the file"
    check_edges(edge_index, len(labels), name)
    if undirected:
        edge_index, edge_attr = symmetrise(edge_index, len(labels), edge_attr)
        how = "symmetrised, duplicates merged"
    if x is not None and len(x) != len(labels):
        raise ValueError(f"{folder.path}: x has {len(x):,} rows but y has {len(labels):,}")
    task, metric, classes = _task(folder, labels)
    y = torch.from_numpy(labels)
    y = y.long() if task in ("multiclass", "binary") else y.float()
    _check_known(folder, y, task)
    data = Data(edge_index=edge_index, y=y, num_nodes=len(labels))
    data.x = None if x is None else torch.from_numpy(x).float()
    if edge_attr is not None:
        data.edge_attr = edge_attr
    pe = folder.array("pe")
    if pe is not None:
        data.pe = torch.from_numpy(pe).float()
    splits, split_note = _splits(folder, y, task, classes, seed)
    return NodeDataset(
        data, splits, metric, evaluator(metric), name, classes, task, split_note,
        edge_note(name, in_file, edge_index.shape[1], how), tuple(folder.sources),
    )  # fmt: skip


class Folder:
    """The .npy files of one folder, and which of them were asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sources: list[str] = []

    def array(self, key: str) -> np.ndarray | None:
        """The array ``key``, under either of its names; None if there is none."""
        for name in (key, _ALSO.get(key, key)):
            path = self.path / f"{name}.npy"
            self.sources.append(str(path))
            if path.is_file():
                with reading(path, "save it again with np.save (numbers only, no objects)"):
                    array = np.asarray(np.load(path))
                    if array.dtype.kind not in "biuf":
                        raise ValueError(f"it holds {array.dtype}, not numbers")
                    return array
        return None

    def need(self, key: str) -> np.ndarray:
        """As ``array``, or FileNotFoundError with what the file should hold."""
        found = self.array(key)
        if found is None:
            need_file(self.path / f"{key}.npy", self.path.name, _FILES)
            raise AssertionError
        return found


def _edges(folder: Folder, num_nodes: int) -> tuple[Tensor, Tensor | None]:
    edges, attr = folder.array("edge_index"), folder.array("edge_attr")
    if edges is None:
        indptr, indices = folder.need("indptr"), folder.need("indices")
        if len(indptr) != num_nodes + 1 or indptr[-1] != len(indices):
            raise ValueError(
                f"{folder.path}: indptr must be [{num_nodes + 1}] and end with {len(indices):,} "
                f"(the length of indices); it is [{len(indptr)}] and ends with {indptr[-1]}"
            )
        edges = np.stack([indices, np.repeat(np.arange(num_nodes), np.diff(indptr))])
    if edges.dtype.kind not in "iu":
        raise TypeError(f"{folder.path}: edges must be integers, got {edges.dtype}")
    if attr is not None and (edges.ndim != 2 or len(attr) != edges.shape[1]):
        raise ValueError(f"{folder.path}: edge_attr has {len(attr):,} rows for {edges.shape} edges")
    edge_attr = None if attr is None else torch.from_numpy(attr).float().view(len(attr), -1)
    return torch.from_numpy(np.ascontiguousarray(edges, dtype=np.int64)), edge_attr


def _task(folder: Folder, labels: np.ndarray) -> tuple[str, str, int]:
    """Task, metric and classes: meta.json's, else by the labels' dtype and shape."""
    meta = _meta(folder)
    integers, wide = labels.dtype.kind in "iub", labels.ndim > 1
    classes = int(labels.max(initial=0)) + 1 if integers else 0
    guess = "multilabel" if wide and integers else "multiclass" if integers else "regression"
    task = str(meta.get("task", guess))
    if task not in _METRICS:
        raise ValueError(f"{folder.path}/meta.json: task {task!r} is not one of {list(_METRICS)}")
    if task in ("multilabel", "regression"):
        classes = labels.shape[1] if wide else 1
    elif not integers or wide:
        raise ValueError(
            f"{folder.path}: task {task} needs integer labels [N] in y.npy, got {labels.dtype} "
            f"{list(labels.shape)}"
        )
    metric = str(meta.get("metric", _METRICS[task]))
    return task, metric, int(meta.get("num_classes", 2 if task == "binary" else classes))


def _meta(folder: Folder) -> dict[str, Any]:
    path = folder.path / "meta.json"
    folder.sources.append(str(path))
    if not path.is_file():
        return {}
    with reading(path, "correct the JSON"):
        meta = json.loads(path.read_text())
        if not isinstance(meta, dict):
            raise ValueError('it must be an object such as {"task": "binary"}')
        unknown = sorted(set(meta) - {"task", "metric", "num_classes"})
    if unknown:
        raise ValueError(f"{path}: unknown {unknown}; known are task, metric and num_classes")
    return meta


def _check_known(folder: Folder, y: Tensor, task: str) -> None:
    """Refuses class labels below -1, and a set in which no node has a label."""
    below = (y < -1).nonzero().flatten() if task in ("multiclass", "binary") else y[:0]
    if len(below):
        first = int(below[0])
        raise ValueError(
            f"{folder.path}: {len(below):,} labels in y are below -1 (first: node {first} has "
            f"{int(y[first])}); expected classes 0, 1, ... or -1 for a node without label"
        )
    if not len(labelled(y)):
        raise ValueError(
            f"{folder.path}: none of the {len(y):,} nodes in y has a label (all are -1 or NaN); "
            "label the nodes to train and test on"
        )


def _splits(
    folder: Folder, y: Tensor, task: str, classes: int, seed: int
) -> tuple[list[Split], str]:
    given = {part: folder.array(part) for part in PARTS}
    if all(array is None for array in given.values()):
        needed = classes if task in ("multiclass", "binary") else None
        note = f"seeded random split, seed {seed}, 50/25/25"
        return random_splits(y, seed=seed, num_classes=needed), note
    parts = {part: _indices(folder.need(part), len(y)) for part in PARTS}
    counts = {part: len(lists) for part, lists in parts.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"{folder.path}: train, valid and test have {counts} splits")
    count = counts["train"]
    return [{part: parts[part][i] for part in PARTS} for i in range(count)], "the folder's split"


def _indices(array: np.ndarray, num_nodes: int) -> list[Tensor]:
    """Index lists from one list of indices, a mask [N] or masks [S, N]."""
    if array.dtype != bool:
        return [torch.from_numpy(array.astype(np.int64))]
    masks = array.reshape(-1, array.shape[-1])
    if masks.shape[1] != num_nodes:
        raise ValueError(f"a split mask has {masks.shape[1]:,} entries for {num_nodes:,} nodes")
    return [torch.from_numpy(mask.nonzero()[0]) for mask in masks]
