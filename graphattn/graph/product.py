"""ProductGraph: graphs on grids whose neighbourhoods are products of one interval per axis."""

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from graphattn.graph.axes import BORDERS, Axis, build_tables
from graphattn.graph.chunks import equal_work_rows, hub_parts
from graphattn.graph.csr import CSRGraph
from graphattn.graph.sort import index_dtype
from graphattn.kernels.grid import (
    AXES,
    COUNT,
    EXTENT,
    FIELDS,
    entries,
    first_edges,
    spell_out,
)
from graphattn.kernels.layout import CHUNKS, Layout, longest_row

_RULES = (*BORDERS, "blocks", "all")
_BY_TABLES = ("cpu", "tiles")
_NUMBERS = ("rows", "cols", "kernel_size", "stride", "dilation", "is_causal", "shift", "halo")


class ProductGraph:
    r"""A graph on a grid whose edges are never written down: one rule per axis.

    Nodes are numbered row-major, the last axis fastest, as ``tensor.flatten`` does. A node attends
    to the Cartesian product of its neighbours along each axis. The CPU kernels compute neighbours
    from tables of the axes; ``to_csr()`` writes them down for everything else. An edge's id is its
    position in ``to_csr()``.

    ``relative_shape``: number of relative positions along each axis.

    Made by :class:`GridGraph`, :func:`grid_blocks`, :func:`halo` and :func:`complete`. Equal
    arguments make equal graphs. It has no tensors and follows the device of what attends over it.

    Memory: 128 bytes per coordinate of an axis; 4 bytes per edge and more after ``to_csr()``.
    """

    axes: tuple[Axis, ...]
    device: torch.device
    num_edges: int
    relative_shape: tuple[int, ...]

    def __init__(self, axes: tuple[Axis, ...], device: torch.device | str = "cpu") -> None:
        self.axes = tuple(axes)
        self.device = torch.device(device)
        self.num_edges = prod([axis.num_edges for axis in self.axes])
        self.relative_shape = tuple([axis.width for axis in self.axes])
        self._layouts: dict[str, tuple[Layout, Layout]] = {}
        self._csr: CSRGraph | None = None
        self._relative: Tensor | None = None
        self._elsewhere: dict[torch.device, ProductGraph] = {}
        self.ready: dict[Any, Any] = {}  # calls that operators have prepared; see ops/ready.py

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent of every axis (of the queries, where keys have other ones)."""
        return tuple(axis.rows for axis in self.axes)

    @property
    def num_rows(self) -> int:
        """Number of query nodes."""
        return prod([axis.rows for axis in self.axes])

    @property
    def num_cols(self) -> int:
        """Number of key nodes."""
        return prod([axis.cols for axis in self.axes])

    @property
    def wraps(self) -> bool:
        """Whether a window may go on at the other side."""
        return "wrap" in [axis.rule for axis in self.axes]

    @property
    def num_relative(self) -> int:
        """Number of relative positions: columns of a bias table, :math:`\\prod (2 k_i - 1)`."""
        return prod(self.relative_shape)

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
        """This graph for tensors on ``device``; cached."""
        device = torch.device(device)
        if device.type != "cpu" and device.index is None:
            device = torch.empty(0, device=device).device
        if device == self.device:
            return self
        if device not in self._elsewhere:
            moved = ProductGraph.__new__(type(self))
            ProductGraph.__init__(moved, self.axes, device)
            self._elsewhere[device] = moved
        return self._elsewhere[device]

    def rows_layout(self, impl: str = "cpu") -> Layout:
        """What the kernels of ``impl`` read of the rows: axis tables, or the written-down CSR.

        ``"cpu"`` and ``"tiles"`` (Triton's kernels for grids) read tables.
        """
        return self._layout(impl)[0] if impl in _BY_TABLES else self.to_csr().rows_layout(impl)

    def cols_layout(self, impl: str = "cpu") -> Layout:
        """What the kernels of ``impl`` read of the columns."""
        return self._layout(impl)[1] if impl in _BY_TABLES else self.to_csr().cols_layout(impl)

    def layout(self, impl: str = "cpu") -> tuple[Layout, Layout]:
        """Both orientations."""
        return self.rows_layout(impl), self.cols_layout(impl)

    def _layout(self, impl: str) -> tuple[Layout, Layout]:
        if impl in self._layouts:
            return self._layouts[impl]
        if torch.compiler.is_compiling():
            return self._implicit(impl)
        with torch.inference_mode(False):
            self._layouts[impl] = self._implicit(impl)
        return self._layouts[impl]

    def _implicit(self, impl: str) -> tuple[Layout, Layout]:
        rules = [_RULES.index(axis.rule) for axis in self.axes]
        numbers = [int(getattr(axis, name)) for axis in self.axes for name in _NUMBERS]
        tables, *plan = implicit_plan(rules, numbers, self.num_edges)
        if impl == "tiles":  # the headers stay on the host: launches must not wait for the device
            plan = [tables[0, :AXES].clone(), tables[1, :AXES].clone()]
            tables = tables.to(self.device)
        half = len(plan) // 2
        rows = self._one_way(self.num_rows, tables, plan[:half])
        return rows, self._one_way(self.num_cols, tables.flip(0), plan[half:])

    def _one_way(self, nodes: int, tables: Tensor, plan: list[Tensor]) -> Layout:
        """Arrays that nobody wrote: one element each, whose shapes still tell rows and edges."""
        blank = tables.new_zeros(1)
        return Layout(blank.expand(nodes + 1), blank.expand(self.num_edges), tables, tuple(plan))

    def __getstate__(self) -> dict[str, Any]:
        blank: dict[str, Any] = {name: {} for name in ("_layouts", "_elsewhere", "ready")}
        return {**self.__dict__, **blank, "_csr": None, "_relative": None}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ProductGraph):
            return NotImplemented
        return self.axes == other.axes and self.device == other.device

    def __hash__(self) -> int:
        return hash((self.axes, self.device))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape}, num_edges={self.num_edges})"


@torch.library.custom_op("graphattn::implicit_plan", mutates_args=())
def implicit_plan(
    rules: list[int], numbers: list[int], num_edges: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Tables of both orientations; for rows and for columns, chunks and the parts of hubs."""
    found = _known_plan(tuple(rules), tuple(numbers), num_edges)
    a, b, c, d, e = (t.clone() for t in found)  # an operator's results are its caller's
    return a, b, c, d, e


# Compiled code calls the operator in every step.
@lru_cache(maxsize=256)
def _known_plan(
    rules: tuple[int, ...], numbers: tuple[int, ...], num_edges: int
) -> tuple[Tensor, ...]:
    tables = build_tables(_unpacked(rules, numbers))
    rows, cols = ((equal_work_rows(t), _parts(t, num_edges)) for t in tables)
    return tables, *rows, *cols


def _parts(tables: Tensor, num_edges: int) -> Tensor:
    """Parts of hubs: only graphs of few keys and many queries have them, or the reverse."""
    most = prod(int(entries(tables, axis)[:, COUNT].max()) for axis in range(AXES))
    if most <= longest_row(num_edges):
        return tables.new_empty(3, 0)
    every = torch.arange(int(tables[:AXES, EXTENT].prod()) + 1)
    parts: Tensor = hub_parts(first_edges(tables, every), num_edges)
    return parts


@implicit_plan.register_fake
def _(
    rules: list[int], numbers: list[int], num_edges: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    axes = _unpacked(rules, numbers)
    length = max(sum(a.rows for a in axes), sum(a.cols for a in axes)) + 2 * AXES - len(axes)

    def bounds() -> Tensor:
        return torch.empty(CHUNKS + 1, dtype=torch.int64)

    def parts() -> Tensor:
        return torch.empty(3, torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)

    tables = torch.empty(2, length, FIELDS, dtype=torch.int64)
    return tables, bounds(), parts(), bounds(), parts()


def _unpacked(rules: Sequence[int], numbers: Sequence[int]) -> tuple[Axis, ...]:
    made, step = [], len(_NUMBERS)
    for n, rule in enumerate(rules):
        values: dict[str, Any] = dict(
            zip(_NUMBERS, numbers[n * step : (n + 1) * step], strict=True)
        )
        values["is_causal"] = bool(values["is_causal"])
        made.append(Axis(**values, rule=_RULES[rule]))
    return tuple(made)
