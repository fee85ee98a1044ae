"""ProductGraph: graphs on grids whose neighbourhoods are products of one interval per axis."""

from math import prod
from typing import Any

import torch
from torch import Tensor

from graphattn.graph.axes import BORDERS, Axis, build_tables
from graphattn.graph.chunks import equal_work_rows
from graphattn.graph.csr import CSRGraph
from graphattn.graph.sort import index_dtype
from graphattn.kernels.grid import spell_out
from graphattn.kernels.layout import Layout

_RULES = (*BORDERS, "blocks", "all")
_NUMBERS = ("rows", "cols", "kernel_size", "stride", "dilation", "is_causal", "shift", "halo")


class ProductGraph:
    r"""A graph on a grid whose edges are never written down: one rule per axis.

    Nodes are numbered row-major, the last axis fastest, as ``tensor.flatten`` does. A node attends
    to the Cartesian product of its neighbours along each axis. The CPU kernels compute neighbours
    from tables of the axes; ``to_csr()`` writes them down for everything else. An edge's id is its
    position in ``to_csr()``.

    Made by :class:`GridGraph`, :func:`grid_blocks`, :func:`halo` and :func:`complete`. Equal
    arguments make equal graphs. It has no tensors and follows the device of what attends over it.

    Memory: 128 bytes per coordinate of an axis; 4 bytes per edge and more after ``to_csr()``.
    """

    axes: tuple[Axis, ...]
    device: torch.device
    num_edges: int

    def __init__(self, axes: tuple[Axis, ...], device: torch.device | str = "cpu") -> None:
        self.axes = tuple(axes)
        self.device = torch.device(device)
        self.num_edges = prod(axis.num_edges for axis in self.axes)
        self._layouts: dict[str, tuple[Layout, Layout]] = {}
        self._csr: CSRGraph | None = None
        self._relative: Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent of every axis (of the queries, where keys have other ones)."""
        return tuple(axis.rows for axis in self.axes)

    @property
    def num_rows(self) -> int:
        """Number of query nodes."""
        return prod(axis.rows for axis in self.axes)

    @property
    def num_cols(self) -> int:
        """Number of key nodes."""
        return prod(axis.cols for axis in self.axes)

    @property
    def num_relative(self) -> int:
        """Number of relative positions: columns of a bias table, :math:`\\prod (2 k_i - 1)`."""
        return prod(axis.width for axis in self.axes)

    def degree(self) -> Tensor:
        """Number of neighbours of each node, [rows] int64; under ``truncate`` fewer at borders."""
        found = torch.ones(1, dtype=torch.int64)
        for axis in self.axes:
            found = torch.outer(found, axis.counts()).flatten()
        return found.to(self.device)

    def to_csr(self) -> CSRGraph:
        """The same graph with its edges written down, sorted; cached. Memory: 4 E bytes."""
        if self._csr is None:
            with torch.inference_mode(False):
                self._write_down()
        assert self._csr is not None
        return self._csr

    def relative_index(self) -> Tensor:
        """Relative position of every edge, [E]: what a ``TableBias`` looks up by itself; cached.

        Along an axis ``(key - query) / dilation + k - 1``, row-major over the axes as in NATTEN's
        ``rpb[H, 2 k_1 - 1, 2 k_2 - 1]``; where a window wraps, the distance is the unwrapped one.
        """
        if self._relative is None:
            self.to_csr()
        assert self._relative is not None
        return self._relative

    def _write_down(self) -> None:
        indptr, indices, relative = spell_out(build_tables(self.axes)[0])
        indices = indices.to(index_dtype(self.num_cols))
        here = self.device
        self._csr = CSRGraph._trusted(indptr.to(here), indices.to(here), self.num_cols, None)
        self._relative = relative.to(torch.int32).to(self.device)

    def t(self) -> CSRGraph:
        """Transposed graph, written down; its ``edge_perm`` keeps this graph's edge ids."""
        return self.to_csr().t()

    def to(self, device: torch.device | str) -> "ProductGraph":
        """This graph for tensors on ``device``."""
        device = torch.empty(0, device=device).device
        if device == self.device:
            return self
        moved = ProductGraph.__new__(type(self))
        moved.__dict__.update(self.__dict__)
        ProductGraph.__init__(moved, self.axes, device)
        return moved

    def rows_layout(self, impl: str = "cpu") -> Layout:
        """What the kernels of ``impl`` read of the rows: axis tables, or the written-down CSR."""
        return self._layout(impl)[0] if impl == "cpu" else self.to_csr().rows_layout(impl)

    def cols_layout(self, impl: str = "cpu") -> Layout:
        """What the kernels of ``impl`` read of the columns."""
        return self._layout(impl)[1] if impl == "cpu" else self.to_csr().cols_layout(impl)

    def layout(self, impl: str = "cpu") -> tuple[Layout, Layout]:
        """Both orientations."""
        return self.rows_layout(impl), self.cols_layout(impl)

    def _layout(self, impl: str) -> tuple[Layout, Layout]:
        if impl in self._layouts:
            return self._layouts[impl]
        if torch.compiler.is_compiling():
            return self._implicit()
        with torch.inference_mode(False):
            self._layouts[impl] = self._implicit()
        return self._layouts[impl]

    def _implicit(self) -> tuple[Layout, Layout]:
        rules = [_RULES.index(axis.rule) for axis in self.axes]
        numbers = [int(getattr(axis, name)) for axis in self.axes for name in _NUMBERS]
        tables, by_rows, by_cols = implicit_plan(rules, numbers)
        sizes = (self.num_rows, by_rows), (self.num_cols, by_cols)
        both = (tables, tables.flip(0))
        rows, cols = (self._one_way(n, c, t) for (n, c), t in zip(sizes, both, strict=True))
        return rows, cols

    def _one_way(self, nodes: int, chunks: Tensor, tables: Tensor) -> Layout:
        """Arrays that nobody wrote: one element each, whose shapes still tell rows and edges."""
        blank = chunks.new_zeros(1)
        indptr, indices = blank.expand(nodes + 1), blank.expand(self.num_edges)
        return Layout(indptr, indices, tables, (chunks, chunks.new_empty(3, 0)))

    def __getstate__(self) -> dict[str, Any]:
        blank: dict[str, Any] = {"_layouts": {}, "_csr": None, "_relative": None}
        return {**self.__dict__, **blank}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ProductGraph):
            return NotImplemented
        return self.axes == other.axes and self.device == other.device

    def __hash__(self) -> int:
        return hash((self.axes, self.device))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape}, num_edges={self.num_edges})"


@torch.library.custom_op("graphattn::implicit_plan", mutates_args=())
def implicit_plan(rules: list[int], numbers: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Tables of both orientations, and row and column bounds of chunks of about equal work."""
    tables = build_tables(_unpacked(rules, numbers))
    return tables, equal_work_rows(tables[0]), equal_work_rows(tables[1])


@implicit_plan.register_fake
def _(rules: list[int], numbers: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    axes = _unpacked(rules, numbers)
    longest = max(sum(a.rows for a in axes), sum(a.cols for a in axes)) + 3 - len(axes)
    bounds = [torch.empty(65, dtype=torch.int64) for _ in range(2)]
    return torch.empty(2, longest + 3, 8, dtype=torch.int64), bounds[0], bounds[1]


def _unpacked(rules: list[int], numbers: list[int]) -> tuple[Axis, ...]:
    made, step = [], len(_NUMBERS)
    for n, rule in enumerate(rules):
        values: dict[str, Any] = dict(
            zip(_NUMBERS, numbers[n * step : (n + 1) * step], strict=True)
        )
        values["is_causal"] = bool(values["is_causal"])
        made.append(Axis(**values, rule=_RULES[rule]))
    return tuple(made)
