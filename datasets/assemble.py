"""From arrays to a NodeDataset: orientation of the edges, seeded splits, notes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from graphattn.datasets.base import NodeDataset, Split, check_edges, edge_note, symmetrise
from graphattn.datasets.metrics import evaluator
from graphattn.datasets.splits import per_class_split, random_splits

Stored = Literal["as in the file", "once"]


def node_dataset(
    name: str,
    *,
    edge_index: Tensor,
    num_nodes: int,
    splits: tuple[list[Split], str],
    sources: Sequence[Path],
    x: Tensor | None = None,
    y: Tensor | None = None,
    num_classes: int = 0,
    stored: Stored = "as in the file",
    undirected: bool = False,
    in_file: int | None = None,
    metric: str = "acc",
) -> NodeDataset:
    """Checks sizes, orients the edges, says how many there were, and fills the record.

    Args:
        name, x, y, num_classes, metric: As in ``NodeDataset``; x and y may be None.
        edge_index: int64 [2, E] in file order.
        num_nodes: Number of nodes.
        splits: The splits and the note that says where they come from.
        sources: Raw files read.
        stored: ``"once"`` when the file has each undirected edge in one direction: then both
            directions are returned whatever ``undirected`` says, because the graph is undirected.
        undirected: Symmetrise and merge duplicates; self-loops stay.
        in_file: Edges in the file if the reader dropped some.

    Raises:
        ValueError: If x, y and the edges do not agree on the number of nodes.
    """
    from torch_geometric.data import Data

    _check_sizes(f"{name} ({sources[0]})", edge_index, num_nodes, x, y)
    size = {"num_nodes": num_nodes} if x is None else {}  # PyG infers it from x
    edge_index, note = orient(name, edge_index, num_nodes, stored, undirected, in_file)
    return NodeDataset(
        data=Data(x=x, edge_index=edge_index, y=y, **size),
        splits=splits[0],
        metric=metric,
        evaluate=evaluator(metric),
        name=name,
        num_classes=num_classes,
        task="binary" if metric == "rocauc" else "multiclass",
        split_note=splits[1],
        edge_note=note,
        sources=tuple(str(path) for path in sources),
    )


def _check_sizes(
    where: str, edge_index: Tensor, num_nodes: int, x: Tensor | None, y: Tensor | None
) -> None:
    for what, values in (("feature rows", x), ("labels", y)):
        if values is not None and len(values) != num_nodes:
            raise ValueError(
                f"{where}: {len(values):,} {what} for {num_nodes:,} nodes; the files do not belong "
                "together: delete them and load again"
            )
    check_edges(edge_index, num_nodes, where)


def orient(
    name: str,
    edge_index: Tensor,
    num_nodes: int,
    stored: Stored,
    undirected: bool,
    in_file: int | None = None,
) -> tuple[Tensor, str]:
    """Returns the edges to use and the announced note with the counts before and after.

    Args:
        name: Data set name.
        edge_index: Checked int64 [2, E].
        num_nodes: Number of nodes.
        stored: See ``node_dataset``.
        undirected: See ``node_dataset``.
        in_file: See ``node_dataset``.
    """
    before = edge_index.shape[1] if in_file is None else in_file
    how = "as in the file"
    if before != edge_index.shape[1]:
        how = "self-loops and duplicates dropped"
    if stored == "once":
        how = "both directions; the file stores each undirected edge once"
    elif undirected:
        how = "symmetrised, duplicates merged"
    if stored == "once" or undirected:
        edge_index, _ = symmetrise(edge_index, num_nodes)
    return edge_index, edge_note(name, before, edge_index.shape[1], how)


def mask_splits(train: Tensor, valid: Tensor, test: Tensor) -> list[Split]:
    """Splits from boolean masks [splits, N]."""
    rows = zip(train, valid, test, strict=True)
    return [
        {
            "train": a.nonzero().flatten(),
            "valid": b.nonzero().flatten(),
            "test": c.nonzero().flatten(),
        }
        for a, b, c in rows
    ]


def seeded_splits(
    name: str, y: Tensor, num_classes: int, split: str, seed: int
) -> tuple[list[Split], str]:
    """The seeded split of a set that has no official one.

    Args:
        name: Data set name for the messages.
        y: int64 [N]; -1 = no label.
        num_classes: Number of classes.
        split: ``"random"``: 60/20/20 per cent of the labelled nodes; ``"per-class"``: 20 training
            nodes per class, 500 valid, 1000 test.
        seed: Seed of the draw.

    Returns:
        One split in a list, and the note.

    Raises:
        ValueError: If ``split`` is neither.
    """
    check_choice(name, "split", split, ("random", "per-class"))
    if split == "random":
        drawn = random_splits(y, (0.6, 0.2, 0.2), seed=seed, num_classes=num_classes)
        return drawn, f"random 60/20/20, seed {seed} (no official split)"
    drawn = [per_class_split(y, num_classes, seed=seed)]
    return drawn, f"20 per class, 500 valid, 1000 test, seed {seed} (no official split)"


def check_choice(name: str, what: str, value: str, choices: Sequence[str]) -> None:
    """Refuses an option's value that is not among its choices.

    Raises:
        ValueError: Naming the choices.
    """
    if value not in choices:
        raise ValueError(f"{name}: {what} must be one of {', '.join(choices)}, got {value!r}")


def class_count(y: Tensor) -> int:
    """Number of classes of int64 labels [N]: the largest label plus one."""
    return int(torch.max(y)) + 1 if len(y) else 0
