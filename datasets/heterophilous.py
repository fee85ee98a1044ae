"""The heterophilous collection of Platonov et al. 2023, with its ten fixed splits.

Each file stores every undirected edge once; the graphs are undirected, so both directions are
returned (minesweeper: 39,402 edges in the file, 78,804 returned), sorted as PyG's
``to_undirected`` sorts them.  ``chameleon_filtered`` and ``squirrel_filtered`` are without the
duplicate nodes of the older sets.  minesweeper, tolokers and questions are binary, scored by
ROC-AUC; the others by accuracy.
"""

from __future__ import annotations

from pathlib import Path

import torch

from graphattn.datasets.assemble import class_count, mask_splits, node_dataset
from graphattn.datasets.base import NodeDataset
from graphattn.datasets.files import read_npz
from graphattn.datasets.layouts import Remote, obtain

NAMES = (
    "roman-empire",
    "amazon-ratings",
    "minesweeper",
    "tolokers",
    "questions",
    "chameleon_filtered",
    "squirrel_filtered",
    "actor",
)

_URL = "https://github.com/yandex-research/heterophilous-graphs/raw/main/data"
_BINARY = ("minesweeper", "tolokers", "questions")
_MASKS = ("train_masks", "val_masks", "test_masks")


def load(
    name: str,
    root: str | Path,
    *,
    download: bool = True,
    undirected: bool = False,
    seed: int = 0,
) -> NodeDataset:
    """Loads ``<root>/<file>/raw/<file>.npz`` (PyG's layout) or ``<root>/<file>.npz``.

    ``<file>`` is the name with underscores: ``roman_empire``.

    Args:
        name: One of ``NAMES``.
        root: Folder that holds the file or the set's folder.
        download: Fetch a missing file.
        undirected: No effect: both directions are returned always, see above.
        seed: No effect: the splits are the published ones.

    Returns:
        x float32 [N, F], y int64 [N], ten splits (50/25/25 per cent; actor 48/32/20, and about so
        for the filtered sets).

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is damaged.
    """
    del seed
    stem = name.replace("-", "_")
    url = f"{_URL}/{stem}.npz"
    forms = [[Remote(f"{stem}/raw/{stem}.npz", url)], [Remote(f"{stem}.npz", url)]]
    (path,) = obtain(name, root, forms, download=download)
    arrays = read_npz(path, ("node_features", "node_labels", "edges", *_MASKS), name)
    tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
    y = tensors["node_labels"].long()
    return node_dataset(
        name,
        edge_index=tensors["edges"].long().t().contiguous(),
        num_nodes=len(y),
        splits=(mask_splits(*(tensors[key].bool() for key in _MASKS)), "official splits"),
        sources=[path],
        x=tensors["node_features"].float(),
        y=y,
        num_classes=class_count(y),
        stored="once",
        undirected=undirected,
        metric="rocauc" if name in _BINARY else "acc",
    )
