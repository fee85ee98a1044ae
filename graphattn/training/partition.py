"""``graphattn partition``: a data set as a store on disk, and its parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from graphattn.graph.partition import partition
from graphattn.graph.store import Store, is_store
from graphattn.graph.store_build import build_store
from graphattn.graph.store_checks import check_same
from graphattn.graph.store_rows import DTYPES, add_array
from graphattn.training.config import EncodingConfig
from graphattn.training.inputs import positional_encoding

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
    hops: int = 0,
    direction: str = "in",
    encoding: EncodingConfig | None = None,
) -> Store:
    """Writes a data set as a store, in a streaming pass that goes on after a kill.

    Args:
        dataset: With mapped tensors (anything from the cache) memory stays small.
        folder: Target.
        dtype: Of the features: fp32, fp16, bf16, or None for what they are.
        undirected: Add missing reverse edges, on disk.
        parts: Also write ``part.npy``, the part of every node; 0 for none.
        method: Of :func:`graphattn.graph.partition.partition`; needs the graph in memory.
        hops: Also write features averaged over 1 .. hops steps (large-gt reads 2).
        direction: Of the hops.
        encoding: Also write this positional encoding, ``pe.npy``; its solver runs in memory.

    A finished store in ``folder`` is kept, and gains what it lacks of parts, hops and encoding.

    Raises:
        ValueError: The folder holds the store of another data set, or one made with other options.
    """
    if is_store(folder):
        store = _kept(dataset, folder, dtype, undirected)
    else:
        store = _build(dataset, folder, dtype, undirected)
    if parts:
        _check_kept(store, "part", "parts", parts)
        if "part" not in store.names:
            part = partition(store.graph, parts, method).to(torch.int32)
            store = add_array(folder, "part", part, {"parts": parts, "method": method})
    if encoding is not None and encoding.kind not in ("none", "stored"):
        about = asdict(encoding)
        _check_kept(store, "pe", "encoding", about)
        if "pe" not in store.names:
            pe = positional_encoding(store.graph, encoding)
            assert pe is not None
            store = add_array(folder, "pe", pe, {"encoding": about})
    if hops:
        from graphattn.sampling.hops import store_hops

        store = store_hops(folder, hops, direction=direction)
    return store


def _kept(dataset: NodeDataset, folder: Path, dtype: str | None, undirected: bool) -> Store:
    """The finished store, if it is the data set's and has what is asked for."""
    store = Store(folder)
    held, wanted = dict(store.meta), {"name": dataset.name, "num_nodes": dataset.data.num_nodes}
    if undirected:
        wanted["undirected"] = True
    if dtype is not None and "x" in store.names:
        held["features in"] = store.array("x").dtype
        wanted["features in"] = DTYPES.get(dtype, dtype)
    check_same(folder, held, wanted)
    return store


def _check_kept(store: Store, key: str, what: str, wanted: Any) -> None:
    """Raises ``ValueError`` where a store has an array already, made in another way."""
    held = store.meta["extra"].get(what, wanted)
    if key in store.names and held != wanted:
        raise ValueError(
            f"{store.folder} holds {key} with {what} {held}, asked for {wanted}; write the store "
            "into another folder, or leave the option out"
        )


def _build(dataset: NodeDataset, folder: Path, dtype: str | None, undirected: bool) -> Store:
    from graphattn.datasets.store import contents

    edge_index = dataset.data.edge_index
    if edge_index is None:
        raise ValueError(f"{dataset.name} is a store already; give its own folder as --out")
    arrays, about = contents(dataset)

    def edges() -> Iterator[np.ndarray]:
        for start in range(0, edge_index.shape[1], _BLOCK):
            yield edge_index[:, start : start + _BLOCK].numpy()

    nodes, count = int(dataset.data.num_nodes), int(edge_index.shape[1])
    return build_store(
        folder, nodes, count, edges, arrays, undirected=undirected, dtype=dtype,
        name=dataset.name, extra=about,
    )  # fmt: skip
