"""Cora, CiteSeer and PubMed from the eight ``ind.*`` files of each (Yang et al. 2016).

Citation links, undirected; bag-of-words features; one class per paper.  Read as PyG does, so
results compare: self-loops and duplicate links of the adjacency lists are dropped (10,858 entries
become 10,556 edges in Cora; the counts are printed), and CiteSeer's 15 isolated papers that have
no line in ``tx`` get zero features and class 0 (no public split contains them).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graphattn.datasets.assemble import check_choice, node_dataset
from graphattn.datasets.base import NodeDataset, Split
from graphattn.datasets.decode import decoding, dense, numbers, read_pickle
from graphattn.datasets.files import reading
from graphattn.datasets.layouts import Remote, obtain
from graphattn.datasets.splits import per_class_split

NAMES = ("Cora", "CiteSeer", "PubMed")

_PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")
_URL = "https://github.com/kimiyoung/planetoid/raw/master/data"
_NUM_VALID = 500


def load(
    name: str,
    root: str | Path,
    *,
    download: bool = True,
    undirected: bool = False,
    seed: int = 0,
    split: str = "public",
) -> NodeDataset:
    """Loads a Planetoid set from ``<root>/<name>/raw/ind.*`` (PyG's layout) or ``<root>/ind.*``.

    Args:
        name: One of ``NAMES``.
        root: Folder that holds the set's folder.
        download: Fetch missing files.
        undirected: No effect: the lists hold both directions.
        seed: Of ``split="random"``.
        split: ``"public"``: 20 per class, the 500 nodes after them, and the 1,000 of test.index;
            ``"random"``: 20 per class, 500 and 1,000 drawn with ``seed`` (tunedGNN's manner; its
            tables use one draw, seed 123).

    Returns:
        x float32 [N, words], y int64 [N].

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged or not of this set, or ``split`` is unknown.
    """
    check_choice(name, "split", split, ("public", "random"))
    paths = dict(zip(_PARTS, obtain(name, root, _forms(name), download=download), strict=True))
    x, y, test = _nodes(paths, name)
    edge_index, entries = _edges(paths["graph"], name)
    num_train, num_classes = read_pickle(paths["y"], name).shape
    if split == "random":
        drawn = per_class_split(y, num_classes, valid=_NUM_VALID, seed=seed)
        splits = [drawn], f"20 per class, 500 valid, 1000 test, seed {seed}"
    else:
        splits = [_public(num_train, test)], "official (public) split"
    return node_dataset(
        name,
        edge_index=edge_index,
        num_nodes=len(x),
        splits=splits,
        sources=list(paths.values()),
        x=x,
        y=y,
        num_classes=num_classes,
        undirected=undirected,
        in_file=entries,
    )


def _forms(name: str) -> list[list[Remote]]:
    files = [f"ind.{name.lower()}.{part}" for part in _PARTS]
    folders = (f"{name}/raw/", "")
    return [[Remote(folder + file, f"{_URL}/{file}") for file in files] for folder in folders]


def _public(num_train: int, test: Tensor) -> Split:
    valid = torch.arange(num_train, num_train + _NUM_VALID)
    return {"train": torch.arange(num_train), "valid": valid, "test": test.sort().values}


def _nodes(paths: Mapping[str, Path], name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Features [N, F] and labels [N] in graph order, and the test nodes.

    Row k of tx belongs to node test.index[k]; nodes between the smallest and the largest test
    index without a row stay zero.
    """
    allx, tx = (dense(read_pickle(paths[part], name)) for part in ("allx", "tx"))
    ally, ty = (torch.from_numpy(np.asarray(read_pickle(paths[p], name))) for p in ("ally", "ty"))
    with reading(paths["test.index"]):
        test = torch.from_numpy(numbers(paths["test.index"]).ravel())
    whole = len(test) == len(tx) == len(ty) and len(allx) == len(ally) == int(test.min())
    if not whole or allx.shape[1:] != tx.shape[1:] or ally.shape[1:] != ty.shape[1:]:
        raise ValueError(
            f"{paths['test.index'].parent}: the ind.{name.lower()}.* files do not fit together "
            f"({len(test)} test indices from {int(test.min())}, tx {list(tx.shape)}, ty "
            f"{list(ty.shape)}, allx {list(allx.shape)}, ally {list(ally.shape)}); delete them and "
            "load again"
        )
    num_nodes = int(test.max()) + 1
    x = torch.zeros(num_nodes, allx.shape[1])
    onehot = torch.zeros(num_nodes, ally.shape[1], dtype=ally.dtype)
    x[: len(allx)], onehot[: len(ally)] = allx, ally
    x[test], onehot[test] = tx, ty
    return x, onehot.argmax(1), test


def _edges(path: Path, name: str) -> tuple[Tensor, int]:
    """Coalesced edges without self-loops (int64 [2, E], sorted by target) and the raw count."""
    from torch_geometric.utils import coalesce, remove_self_loops

    lists = read_pickle(path, name)
    with decoding(path):
        counts = [len(neighbours) for neighbours in lists.values()]
        source = np.repeat(np.fromiter(lists, np.int64, len(lists)), counts)
        target = np.fromiter((j for row in lists.values() for j in row), np.int64, sum(counts))
    edges = torch.from_numpy(np.stack([source, target]))
    edges, _ = remove_self_loops(edges)
    return coalesce(edges, sort_by_row=False), len(source)
