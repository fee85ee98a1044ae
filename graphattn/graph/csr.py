"""CSRGraph: who attends to whom, as compressed sparse rows."""

import hashlib
import weakref
from typing import Any

import torch
from torch import Tensor

from graphattn.graph import edit
from graphattn.graph.checks import (
    Size,
    check_csr,
    check_edge_index,
    check_index_range,
    infer_size,
    normal_size,
    rows_sorted,
)
from graphattn.graph.chunks import equal_edge_chunks, hub_parts
from graphattn.graph.sort import sort_edges, transpose_csr
from graphattn.kernels.layout import Layout


class CSRGraph:
    r"""A sparse graph in CSR form: row ``i`` lists the nodes that node ``i`` attends to.

    In PyG's terms ``edge_index[0]`` (source) is the column and ``edge_index[1]`` (target) the row.
    Columns are sorted within a row, ties by edge id; duplicate edges are kept and count with
    multiplicity; nothing adds self-loops or symmetrises silently.

    Edge tensors passed to any op stay in the *caller's order*: ``edge_perm[p]`` is the caller's
    edge id at CSR position ``p``, ``None`` when the two orders are the same.

    Args:
        indptr: Row offsets ``[rows + 1]``, int64.
        indices: Columns ``[E]``, int32 or int64; unsorted rows are sorted and ``edge_perm`` set.
        num_cols: Number of key nodes; ``None`` means as many as rows.
        edge_perm: Caller's edge id at each position ``[E]``.

    Transpose, degrees and kernel plans are computed once and cached on the object; pickling and
    copying carry the arrays only. Memory: ``8 (rows + 1) + 4 E`` bytes (8 E past 2^31 columns),
    plus 8 E for ``edge_perm``, and about 20 E once the backward pass has built the transpose.

    The arrays are checked once and shared, not copied: do not edit them afterwards.

    Raises:
        TypeError: ``indptr``, ``indices`` or ``edge_perm`` is not an integer tensor.
        ValueError: offsets decrease or do not end at E, an index is outside ``[0, num_cols)``.
    """

    indptr: Tensor
    indices: Tensor
    edge_perm: Tensor | None
    num_cols: int

    def __init__(
        self,
        indptr: Tensor,
        indices: Tensor,
        num_cols: int | None = None,
        edge_perm: Tensor | None = None,
    ) -> None:
        check_csr(indptr, indices, edge_perm)
        num_rows = indptr.numel() - 1
        num_cols, _ = normal_size(num_rows if num_cols is None else num_cols) or (0, 0)
        check_index_range(indices, num_cols, "indices")
        perm = None if edge_perm is None else edge_perm.contiguous()
        self._set(indptr.to(torch.int64).contiguous(), indices.contiguous(), num_cols, perm)
        if not rows_sorted(self.indptr, indices):
            indptr, indices, order = sort_edges(indices, self.row_index(), num_rows, num_cols)
            perm = order if edge_perm is None else edge_perm[order]
            self._set(indptr, indices, num_cols, perm)

    def _set(
        self, indptr: Tensor, indices: Tensor, num_cols: int, edge_perm: Tensor | None
    ) -> None:
        self.indptr, self.indices, self.edge_perm = indptr, indices, edge_perm
        self.num_cols = num_cols
        self._transpose: CSRGraph | None = None
        self._origin: weakref.ref[CSRGraph] | None = None
        self._layouts: dict[str, Layout] = {}
        self._degree: Tensor | None = None
        self.ready: dict[Any, Any] = {}  # calls that operators have prepared; see ops/ready.py

    @classmethod
    def _trusted(
        cls, indptr: Tensor, indices: Tensor, num_cols: int, edge_perm: Tensor | None
    ) -> "CSRGraph":
        """Wrap arrays that are known to be valid and sorted, without a check."""
        graph = cls.__new__(cls)
        graph._set(indptr, indices, num_cols, edge_perm)
        return graph

    @classmethod
    def from_edge_index(cls, edge_index: Tensor, size: Size = None) -> "CSRGraph":
        """Build from PyG's ``edge_index`` [2, E]; duplicates are kept.

        ``size`` is the number of nodes, or ``(num_sources, num_targets)`` for a bipartite graph;
        ``None`` takes the largest index plus one (isolated trailing nodes are then lost).
        """
        check_edge_index(edge_index)
        num_cols, num_rows = infer_size(edge_index, size)
        source, target = edge_index[0], edge_index[1]
        indptr, indices, perm = sort_edges(source, target, num_rows, num_cols)
        if not torch.compiler.is_compiling() and bool((perm.diff() == 1).all()):
            return cls._trusted(indptr, indices, num_cols, None)
        return cls._trusted(indptr, indices, num_cols, perm)

    @property
    def num_rows(self) -> int:
        """Number of query (target) nodes."""
        return self.indptr.shape[0] - 1

    @property
    def num_edges(self) -> int:
        """Number of edges, duplicates counted."""
        return self.indices.shape[0]

    @property
    def device(self) -> torch.device:
        """Device of the arrays."""
        return self.indices.device

    def degree(self) -> Tensor:
        """Number of neighbours of each row, [rows] int64 (PyG: in-degree)."""
        if self._degree is not None:
            return self._degree
        if torch.compiler.is_compiling():
            return self.indptr.diff()
        with torch.inference_mode(False):
            self._degree = self.indptr.diff()
        return self._degree

    def row_index(self) -> Tensor:
        """Row of each CSR position, [E] int64."""
        rows = torch.arange(self.num_rows, device=self.device)
        return torch.repeat_interleave(rows, self.indptr.diff(), output_size=self.num_edges)

    def edge_index(self) -> Tensor:
        """``edge_index`` [2, E] int64 in the caller's edge order."""
        pairs = torch.stack([self.indices.to(torch.int64), self.row_index()])
        if self.edge_perm is None:
            return pairs
        out = torch.empty_like(pairs)
        out[:, self.edge_perm] = pairs
        return out

    def t(self) -> "CSRGraph":
        """Transposed graph (row = source), cached; its ``edge_perm`` keeps the caller's ids."""
        known = self._transpose
        if known is None and self._origin is not None:
            known = self._origin()
        if known is not None:
            return known
        if torch.compiler.is_compiling():
            return self._transposed()
        # What is kept must serve training too, even when it is first asked for in inference mode.
        with torch.inference_mode(False):
            self._transpose = self._transposed()
        # Weak, so that a graph and its transpose are freed with the last outside reference.
        self._transpose._origin = weakref.ref(self)
        return self._transpose

    def _transposed(self) -> "CSRGraph":
        indptr, indices, position = transpose_csr(self.indptr, self.indices, self.num_cols)
        perm = position if self.edge_perm is None else self.edge_perm[position]
        return CSRGraph._trusted(indptr, indices, self.num_rows, perm)

    def layout(self, impl: str = "cpu") -> tuple[Layout, Layout]:
        """Raw tensors for the kernels of ``impl``: by rows, and by columns; cached."""
        return self.rows_layout(impl), self.cols_layout(impl)

    def cols_layout(self, impl: str = "cpu") -> Layout:
        """Raw tensors by columns: what a backward pass needs besides; cached."""
        return self.t().rows_layout(impl)

    def rows_layout(self, impl: str = "cpu") -> Layout:
        """Raw tensors by rows alone: all that a forward pass needs; cached."""
        if impl in self._layouts:
            return self._layouts[impl]
        if torch.compiler.is_compiling():
            return self._plain_layout(impl)
        with torch.inference_mode(False):
            self._layouts[impl] = self._plain_layout(impl)
        return self._layouts[impl]

    def _plain_layout(self, impl: str) -> Layout:
        edges = self.edge_perm if self.edge_perm is not None else self.indptr.new_empty(0)
        return Layout(self.indptr, self.indices, edges, self._plan(impl))

    def _plan(self, impl: str) -> tuple[Tensor, ...]:
        if impl == "cpu":
            return equal_edge_chunks(self.indptr), hub_parts(self.indptr, self.num_edges)
        if impl == "triton":
            from graphattn.graph.tasks import build_tasks

            return build_tasks(self.indptr)
        return ()

    def to(self, device: torch.device | str) -> "CSRGraph":
        """This graph on ``device``: itself when it is there already, plans are rebuilt there."""
        if torch.empty(0, device=device).device == self.device:
            return self
        perm = None if self.edge_perm is None else self.edge_perm.to(device)
        moved = self.indptr.to(device), self.indices.to(device)
        return CSRGraph._trusted(*moved, self.num_cols, perm)

    def add_self_loops(self) -> "CSRGraph":
        """Append one self-loop per node after the existing edges, as PyG does."""
        return edit.add_self_loops(self)[0]

    def remove_self_loops(self) -> "CSRGraph":
        """Drop every edge from a node to itself."""
        return edit.remove_self_loops(self)[0]

    def coalesce(self) -> "CSRGraph":
        """Merge duplicate edges; the result is in row-major order."""
        return edit.coalesce(self)[0]

    def to_undirected(self) -> "CSRGraph":
        """Add the reverse of every edge and merge duplicates, as PyG does."""
        return edit.to_undirected(self)[0]

    def is_undirected(self) -> bool:
        """Whether every edge has its reverse, with the same multiplicity."""
        return edit.is_undirected(self)

    def union(self, other: "CSRGraph") -> "CSRGraph":
        """All edges of this graph, then all of ``other``; duplicates are kept."""
        return edit.union(self, other)[0]

    def filter(self, edge_mask: Tensor) -> "CSRGraph":
        """Keep the edges where ``edge_mask`` [E] bool (caller's order) is true."""
        return edit.filter_edges(self, edge_mask)[0]

    def reorder(self, order: str | Tensor) -> "tuple[CSRGraph, Tensor]":
        """Renumber by ``"rcm"`` or a permutation -> (graph, perm): new i is old ``perm[i]``."""
        return edit.reorder(self, order)

    def fingerprint(self) -> str:
        """SHA-256 of sizes and arrays in hex: the key of on-disk caches."""
        digest = hashlib.sha256(f"{self.num_rows},{self.num_cols}".encode())
        perm = torch.empty(0) if self.edge_perm is None else self.edge_perm
        for array in (self.indptr, self.indices.to(torch.int64), perm):
            digest.update(array.detach().cpu().numpy().tobytes())
        return digest.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        names = ("indptr", "indices", "num_cols", "edge_perm")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._set(**state)

    def __repr__(self) -> str:
        shape = f"num_rows={self.num_rows}, num_cols={self.num_cols}, num_edges={self.num_edges}"
        return f"CSRGraph({shape})"
