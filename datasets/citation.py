"""Cora_ML as published with Graph2Gauss (Bojchevski & Guennemann 2018).

2,995 papers, 8,416 directed citation links (16,316 edges with ``undirected=True``, which is what
PyG's ``CitationFull`` returns), 2,879 words, 7 classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphattn.datasets.assemble import class_count, node_dataset, seeded_splits
from graphattn.datasets.base import NodeDataset
from graphattn.datasets.decode import decoding, dense, sparse_edges, verified
from graphattn.datasets.files import read_npz
from graphattn.datasets.layouts import Remote, obtain

NAMES = ("Cora_ML",)

_URL = "https://github.com/abojchevski/graph2gauss/raw/master/data"
_PARTS = ("data", "indices", "indptr", "shape")


def load(
    name: str,
    root: str | Path,
    *,
    download: bool = True,
    undirected: bool = False,
    seed: int = 0,
    split: str = "random",
) -> NodeDataset:
    """Loads ``<root>/cora_ml/raw/cora_ml.npz`` (PyG's layout) or ``<root>/cora_ml.npz``.

    Args:
        name: One of ``NAMES``.
        root: Folder that holds the set's folder.
        download: Fetch a missing file.
        undirected: Add the reverse of every citation.
        seed: Of the split.
        split: ``"random"`` (60/20/20) or ``"per-class"`` (20 each, 500, 1,000).

    Returns:
        x float32 [N, words] in {0, 1} (the file's tf-idf weights made binary, as PyG does),
        y int64 [N].

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is damaged or ``split`` is unknown.
    """
    stem = name.lower()
    url = f"{_URL}/{stem}.npz"
    forms = [[Remote(f"{stem}/raw/{stem}.npz", url)], [Remote(f"{stem}.npz", url)]]
    (path,) = obtain(name, root, forms, download=download)
    keys = [f"{what}_{part}" for what in ("adj", "attr") for part in _PARTS]
    arrays = read_npz(path, (*keys, "labels"), name)
    adjacency, words = (_matrix(arrays, what, path) for what in ("adj", "attr"))
    y = torch.from_numpy(arrays["labels"]).long()
    classes = class_count(y)
    return node_dataset(
        name,
        edge_index=sparse_edges(adjacency),
        num_nodes=adjacency.shape[0],
        splits=seeded_splits(name, y, classes, split, seed),
        sources=[path],
        x=(dense(words) > 0).float(),
        y=y,
        num_classes=classes,
        undirected=undirected,
    )


def _matrix(arrays: dict[str, np.ndarray], what: str, path: Path) -> Any:
    from scipy.sparse import csr_matrix

    data, indices, indptr, shape = (arrays[f"{what}_{part}"] for part in _PARTS)
    with decoding(path):
        return verified(csr_matrix((data, indices, indptr), shape=tuple(shape)))
