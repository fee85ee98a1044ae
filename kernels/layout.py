"""The raw form in which kernels see a graph: a few tensors, one set per orientation."""

from typing import NamedTuple

from torch import Tensor

CHUNKS = 64
SHORTEST_HUB = 4096


class Layout(NamedTuple):
    """One orientation of a sparse graph as plain tensors.

    Row ``i`` owns the positions ``indptr[i] : indptr[i + 1]``. Seen from the rows these are the
    nodes that ``i`` attends to; the transposed layout has the key nodes as its rows and lists the
    query nodes that read them.

    indptr [rows + 1] int64; indices [E] int32 or int64; edges [E], the caller's edge id at each
    position, or [0] where it equals the position; plan, an implementation's own precomputed work
    division: for the CPU ``chunks [C + 1]``, int64 row bounds of about equal edge count, and
    ``parts [3, P]``, (begin, end, row) of the pieces of hub rows; task tensors for the GPU.

    A grid has no index arrays: ``edges`` [2, T, 8] holds its tables, of this orientation and of
    the other one (see grid.py), ``indptr`` and ``indices`` are of one element, expanded, and an
    edge's id is its position in the rows.
    """

    indptr: Tensor
    indices: Tensor
    edges: Tensor
    plan: tuple[Tensor, ...]

    @property
    def tables(self) -> Tensor | None:
        """Tables of a grid [2, T, 8], None where neighbours are written down."""
        return self.edges if self.edges.dim() == 3 else None


def longest_row(num_edges: int) -> int:
    """Edges of a row beyond which the CPU plan cuts it into parts; depends on the graph alone."""
    return max(SHORTEST_HUB, -(-num_edges // CHUNKS))
