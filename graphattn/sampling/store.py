"""A store as PyG's FeatureStore and GraphStore."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import FeatureStore, GraphStore, TensorAttr
from torch_geometric.data.graph_store import EdgeAttr, EdgeLayout

from graphattn.graph.csr import CSRGraph
from graphattn.graph.store import Store, widened


class Features(FeatureStore):  # type: ignore[misc]
    """Arrays with one row per node; halves are widened to float32 as they are read.

    Args:
        store: An open store.
        names: Which arrays; ``None``: all with N rows.
    """

    def __init__(self, store: Store, names: list[str] | None = None) -> None:
        super().__init__()
        self.store = store
        rows = [n for n in store.names if store.meta["arrays"][n]["shape"][0] == store.num_nodes]
        self.names = rows if names is None else names

    def get_all_tensor_attrs(self) -> list[TensorAttr]:
        """One attribute per array."""
        return [TensorAttr(group_name=None, attr_name=name) for name in self.names]

    def _get_tensor(self, attr: TensorAttr) -> Tensor:
        index = attr.index
        if index is None or isinstance(index, slice):
            found = self.store.array(attr.attr_name)[index or slice(None)]
        else:
            found = self.store.gather(attr.attr_name, torch.as_tensor(index))
        return widened(found)

    def _get_tensor_size(self, attr: TensorAttr) -> tuple[int, ...]:
        return tuple(self.store.meta["arrays"][attr.attr_name]["shape"])

    def _put_tensor(self, tensor: Any, attr: TensorAttr) -> bool:
        raise NotImplementedError("a store is read-only; build a new one")

    def _remove_tensor(self, attr: TensorAttr) -> bool:
        raise NotImplementedError("a store is read-only; build a new one")


class Topology(GraphStore):  # type: ignore[misc]
    """The graph in CSC layout (by target), which PyG's samplers read too; edges have no types."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.graph: CSRGraph = store.graph

    def get_all_edge_attrs(self) -> list[EdgeAttr]:
        """The one edge type."""
        size = (self.graph.num_cols, self.graph.num_rows)
        return [EdgeAttr(None, EdgeLayout.CSC, is_sorted=True, size=size)]

    def _get_edge_index(self, edge_attr: EdgeAttr) -> tuple[Tensor, Tensor]:
        return self.graph.indices, self.graph.indptr

    def _put_edge_index(self, edge_index: Any, edge_attr: EdgeAttr) -> bool:
        raise NotImplementedError("a store is read-only; build a new one")

    def _remove_edge_index(self, edge_attr: EdgeAttr) -> bool:
        raise NotImplementedError("a store is read-only; build a new one")


def open_store(folder: Path | str) -> tuple[Features, Topology]:
    """``NeighborLoader(open_store(folder), ...)``: batches straight from the disk."""
    store = Store(folder)
    return Features(store), Topology(store)
