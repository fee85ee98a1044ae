"""What a store refuses: odd edges, arrays that do not fit, a folder that holds another store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_PER_NODE = ("x", "y", "pe", "part")


def type_name(kind: torch.dtype) -> str:
    """A dtype as ``meta.json`` has it."""
    return str(kind).removeprefix("torch.")


def check_block(block: Any, nodes: int) -> None:
    """Raise unless ``block`` [2, n] holds integers in [0, nodes).

    Raises:
        TypeError: No array, or not of integers.
        ValueError: Another shape, or a node out of range.
    """
    kind = block.dtype if isinstance(block, np.ndarray) else type(block).__name__
    if not isinstance(block, np.ndarray) or block.dtype.kind not in "iu":
        raise TypeError(
            f"edges must come as NumPy arrays of integers [2, n], got {kind}; convert them with "
            ".numpy() or .astype(np.int64)"
        )
    if block.ndim != 2 or len(block) != 2:
        raise ValueError(
            f"edges must come as blocks [2, n] of (source, target), got {list(block.shape)}; "
            "transpose blocks of [n, 2]"
        )
    if block.size and (block.min() < 0 or block.max() >= nodes):
        bad = block.min() if block.min() < 0 else block.max()
        raise ValueError(
            f"edges must join nodes in [0, {nodes}), got {bad}; set num_nodes to the largest + 1"
        )


def check_count(found: int, announced: int, done: bool) -> None:
    """Raise ``ValueError`` where a stream has more edges than announced, or ends with fewer."""
    if found > announced or (done and found != announced):
        raise ValueError(
            f"num_edges announced {announced:,} edges, the stream yielded "
            f"{found:,}{'' if done else ' and more'}; give the number that it yields, every time "
            "the same"
        )


def check_rows(key: str, count: int, nodes: int) -> None:
    """Raise ``ValueError`` unless an array that has a row per node has so many."""
    per_node = key in _PER_NODE or (key.startswith("hop") and key[3:].isdigit())
    if per_node and count != nodes:
        raise ValueError(
            f"{key} must have one row per node, {nodes:,}, got {count:,}; fill up what is missing, "
            "or set num_nodes"
        )


def check_finite(key: str, first: int, rows: Tensor, stored: Tensor) -> None:
    """Raise ``ValueError`` where numbers that are finite left the range of the stored dtype."""
    if rows.dtype == stored.dtype or not stored.is_floating_point():
        return
    lost = rows.isfinite() & ~stored.isfinite()
    if bool(lost.any()):
        place = lost.nonzero()[0].tolist()
        raise ValueError(
            f"{key} of node {first + place[0]} is {rows[tuple(place)].item():.4g}, which "
            f"{type_name(stored.dtype)} cannot hold; remove the folder and store it as bf16 or "
            "fp32, or scale it"
        )


def check_same(folder: Path, held: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` where a finished store was made in another way than asked for."""
    for what, value in wanted.items():
        if what in held and held[what] != value:
            raise ValueError(
                f"{folder} is a finished store with {what} {held[what]}, asked for {value}; write "
                "this one into another folder, or remove that"
            )
