"""OGB's raw folders: found or fetched, described by ogb's own master.csv, read file by file.

None of ogb's loaders run: they ask on stdin, unpickle, and start a version-check thread.
"""

from __future__ import annotations

import csv
import importlib.util
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from graphattn.datasets.base import Split, caller_level
from graphattn.datasets.files import DOWNLOAD, fetch, hidden_folder, need_file, read_csv, reading


@dataclass
class RawFolder:
    """One data set's folder, and the files read from it so far.

    Attributes:
        name: "ogbn-arxiv".
        path: The folder that has raw/ and split/.
        info: The set's column of ogb's master.csv.
        sources: Files asked for, present or not: what the cache entry depends on.
    """

    name: str
    path: Path
    info: dict[str, str]
    sources: list[str] = field(default_factory=list)

    def file(self, relative: str) -> Path:
        """The path of a required file; FileNotFoundError names it if it is missing."""
        path = self.path / relative
        self.sources.append(str(path))
        remedy = f"delete {self.path.absolute()} and load with {DOWNLOAD} (from {self.info['url']})"
        return need_file(path, self.name, remedy)

    def csv(self, relative: str, rows: int | None = None) -> np.ndarray:
        """A required .csv.gz as [rows, columns].

        Args:
            relative: Path below the folder.
            rows: Expected number of rows.

        Raises:
            ValueError: If the file is damaged or has another number of rows.
        """
        values = read_csv(self.file(relative), self.name)
        if rows is not None and len(values) != rows:
            raise ValueError(
                f"{self.path / relative} has {len(values):,} rows, expected {rows:,} as in the "
                "num-*-list files; delete it and fetch it again"
            )
        return values

    def optional_csv(self, relative: str, rows: int) -> np.ndarray | None:
        """As ``csv``, or None if there is no such file."""
        if (self.path / relative).exists():
            return self.csv(relative, rows)
        self.sources.append(str(self.path / relative))
        return None

    def edges(self, relative: str, rows: int | None = None) -> np.ndarray:
        """An edge.csv.gz as int64 [2, E]."""
        values = self.csv(relative, rows)
        if values.dtype != np.int64 or values.shape[1] != 2:
            raise ValueError(
                f"{self.path / relative} must hold two integers a line, got "
                f"{values.shape[1]} columns of {values.dtype}"
            )
        return np.ascontiguousarray(values.T)

    def splits(self, part: str = "") -> list[Split]:
        """The official split, from the index files (``split_dict.pt`` is never unpickled).

        Args:
            part: Node type folder, for heterogeneous sets.
        """
        folder = f"split/{self.info['split']}/{part}".rstrip("/")
        return [
            {
                key: torch.from_numpy(self.csv(f"{folder}/{key}.csv.gz")[:, 0].astype(np.int64))
                for key in ("train", "valid", "test")
            }
        ]


def locate(name: str, root: Path, download: bool, family: str) -> RawFolder:
    """Finds a set's folder under ``root``, or downloads it.

    Args:
        name: "ogbn-arxiv".
        root: The folder that holds ``ogbn_arxiv`` (or OGB's other spelling ``ogbn_arxiv_pyg``).
        download: Fetch the set when its folder is missing.
        family: "nodeproppred" or "graphproppred".

    Raises:
        FileNotFoundError: If the folder is missing and may not or cannot be downloaded.
    """
    info = _describe(name, family)
    path = root / name.replace("-", "_")
    for candidate in (root / (path.name + "_pyg"), path):
        if candidate.is_dir():
            _check_release(name, candidate, info)
            return RawFolder(name, candidate, info)
    if not download:
        raise FileNotFoundError(
            f"{name}: no folder {path.name} in {root.absolute()}; pass the root= that holds it, or "
            f"{DOWNLOAD} to fetch it from {info['url']}"
        )
    _download(name, path, info)
    return RawFolder(name, path, info)


def _describe(name: str, family: str) -> dict[str, str]:
    """The column of master.csv, read from ogb's files without importing ogb."""
    spec = importlib.util.find_spec("ogb")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{name} needs the package ogb: pip install ogb")
    table = Path(spec.submodule_search_locations[0]) / family / "master.csv"
    with open(table, newline="") as lines:
        rows = list(csv.reader(lines))
    column = rows[0].index(name)
    return {row[0]: row[column] for row in rows[1:]}


def _check_release(name: str, path: Path, info: dict[str, str]) -> None:
    expected = f"RELEASE_v{info['version']}.txt"
    if (path / expected).exists():
        return
    others = ", ".join(file.name for file in sorted(path.glob("RELEASE_v*.txt"))) or "none"
    warnings.warn(
        f"{name}: {path.absolute()} has no {expected} (found: {others}): it may be an older "
        "release, whose results do not compare; delete the folder to download the current one",
        UserWarning,
        stacklevel=caller_level(),
    )


def _download(name: str, path: Path, info: dict[str, str]) -> None:
    """Fetches beside the target and renames, so that a killed download leaves no half set."""
    from torch_geometric.data import extract_zip

    with hidden_folder(path.parent, info["url"], name) as hidden:
        archive = fetch(info["url"], hidden, name)
        with reading(archive):
            extract_zip(str(archive), str(hidden), log=False)
        (hidden / info["download_name"]).rename(path)


def add_inverse(edge_index: np.ndarray) -> np.ndarray:
    """Each edge followed by its inverse, in OGB's order: [2, E] -> [2, 2E]."""
    both = np.repeat(edge_index, 2, axis=1)
    both[:, 1::2] = edge_index[::-1]
    return both


def class_labels(values: np.ndarray) -> Tensor:
    """OGB's [N, 1] class labels as int64 [N]; NaN (no label) becomes -1."""
    labels = values[:, 0]
    if labels.dtype.kind == "f":
        labels = np.where(np.isnan(labels), -1, labels)
    return torch.from_numpy(labels.astype(np.int64))
