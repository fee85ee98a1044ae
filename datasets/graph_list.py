"""Graphs over joined tensors: each is cut out when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch_geometric.data import Data


class GraphList(Sequence["Data"]):
    """A read-only sequence of graphs that opens at once, however many graphs there are.

    Each access makes a new ``Data`` whose tensors are views of the joined ones, so attributes set
    on it stay with it; ``list(graphs)`` gives graphs to keep and change.  A slice is a
    ``GraphList`` over the same tensors.  Pickling copies every joined tensor once.

    Args:
        joined: Per attribute the tensor over all graphs, the dimension it was joined along (None:
            stacked, one row per graph) and the length of each graph's part, int64 [graphs] (None
            when stacked).
        plain: Per attribute one value per graph.
        count: Number of graphs.

    Raises:
        ValueError: If an attribute's parts do not add up to its tensor.
    """

    def __init__(
        self,
        joined: Mapping[str, tuple[Tensor, int | None, Tensor | None]],
        plain: Mapping[str, Sequence[Any]],
        count: int,
    ) -> None:
        self._parts = {key: (values, dim) for key, (values, dim, _) in joined.items()}
        self._plain = dict(plain)
        self._ids = range(count)
        self._starts = {}
        for key, (values, dim, sizes) in joined.items():
            held = len(values) if sizes is None else len(sizes)
            if held != count:
                raise ValueError(f"{key} has parts for {held:,} graphs, not {count:,}")
            if dim is None or sizes is None:
                continue
            starts = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
            if int(starts[-1]) != values.shape[dim]:
                raise ValueError(f"{key} has {values.shape[dim]:,} rows, not {int(starts[-1]):,}")
            self._starts[key] = starts.tolist()

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, index: int) -> Data: ...

    @overload
    def __getitem__(self, index: slice) -> GraphList: ...

    def __getitem__(self, index: int | slice) -> Data | GraphList:
        if isinstance(index, slice):
            part = GraphList.__new__(GraphList)
            part.__dict__ = self.__dict__ | {"_ids": self._ids[index]}
            return part
        return self._cut(self._ids[index])

    def __repr__(self) -> str:
        return f"GraphList({len(self):,} graphs)"

    def _cut(self, graph: int) -> Data:
        from torch_geometric.data import Data

        found = {key: column[graph] for key, column in self._plain.items()}
        for key, (values, dim) in self._parts.items():
            if dim is None:
                found[key] = values[graph]
            else:
                start, end = self._starts[key][graph : graph + 2]
                found[key] = values.narrow(dim, start, end - start)
        return Data(**found)
