"""MUSAE's social networks (Rozemberczki et al. 2019): GitHub, Facebook pages, Twitch by language.

Each file stores every undirected edge once; the graphs are undirected, so both directions are
returned (github: 289,003 edges in the file, 578,006 returned; facebook's 179 self-loops stay, once
each).  Features are sets of words, made binary [N, words], float32 and dense: 604 MB for github,
424 MB for facebook, at most 121 MB for a twitch set.  Labels: web or machine-learning developer;
page type; whether the streamer uses explicit language.
"""

from __future__ import annotations

import csv
import json
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graphattn.datasets.assemble import node_dataset, seeded_splits
from graphattn.datasets.base import NodeDataset
from graphattn.datasets.decode import decoding, numbers
from graphattn.datasets.files import need_file, reading
from graphattn.datasets.layouts import Remote, obtain

_LANGUAGES = ("DE", "ENGB", "ES", "FR", "PTBR", "RU")

NAMES = ("github", "facebook", *(f"twitch_{language}" for language in _LANGUAGES))

_FILES = ("edges.csv", "features.json", "target.csv")
_URL = "https://snap.stanford.edu/data"
# The six twitch sets share one feature space, of which each uses a part.
_WIDTH = {"github": 4005, "facebook": 4714}
_TWITCH_WIDTH = 3170


def load(
    name: str,
    root: str | Path,
    *,
    download: bool = True,
    undirected: bool = False,
    seed: int = 0,
    split: str = "random",
) -> NodeDataset:
    """Loads ``<root>/<name>/{edges.csv,features.json,target.csv}``.

    Args:
        name: One of ``NAMES``.
        root: Folder that holds the set's folder.
        download: Fetch SNAP's archive if a file is missing.
        undirected: No effect: both directions are returned always, see above.
        seed: Of the split.
        split: ``"random"`` (60/20/20) or ``"per-class"`` (20 each, 500, 1,000).

    Returns:
        x float32 [N, words], y int64 [N] (classes in the order of their sorted names).

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged, a node has no label, or ``split`` is unknown.
    """
    edges, features, target = obtain(name, root, [_form(name)], download=download)
    y, classes = _labels(target, name)
    return node_dataset(
        name,
        edge_index=_edges(edges),
        num_nodes=len(y),
        splits=seeded_splits(name, y, classes, split, seed),
        sources=[edges, features, target],
        x=_features(features, len(y), _WIDTH.get(name, _TWITCH_WIDTH), name),
        y=y,
        num_classes=classes,
        stored="once",
        undirected=undirected,
    )


def _form(name: str) -> list[Remote]:
    if name.startswith("twitch"):
        language = name.removeprefix("twitch_")
        archive, stem = "twitch.zip", f"twitch/{language}/musae_{language}"
    elif name == "github":
        archive, stem = "git_web_ml.zip", "git_web_ml/musae_git"
    else:
        archive, stem = "facebook_large.zip", "facebook_large/musae_facebook"
    return [Remote(f"{name}/{file}", f"{_URL}/{archive}", f"{stem}_{file}") for file in _FILES]


def _labels(path: Path, name: str) -> tuple[Tensor, int]:
    """Labels int64 [N] and the number of classes; N is the largest node id plus one."""
    key = "new_id" if name.startswith("twitch") else "id"
    label = {"github": "ml_target", "facebook": "page_type"}.get(name, "mature")
    need_file(path, name)
    with decoding(path), open(path, encoding="utf-8", newline="") as stream:
        # twitch_FR lists two nodes twice, with the same label.
        found = {int(row[key]): row[label] for row in csv.DictReader(stream)}
    unlabelled = sorted(set(range(max(found) + 1)) - found.keys()) if found else [0]
    if unlabelled:
        raise ValueError(
            f"{path} has no line for node {unlabelled[0]} ({len(unlabelled)} nodes lack one); it "
            "is not the published file: delete it and load again"
        )
    names, codes = np.unique([found[node] for node in range(len(found))], return_inverse=True)
    return torch.from_numpy(codes.astype(np.int64)), len(names)


def _edges(path: Path) -> Tensor:
    with reading(path):
        table = numbers(path, delimiter=",", skiprows=1)
    return torch.from_numpy(table.T.copy())


def _features(path: Path, num_nodes: int, width: int, name: str) -> Tensor:
    """Binary matrix [N, width]; a word that a node lists twice counts once."""
    with decoding(path), open(path, encoding="utf-8") as stream:
        words = json.load(stream)
        counts = [len(row) for row in words.values()]
        rows = np.repeat(np.fromiter(map(int, words), np.int64, len(words)), counts)
        columns = np.fromiter(chain.from_iterable(words.values()), np.int64, sum(counts))
    for what, values, limit in (("node", rows, num_nodes), ("word", columns, width)):
        if len(values) and not 0 <= values.min() <= values.max() < limit:
            bad = int(values.min() if values.min() < 0 else values.max())
            raise ValueError(
                f"{path} names {what} {bad}, expected 0..{limit - 1} for {name}; the files do not "
                "belong together: delete them and load again"
            )
    x = torch.zeros(num_nodes, width)
    x[torch.from_numpy(rows), torch.from_numpy(columns)] = 1
    return x
