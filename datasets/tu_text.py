"""Readers of the two text forms of the TU graph sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from graphattn.datasets.decode import decoding, numbers
from graphattn.datasets.files import reading


class Collection(NamedTuple):
    """All graphs of a set, nodes counted through.

    Attributes:
        edge_index: int64 [2, E], file order.
        owner: int64 [N], the graph of each node, not decreasing.
        y: int64 [G] classes 0..C-1, or float32 [G, T] targets.
        labels: int64 [N, k] node labels, or None.
        attributes: float32 [N, a] node attributes, or None.
        edge_labels: int64 [E, k] or None.
        edge_attributes: float32 [E, a] or None.
    """

    edge_index: Tensor
    owner: Tensor
    y: Tensor
    labels: Tensor | None = None
    attributes: Tensor | None = None
    edge_labels: Tensor | None = None
    edge_attributes: Tensor | None = None


def read_tu(paths: Mapping[str, Path], name: str) -> Collection:
    """Reads ``<NAME>_<part>.txt`` files.

    Args:
        paths: Part (``"A"``, ``"graph_indicator"``, ``"graph_labels"``, ...) to file; absent files
            are optional parts.
        name: Data set name for the messages.

    Raises:
        ValueError: If a file is damaged, or has another number of lines than the others imply.
    """
    there = {part: path for part, path in paths.items() if path.is_file()}
    whole = ("A", "graph_indicator", "graph_labels", "node_labels", "edge_labels")
    found = {p: _table(path, np.int64 if p in whole else np.float32) for p, path in there.items()}
    edges, owner = found["A"].t().contiguous() - 1, found["graph_indicator"].flatten() - 1
    targets = found.get("graph_attributes")
    y = _classes(found["graph_labels"].flatten()) if targets is None else targets
    expected = {"node": len(owner), "edge": edges.shape[1], "graph": len(y)}
    for part, table in found.items():
        wanted = expected.get(part.partition("_")[0])
        if part not in ("A", "graph_indicator") and len(table) != wanted:
            raise ValueError(
                f"{there[part]} has {len(table):,} lines, expected {wanted:,} for {name}; it is "
                "truncated or of another set: delete it and load again"
            )
    collection = Collection(
        edges,
        owner,
        y,
        labels=found.get("node_labels"),
        attributes=found.get("node_attributes"),
        edge_labels=found.get("edge_labels"),
        edge_attributes=found.get("edge_attributes"),
    )
    return _checked(collection, there["graph_indicator"], name)


def read_gin(path: Path, name: str) -> Collection:
    """Reads the single text file of the GIN and DGCNN papers.

    Line 1: number of graphs.  Each graph: ``nodes label``, then for each node ``tag degree
    neighbours... attributes...``, neighbours counted from 0 inside the graph.  An edge is listed at
    both of its nodes; node i's line gives the edges from i.

    Args:
        path: The file.
        name: Data set name for the messages.

    Raises:
        ValueError: If the file is damaged.
    """
    sizes: list[int] = []
    labels: list[int] = []
    tags: list[int] = []
    degrees: list[int] = []
    targets: list[int] = []
    extra: list[list[float]] = []
    with decoding(path), open(path, encoding="utf-8") as stream:
        lines: Iterator[str] = iter(stream.read().splitlines())
        for _ in range(int(next(lines))):
            size, label = map(int, next(lines).split()[:2])
            first = len(tags)
            for _ in range(size):
                tag, degree, *rest = next(lines).split()
                tags.append(int(tag))
                degrees.append(int(degree))
                targets.extend(first + int(word) for word in rest[: int(degree)])
                extra.append([float(word) for word in rest[int(degree) :]])
            sizes.append(size)
            labels.append(label)
        attributes = torch.tensor(extra)
        sources = torch.arange(len(tags)).repeat_interleave(torch.tensor(degrees))
        edges = torch.stack([sources, torch.tensor(targets, dtype=torch.int64)])
    collection = Collection(
        edges,
        torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes)),
        _classes(torch.tensor(labels)),
        labels=torch.tensor(tags).view(-1, 1),
        attributes=attributes if attributes.numel() else None,
    )
    return _checked(collection, path, name)


def _table(path: Path, kind: type) -> Tensor:
    with reading(path):
        return torch.from_numpy(numbers(path, kind, delimiter=","))


def _classes(labels: Tensor) -> Tensor:
    """Class numbers 0..C-1 in the order of the labels (MUTAG has -1 and 1, or 0 and 2)."""
    codes: Tensor = torch.unique(labels, return_inverse=True)[1]
    return codes


def _checked(found: Collection, path: Path, name: str) -> Collection:
    edges, owner = found.edge_index, found.owner
    if (owner.diff() < 0).any() or not 0 <= int(owner.min()) <= int(owner.max()) < len(found.y):
        raise ValueError(
            f"{path}: the nodes of {name} must be listed graph by graph, for {len(found.y)} "
            "graphs; it is not the published file: delete it and load again"
        )
    low, high = (int(edges.min()), int(edges.max())) if edges.numel() else (0, 0)
    if low < 0 or high >= len(owner) or (owner[edges[0]] != owner[edges[1]]).any():
        raise ValueError(
            f"{path}: an edge of {name} leaves its graph or the {len(owner):,} nodes; the files "
            "are damaged or do not belong together: delete them and load again"
        )
    return found
