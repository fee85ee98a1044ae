"""``graphattn partition``: a data set as a store on disk, and its parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from graphattn.graph.partition import partition
from graphattn.graph.store import Store
from graphattn.graph.store_build import build_store
from graphattn.training.inputs import graph_of

if TYPE_CHECKING:
    from graphattn.datasets.base import NodeDataset

_BLOCK = 1 << 22


def to_store(
    dataset: NodeDataset,
    folder: Path,
    *,
    dtype: str | None = None,
    undirected: bool = False,
    parts: int = 0,
    method: str = "auto",
) -> Store:
    """Writes a data set as a store, in a streaming pass that goes on after a kill.

    Args:
        dataset: With mapped tensors (anything from the cache) memory stays small.
        folder: Target.
        dtype: Of the features: fp32, fp16, bf16, or None for what they are.
        undirected: Add missing reverse edges, on disk.
        parts: Also write ``part.npy``, the part of every node; 0 for none.
        method: Of :func:`graphattn.graph.partition.partition`; needs the graph in memory.
    """
    from graphattn.datasets.store import contents

    edge_index = dataset.data.edge_index
    arrays, about = contents(dataset)
    if parts:
        number = partition(graph_of(dataset), parts, method)
        arrays["part"] = number.to(torch.int32)

    def edges() -> Iterator[np.ndarray]:
        for start in range(0, edge_index.shape[1], _BLOCK):
            yield edge_index[:, start : start + _BLOCK].numpy()

    nodes, count = int(dataset.data.num_nodes), int(edge_index.shape[1])
    return build_store(
        folder, nodes, count, edges, arrays, undirected=undirected, dtype=dtype,
        name=dataset.name, extra=about,
    )  # fmt: skip
