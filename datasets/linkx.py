"""Facebook100: friendships at five US colleges (Traud et al. 2012), set up as by Lim et al. 2021.

The label is gender, column 1 of ``local_info``; nodes with 0 there are unlabelled (y = -1) and in
no split.  Features are the other six columns (status, major, second major, dorm, year, high
school), each one-hot over its values with "missing" (0) as a value of its own, as PyG does; dense
(cornell5: 4,735 columns, 353 MB).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphattn.datasets.assemble import node_dataset
from graphattn.datasets.base import NodeDataset, Split
from graphattn.datasets.decode import decoding, read_mat, read_object_npy, sparse_edges
from graphattn.datasets.layouts import Remote, obtain
from graphattn.datasets.splits import random_splits

NAMES = ("penn94", "reed98", "amherst41", "cornell5", "johnshopkins55")

_URL = "https://github.com/CUAI/Non-Homophily-Large-Scale/raw/master/data"
_FILES = {
    "penn94": "Penn94.mat",
    "reed98": "Reed98.mat",
    "amherst41": "Amherst41.mat",
    "cornell5": "Cornell5.mat",
    "johnshopkins55": "Johns%20Hopkins55.mat",
}
_OFFICIAL = {"penn94": "fb100-Penn94-splits.npy"}
_GENDER = 1
_NUM_SPLITS = 5


def load(
    name: str,
    root: str | Path,
    *,
    download: bool = True,
    undirected: bool = False,
    seed: int = 0,
) -> NodeDataset:
    """Loads ``<root>/<school>/raw/data.mat`` (PyG's layout).

    Args:
        name: One of ``NAMES``.
        root: Folder that holds the school's folder.
        download: Fetch missing files.
        undirected: No effect on these files: they hold both directions.
        seed: Of the splits, where no official ones are there.

    Returns:
        x float32 [N, F], y int64 [N] in {-1, 0, 1}; five 50/25/25 splits of the labelled nodes:
        the published ones for penn94 if ``fb100-Penn94-splits.npy`` lies beside data.mat, else
        drawn with ``seed`` ... ``seed + 4``.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If it is damaged.
    """
    form = [Remote(f"{name}/raw/data.mat", f"{_URL}/facebook100/{_FILES[name]}")]
    if name in _OFFICIAL:
        file = _OFFICIAL[name]
        form.append(Remote(f"{name}/raw/{file}", f"{_URL}/splits/{file}", optional=True))
    paths = obtain(name, root, [form], download=download)
    found = read_mat(paths[0], ("A", "local_info"), name)
    info = found["local_info"].astype(np.int64)
    y = torch.from_numpy(info[:, _GENDER] - 1)
    return node_dataset(
        name,
        edge_index=sparse_edges(found["A"]),
        num_nodes=found["A"].shape[0],
        splits=_splits(name, paths[1:], y, seed),
        sources=paths,
        x=_one_hot(np.delete(info, _GENDER, axis=1)),
        y=y,
        num_classes=2,
        undirected=undirected,
    )


def _one_hot(columns: np.ndarray) -> Tensor:
    """Every column one-hot over its sorted values, side by side: [N, c] -> float32 [N, F]."""
    codes = [np.unique(column, return_inverse=True) for column in columns.T]
    x = torch.zeros(len(columns), sum(len(values) for values, _ in codes))
    rows, start = torch.arange(len(columns)), 0
    for values, code in codes:
        x[rows, torch.from_numpy(code) + start] = 1
        start += len(values)
    return x


def _splits(name: str, official: list[Path], y: Tensor, seed: int) -> tuple[list[Split], str]:
    if official and official[0].is_file():
        items = read_object_npy(official[0], name)
        with decoding(official[0]):
            return [_split(item) for item in items], "official splits"
    drawn = random_splits(y, (0.5, 0.25, 0.25), count=_NUM_SPLITS, seed=seed, num_classes=2)
    last = seed + _NUM_SPLITS - 1
    return drawn, f"five random 50/25/25 splits of the labelled nodes, seeds {seed}-{last}"


def _split(item: dict[str, Any]) -> Split:
    return {key: torch.tensor(item[key], dtype=torch.int64) for key in ("train", "valid", "test")}
