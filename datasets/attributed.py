"""BlogCatalog and Flickr with bag-of-words attributes, from their .mat files (Li et al.).

BlogCatalog: 5,196 users, 343,486 edges (both directions in the file), 8,189 words, 6 classes.
Flickr: 7,575 users, 479,476 edges, 12,047 words, 9 classes.  Features are dense: 170 MB and 365 MB.
"""

from __future__ import annotations

from pathlib import Path

import torch

from graphattn.datasets.assemble import class_count, node_dataset, seeded_splits
from graphattn.datasets.base import NodeDataset
from graphattn.datasets.decode import dense, read_mat, sparse_edges
from graphattn.datasets.layouts import Remote, obtain

NAMES = ("BlogCatalog", "Flickr")

_URL = "https://github.com/GRAND-Lab/CoLA/raw/main/raw_dataset"


def load(
    name: str,
    root: str | Path,
    *,
    download: bool = True,
    undirected: bool = False,
    seed: int = 0,
    split: str = "random",
) -> NodeDataset:
    """Loads ``<root>/<name>.mat`` or ``<root>/<name>/raw/<name>.mat``.

    Args:
        name: One of ``NAMES``.
        root: Folder that holds the file.
        download: Fetch a missing file.
        undirected: No effect on these files: they hold both directions.
        seed: Of the split.
        split: ``"random"`` (60/20/20) or ``"per-class"`` (20 each, 500, 1,000).

    Returns:
        x float32 [N, words] (counts as in the file), y int64 [N].

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is damaged or ``split`` is unknown.
    """
    url = f"{_URL}/{name}/{name}.mat"
    forms = [[Remote(f"{name}.mat", url)], [Remote(f"{name}/raw/{name}.mat", url)]]
    (path,) = obtain(name, root, forms, download=download)
    found = read_mat(path, ("Network", "Attributes", "Label"), name)
    y = torch.from_numpy(found["Label"].astype("int64").ravel()) - 1
    classes = class_count(y)
    return node_dataset(
        name,
        edge_index=sparse_edges(found["Network"]),
        num_nodes=found["Network"].shape[0],
        splits=seeded_splits(name, y, classes, split, seed),
        sources=[path],
        x=dense(found["Attributes"]),
        y=y,
        num_classes=classes,
        undirected=undirected,
    )
