"""Ten-fold splits of graph-level sets: test is fold k, valid the test fold of the next split.

The published folds have no validation part; taking the next split's test fold for it keeps the
published test parts and needs no further draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graphattn.datasets.base import Split
from graphattn.datasets.decode import numbers
from graphattn.datasets.files import need_file, reading

FOLDS = 10


def published_folds(paths: Sequence[Path], name: str) -> list[Split]:
    """Splits from the index files of the GIN and DGCNN papers.

    Args:
        paths: test_idx-1.txt ... test_idx-10.txt, then the ten train_idx files.
        name: Data set name for the messages.

    Returns:
        Ten splits; items that no test file lists are in every training part.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged.
    """
    items = [_indices(need_file(path, name)) for path in paths]
    tests, trains = items[:FOLDS], items[FOLDS:]
    return [_split(trains[k], tests, k) for k in range(FOLDS)]


def drawn_folds(y: Tensor, seed: int) -> list[Split]:
    """Draws ten stratified folds: shuffled, sorted by class, dealt out in turn.

    Args:
        y: int64 [G] classes; float [G, T] targets are dealt out without classes.
        seed: Seed of the draw.

    Returns:
        Ten splits whose test parts cover every graph once.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(y), generator=generator)
    if not y.is_floating_point():
        order = order[y[order].argsort(stable=True)]
    tests = [order[k::FOLDS].sort().values.numpy() for k in range(FOLDS)]
    everything = np.arange(len(y))
    return [_split(np.setdiff1d(everything, tests[k]), tests, k) for k in range(FOLDS)]


def _split(others: np.ndarray, tests: Sequence[np.ndarray], k: int) -> Split:
    valid = np.intersect1d(others, tests[(k + 1) % FOLDS])
    parts = {"train": np.setdiff1d(others, valid), "valid": valid, "test": np.sort(tests[k])}
    return {key: torch.from_numpy(items.astype(np.int64)) for key, items in parts.items()}


def _indices(path: Path) -> np.ndarray:
    with reading(path):
        return numbers(path).ravel()
