"""Hop features: every node's features averaged over one, two, ... hops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graphattn.graph import CSRGraph
from graphattn.graph.sort import index_dtype
from graphattn.graph.store import Store
from graphattn.graph.store_rows import add_array
from graphattn.ops import aggregate
from graphattn.sampling.checks import check_integer, directed
from graphattn.sampling.neighbor import graph_of
from graphattn.sampling.tokens import merged

_EDGES = 1 << 15  # edges whose sources are gathered at a time
DIRECTION = "hop_direction"


def hop_features(
    graph: Any,
    x: Tensor,
    hops: int = 2,
    *,
    direction: str = "in",
    legacy_norm: bool = False,
    impl: str = "auto",
) -> list[Tensor]:
    r"""``[X, ÂX, Â²X, ...]``, the contexts of LargeGT's tokens and NAGphormer's tokens themselves.

    .. math:: \hat A = D_r^{-1/2} B D_c^{-1/2}, \qquad B = A + I

    with :math:`D_r, D_c` the row and column sums of B. Its spectral norm is at most 1, for
    directed graphs too.

    Args:
        graph: Anything :class:`NeighborSampler` takes; duplicate edges are merged first.
        x: Features ``[N, F]``.
        hops: Number of products.
        direction: Whose features a node averages, as :class:`TokenSampler`.
        legacy_norm: Exchange the two degree vectors as LargeGT's code does: the same on undirected
            graphs; on directed ones the norm can exceed 1.
        impl: Of :func:`graphattn.aggregate`.

    Returns:
        ``hops + 1`` tensors ``[N, F]``.

    Raises:
        TypeError: ``hops`` that is not an integer.
        ValueError: ``hops`` below 0, or x that does not fit the graph.
    """
    hops = check_integer("hops", hops, 0)
    followed = merged(directed(graph_of(graph), direction, ids=False))
    if x.dim() != 2 or x.shape[0] != followed.num_rows:
        raise ValueError(
            f"x must be features [{followed.num_rows}, F] of the graph's nodes, got {list(x.shape)}"
        )
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    columns = torch.bincount(followed.indices, minlength=followed.num_rows)
    scales = [(degree + 1).to(kind).rsqrt().unsqueeze(1) for degree in (followed.degree(), columns)]
    left, right = reversed(scales) if legacy_norm else scales
    found = [x.to(kind)]
    for _ in range(hops):
        scaled = found[-1] * right
        total = aggregate(scaled, followed, impl=impl)
        assert isinstance(total, Tensor)
        found.append((total + scaled) * left)
    return found


def store_hops(folder: Path | str, hops: int = 2, *, direction: str = "in") -> Store:
    """Write ``hop1``, ``hop2``, ... beside the features of a store, a block of rows at a time.

    In the dtype of the stored features, duplicates in the graph merged; goes on after a kill and
    keeps what is there.

    Memory: the features that ``2**15`` edges read, and 8 bytes per node; with another direction
    than "in" also the graph.

    Args:
        folder: A store with features ``x``.
        hops, direction: As :func:`hop_features`.

    Raises:
        ValueError: A store without features, or with hop features of another direction.
    """
    store, hops = Store(folder), check_integer("hops", hops, 0)
    if "x" not in store.names:
        raise ValueError(f"{folder} has no features to average; build it with an array x")
    check_direction(store.meta["extra"].get(DIRECTION, direction), direction)
    graph: CSRGraph | None = None
    for hop in range(1, hops + 1):
        if f"hop{hop}" in store.names:
            continue
        graph = merged(directed(store.graph, direction, ids=False)) if graph is None else graph
        rows = HopRows(graph, store.array("x" if hop == 1 else f"hop{hop - 1}"))
        store = add_array(folder, f"hop{hop}", rows, {DIRECTION: direction})
    return store


def check_direction(stored: str, wanted: str) -> None:
    """Raises ``ValueError`` unless a store's hop features follow the direction asked for."""
    if stored != wanted:
        raise ValueError(
            f"the store's hop features follow direction {stored!r}, asked for {wanted!r}; set "
            f"--sampling.direction {stored}, or build the store anew"
        )


class HopRows:
    r"""Rows of :math:`\hat A x`, made when a slice of them is read; x may be mapped.

    Args:
        graph: Followed by row, without duplicates.
        x: ``[N, F]``; the rows have its dtype.
    """

    def __init__(self, graph: CSRGraph, x: Tensor) -> None:
        self.graph, self.x, self.shape, self.dtype = graph, x, x.shape, x.dtype
        columns = torch.bincount(graph.indices, minlength=graph.num_rows)
        self.left = (graph.indptr.diff() + 1).float().rsqrt()
        self.right = (columns + 1).float().rsqrt()

    def numel(self) -> int:
        """Numbers in all rows."""
        return self.x.numel()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: slice) -> Tensor:
        first, last = rows.start, min(rows.stop, len(self))
        out = torch.empty(last - first, self.shape[1], dtype=self.dtype)
        begin = first
        while begin < last:
            end = self._end_of_block(begin, last)
            out[begin - first : end - first] = self._block(begin, end)
            begin = end
        if not out.isfinite().all():
            raise ValueError(
                f"hop features of nodes {first} to {last - 1} are not finite in {self.dtype}; "
                "build the store with --dtype bf16 or fp32"
            )
        return out

    def _end_of_block(self, begin: int, last: int) -> int:
        """So many rows that their edges fit, one at least."""
        offsets = self.graph.indptr[begin : last + 1]
        fits = int(torch.searchsorted(offsets, offsets[0] + _EDGES, right=True)) - 1
        return begin + max(fits, 1)

    def _block(self, begin: int, end: int) -> Tensor:
        offsets = self.graph.indptr[begin : end + 1]
        sources = self.graph.indices[int(offsets[0]) : int(offsets[-1])]
        distinct, place = torch.unique(sources, return_inverse=True)
        scaled = self._scaled(distinct.long())
        size = len(distinct)
        local = CSRGraph._trusted(offsets - offsets[0], place.to(index_dtype(size)), size, None)
        total = aggregate(scaled, local)
        assert isinstance(total, Tensor)
        own = self._scaled(slice(begin, end))
        return total.add_(own).mul_(self.left[begin:end].unsqueeze(1))

    def _scaled(self, nodes: Tensor | slice) -> Tensor:
        rows = self.x[nodes].to(torch.float32, copy=True)
        return rows.mul_(self.right[nodes].unsqueeze(1))
