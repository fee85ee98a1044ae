"""What a data set is: the two records every loader returns, and the checks they go through.

A loader module has ``NAMES`` (its canonical names) and
``load(name, root, *, download, undirected, seed) -> NodeDataset | GraphDataset``.  It reads raw
files only; the catalogue caches what it returns, keyed by ``sources``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch_geometric.data import Data

Split = dict[str, Tensor]
Evaluate = Callable[[Tensor, Tensor], float]

_CHECK_ROWS = 1 << 20


@dataclass
class NodeDataset:
    """One graph whose nodes carry the labels.

    Attributes:
        data: PyG ``Data``: ``x`` float32 [N, F] or None, ``edge_index`` int64 [2, E], ``y`` int64
            [N] (float32 [N, T] for multilabel and regression; -1 or NaN = no label), and
            optionally ``edge_attr``, ``node_type``, ``edge_type``, ``node_year``.
        splits: dicts ``train``/``valid``/``test`` of int64 node indices; one for OGB, ten for the
            heterophilous sets.
        metric: ``"acc"``, ``"rocauc"``, ``"ap"`` or ``"rmse"``.
        evaluate: ``evaluate(scores, labels) -> float``, see ``metrics.evaluator``.
        name: Canonical name.
        num_classes: Classes (multiclass: 2 or more; binary: 2), tasks for multilabel/regression.
        task: ``"multiclass"``, ``"binary"``, ``"multilabel"`` or ``"regression"``.
        split_note: Where the splits come from: "official split" or the seed and the proportions.
        edge_note: Edge counts in the file and as returned.
        sources: Raw files that were read (optional ones also when absent); the cache entry is
            valid while their sizes and times stay.  Empty: do not cache.
    """

    data: Data
    splits: list[Split] = field(repr=False)
    metric: str
    evaluate: Evaluate
    name: str
    num_classes: int
    task: str = "multiclass"
    split_note: str = ""
    edge_note: str = ""
    sources: tuple[str, ...] = field(default=(), repr=False)


@dataclass
class GraphDataset:
    """Many graphs, each with its own label ``y`` [1] or [1, tasks]; splits index graphs.

    Attributes as in ``NodeDataset``, with ``graphs`` for ``data``: a sequence of PyG ``Data`` with
    ``len``, index, slice and iteration.  From the cache it is a ``graph_list.GraphList``, which
    makes a graph at each access; ``list(graphs)`` gives graphs to keep and change.
    """

    graphs: Sequence[Data]
    splits: list[Split] = field(repr=False)
    metric: str
    evaluate: Evaluate
    name: str
    num_classes: int
    task: str = "multiclass"
    split_note: str = ""
    edge_note: str = ""
    sources: tuple[str, ...] = field(default=(), repr=False)


def check_features(x: Tensor | None, name: str) -> None:
    """Refuses NaN and infinite features.

    Args:
        x: [N, F] or None.
        name: Data set name for the message.

    Raises:
        ValueError: Naming the number of bad rows and the first one.
    """
    if x is None or not x.is_floating_point():
        return
    first, count = -1, 0
    # Blocks keep the boolean temporaries small when x is a memory map of many gigabytes.
    for start in range(0, x.shape[0], _CHECK_ROWS):
        rows = (
            (~torch.isfinite(x[start : start + _CHECK_ROWS])).flatten(1).any(1).nonzero().flatten()
        )
        if len(rows) and first < 0:
            first = start + int(rows[0])
        count += len(rows)
    if count:
        raise ValueError(
            f"{name}: {count:,} of {x.shape[0]:,} feature rows hold NaN or infinity (first: row "
            f"{first}); expected finite numbers: impute or drop them before loading"
        )


def check_edges(edge_index: Tensor, num_nodes: int, name: str) -> None:
    """Checks shape, dtype and range of an edge index.

    Args:
        edge_index: Expected int64 [2, E] with entries in [0, num_nodes).
        num_nodes: Number of nodes.
        name: Data set name for the message.

    Raises:
        TypeError: If the entries are not int64.
        ValueError: If the shape is not [2, E] or an entry is out of range.
    """
    if edge_index.dtype != torch.int64:
        raise TypeError(f"{name}: edge_index must be int64, got {edge_index.dtype}")
    if edge_index.dim() != 2 or edge_index.shape[0] != 2:
        raise ValueError(
            f"{name}: edge_index must be [2, E], got {list(edge_index.shape)}"
            + ("; transpose it" if edge_index.dim() == 2 and edge_index.shape[1] == 2 else "")
        )
    if not edge_index.numel():
        return
    low, high = int(edge_index.min()), int(edge_index.max())
    if low < 0 or high >= num_nodes:
        raise ValueError(
            f"{name}: edge_index holds {low if low < 0 else high}, expected 0..{num_nodes - 1} "
            f"for {num_nodes:,} nodes (1-based node ids need a subtraction)"
        )


def symmetrise(
    edge_index: Tensor, num_nodes: int, edge_attr: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Adds every missing reverse edge and merges duplicates; self-loops stay.

    Args:
        edge_index: int64 [2, E].
        num_nodes: Number of nodes.
        edge_attr: [E, F] or None; merged edges get the mean.

    Returns:
        The sorted symmetric edge index and its attributes.
    """
    from torch_geometric.utils import to_undirected

    if edge_attr is None:
        return to_undirected(edge_index, num_nodes=num_nodes), None
    both, attr = to_undirected(edge_index, edge_attr, num_nodes=num_nodes, reduce="mean")
    return both, attr


def edge_note(name: str, in_file: int, returned: int, how: str = "as in the file") -> str:
    """Says on stderr, and returns, how many edges the file has and how many the loader returns.

    Args:
        name: Data set name.
        in_file: Edges in the raw file.
        returned: Columns of the ``edge_index`` returned.
        how: What was done: "both directions stored", "symmetrised", ...
    """
    note = f"{in_file:,} edges in the file, {returned:,} returned ({how})"
    announce(f"{name}: {note}")
    return note


def caller_level() -> int:
    """The ``stacklevel`` with which a warning names the first line outside this package.

    Call it in the function that warns.
    """
    level, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] == "graphattn":
        level, frame = level + 1, frame.f_back
    return level


def announce(text: str) -> None:
    """Prints one line on stderr: for what must never be silent, whatever logging is set to."""
    print(text, file=sys.stderr)
