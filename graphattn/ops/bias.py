"""TableBias: a bias that edges look up in a small table."""

from collections.abc import MutableMapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from graphattn.graph import CSRGraph, Graph, ProductGraph
from graphattn.ops.checks import FLOATS, check_edge_integers

# The smallest and largest entry by tensor and version: a module makes a TableBias in every step
# from the same index, and looking at it would wait for the GPU.
_ranges: MutableMapping[Tensor, tuple[int, int, int]] = WeakIdKeyDictionary()


def _check_range(index: Tensor, types: int) -> None:
    version, low, high = _ranges.get(index, (-1, 0, 0))
    if version != index._version:
        low, high = int(index.min()), int(index.max())
        _ranges[index] = index._version, low, high
    if low < 0 or high >= types:
        raise ValueError(f"index must lie in [0, T) with T = {types}, got {low} to {high}")


@dataclass(frozen=True, eq=False)
class TableBias:
    r"""A bias that depends on an edge's type alone: :math:`b_{eh} = table_{h,\,index_e}`.

    Pass it as ``bias`` to :func:`graphattn.attention`: relative positions, edge types, distances.
    The kernels look the numbers up, so nothing of size E x H is made, and sum the table's gradient
    in a fixed order, so it is the same bit for bit in every run.

    Args:
        table: ``[H, T]``, floating point; may require a gradient. ``-inf`` masks a type.
        index: ``[E]``, int32 or int64 in ``[0, T)``, in the caller's edge order. ``None`` over a
            :class:`GridGraph`: the relative position of each edge, ``(key - query) / dilation +
            k - 1`` per axis, so that ``table`` is NATTEN's ``rpb [H, 2 k_1 - 1, 2 k_2 - 1]`` with
            the axes flattened. The CPU kernels compute it, and nothing of size E is made.

    Raises:
        ValueError: ``table`` is not two-dimensional, an index is out of range, devices differ.
        TypeError: a dtype is wrong.

    Memory: the gradient is summed in copies of the table. On the CPU at most 64 for pieces of the
    rows and 128 for parts of hub rows, each set within 64 MiB (or 4 copies); on the GPU at most
    the larger of 64 MiB and 64 copies.
    """

    table: Tensor
    index: Tensor | None = None

    def __post_init__(self) -> None:
        table, index = self.table, self.index
        if not isinstance(table, Tensor) or table.dtype not in FLOATS:
            kind = table.dtype if isinstance(table, Tensor) else type(table).__name__
            raise TypeError(f"table must be a floating point tensor [H, T], got {kind}")
        if table.dim() != 2:
            raise ValueError(f"table must have shape [H, T], got {list(table.shape)}")
        if index is None:
            return
        check_edge_integers("index", index, table.device)
        if not torch.compiler.is_compiling() and index.numel() > 0:
            _check_range(index, table.shape[1])

    def index_for(self, graph: Graph, impl: str) -> Tensor:
        """The index as the kernels of ``impl`` take it: empty where they compute it."""
        if self.index is not None:
            return self.index
        assert isinstance(graph, ProductGraph)
        return (
            self.table.new_empty(0, dtype=torch.int32) if impl == "cpu" else graph.relative_index()
        )

    def check(self, graph: Graph, heads: int) -> None:
        """Check that the table fits ``heads`` and the index fits the graph's edges."""
        if self.table.shape[0] != heads:
            raise ValueError(
                f"the table of a TableBias must have one row per head, {heads}, "
                f"got {list(self.table.shape)}"
            )
        if self.index is None:
            self.check_relative(graph)
        elif self.index.shape[0] != graph.num_edges:
            raise ValueError(
                f"the index of a TableBias must have one entry per edge, [{graph.num_edges}] in "
                f"the caller's edge order, got {list(self.index.shape)}"
            )
        if self.table.device != graph.device:
            raise ValueError(
                f"the TableBias is on {self.table.device} but the graph is on {graph.device}; "
                "move its table and index there"
            )

    def check_relative(self, graph: Graph) -> None:
        """Check that the edges have relative positions, and the table as many columns."""
        if not isinstance(graph, ProductGraph):
            raise ValueError(
                "a TableBias without an index needs a GridGraph, whose edges have relative "
                f"positions, got a {type(graph).__name__}; pass index [E]"
            )
        if self.table.shape[1] != graph.num_relative:
            raise ValueError(
                f"the table of relative positions over {graph!r} must be [H, {graph.num_relative}] "
                f"(2 k - 1 for each axis), got {list(self.table.shape)}"
            )


def write_down(
    graph: Graph, bias: Tensor | TableBias | None
) -> tuple[CSRGraph, Tensor | TableBias | None]:
    """A graph with its edges, and the bias with the index, that a grid only implies."""
    if isinstance(graph, CSRGraph):
        return graph, bias
    if isinstance(bias, TableBias) and bias.index is None:
        bias.check_relative(graph)
        bias = TableBias(bias.table, graph.relative_index())
    return graph.to_csr(), bias
