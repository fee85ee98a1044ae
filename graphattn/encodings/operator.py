"""A graph's Laplacian as a scipy matrix, with what is known about it before any iteration."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

from graphattn.graph import CSRGraph

if TYPE_CHECKING:
    import numpy as np

Array = Any  # numpy.ndarray
Matrix = Any  # scipy.sparse.csr_array
_ARRAYS = ("indptr", "indices", "data")


@dataclass(frozen=True)
class Laplacian:
    r"""A symmetric Laplacian on the nodes where it is not trivial.

    Its null space is known: on each connected component the vector ``root`` (``sqrt(degree)`` for
    the normalised form, 1 for ``D - A``), so solvers work in the complement and need not find it.

    Attributes:
        matrix: ``[n, n]`` scipy CSR, positive semidefinite.
        root: Null vector of the connected graph ``[n]``, positive, not normalised.
        labels: Component of each node ``[n]``; components are numbered by falling mass.
        mass: ``sum(root^2)`` of each component ``[c]``.
        bound: An upper bound of the spectrum.
        nodes: The graph's nodes that the rows stand for ``[n]``; the isolated ones are left out of
            the normalised form, where they are eigenvectors with eigenvalue 1.
    """

    matrix: Matrix
    root: Array
    labels: Array
    mass: Array
    bound: float
    nodes: Array

    @property
    def size(self) -> int:
        """Number of rows n."""
        return int(self.matrix.shape[0])

    @property
    def nullity(self) -> int:
        """Number of zero eigenvalues: one per component."""
        return int(self.mass.shape[0])

    def null_basis(self, start: int, stop: int) -> Array:
        """Columns ``start .. stop - 1`` of an orthonormal basis of the null space ``[n, ...]``.

        Column 0 is the trivial vector ``root`` of the whole graph; column j sets the component
        with the (j+1)-th largest mass against all larger ones.
        """
        import numpy as np

        larger = np.cumsum(self.mass)
        columns = np.empty((self.size, stop - start))
        for j in range(start, stop):
            height = np.zeros(self.nullity)
            if j == 0:
                height[:] = 1 / np.sqrt(larger[-1])
            else:
                norm = np.sqrt(1 / larger[j - 1] + 1 / self.mass[j])
                height[:j] = 1 / (larger[j - 1] * norm)
                height[j] = -1 / (self.mass[j] * norm)
            columns[:, j - start] = self.root * height[self.labels]
        return columns

    @cached_property
    def cycles(self) -> int:
        """Number of independent cycles: 0 for a forest."""
        diagonal = int((self.matrix.diagonal() != 0).sum())
        return (int(self.matrix.nnz) - diagonal) // 2 - self.size + self.nullity


def build_laplacian(adjacency: Matrix, normalized: bool) -> Laplacian:
    """Laplacian of a symmetric adjacency matrix; entries on its diagonal count as degree."""
    import numpy as np
    from scipy import sparse

    degree = np.asarray(adjacency.sum(axis=1)).reshape(-1)
    nodes = np.flatnonzero(degree > 0) if normalized else np.arange(len(degree))
    if len(nodes) < len(degree):
        adjacency, degree = adjacency[nodes][:, nodes], degree[nodes]
    root = np.sqrt(degree) if normalized else np.ones(len(degree))
    if normalized:
        scale, scaled = 1 / root, sparse.csr_array(adjacency, copy=True)
        scaled.data *= np.repeat(scale, np.diff(scaled.indptr))
        scaled.data *= scale[scaled.indices]
        matrix = sparse.eye_array(len(degree), format="csr") - scaled
    else:
        matrix = sparse.diags_array(degree) - adjacency
    labels, mass = _components(adjacency, root)
    bound = 2.0 if normalized else 2 * float(degree.max(initial=0.0)) or 1.0
    return Laplacian(sparse.csr_array(matrix), root, labels, mass, bound, nodes)


def _components(adjacency: Matrix, root: "np.ndarray") -> tuple[Array, Array]:
    """Component of each node and mass of each component, heaviest first."""
    import numpy as np
    from scipy.sparse import csgraph

    size = len(root)
    if size and len(csgraph.breadth_first_order(adjacency, 0, return_predecessors=False)) == size:
        # One component, as in most graphs: a search knows sooner than a decomposition.
        return np.zeros(size, dtype=np.int64), np.array([(root * root).sum()])
    count, found = csgraph.connected_components(adjacency, connection="strong")  # symmetric
    mass = np.bincount(found, root * root, minlength=count)
    order = np.argsort(-mass, kind="stable")
    rank = np.empty(count, dtype=np.int64)
    rank[order] = np.arange(count)
    return rank[found], mass[order]


def symmetric_adjacency(graph: CSRGraph, edge_weight: Tensor | None) -> Matrix:
    """Adjacency ``[N, N]`` in float64 without self-loops, duplicates summed.

    Raises:
        ValueError: the graph is bipartite or directed, or a weight is negative or not finite.
    """
    import numpy as np

    if graph.num_rows != graph.num_cols:
        raise ValueError(
            f"a Laplacian needs a square graph, got {graph.num_rows} rows and "
            f"{graph.num_cols} columns"
        )
    matrix = to_scipy(graph, edge_weight)
    rows = np.repeat(np.arange(graph.num_rows, dtype=matrix.indices.dtype), np.diff(matrix.indptr))
    loops = rows == matrix.indices
    if loops.any() or (edge_weight is not None and (matrix.data == 0).any()):
        matrix.data[loops] = 0
        matrix.eliminate_zeros()
    other = matrix.T.tocsr()
    if all(np.array_equal(getattr(matrix, a), getattr(other, a)) for a in _ARRAYS):
        return matrix  # most graphs: no weights
    gap = abs(matrix - other)
    if gap.nnz and gap.max() > 1e-6 * matrix.max():
        raise ValueError(
            f"a Laplacian needs an undirected graph, but {(gap.data > 0).sum() // 2} of its "
            f"{matrix.nnz} edges have no equal reverse edge; call graph.to_undirected() "
            "(PyG: ToUndirected()) first"
        )
    return (matrix + other) / 2


def to_scipy(graph: CSRGraph, edge_weight: Tensor | None) -> Matrix:
    """``[rows, cols]`` scipy CSR in float64, duplicates summed, sharing no memory with ``graph``.

    Raises:
        ValueError: ``edge_weight`` ``[E]`` (caller's order) has another length, or a weight that is
            negative or not finite.
    """
    import numpy as np
    from scipy import sparse

    if edge_weight is None:
        values = np.ones(graph.num_edges)
    else:
        if edge_weight.numel() != graph.num_edges:
            raise ValueError(
                f"edge_weight must hold one number per edge [{graph.num_edges}], got shape "
                f"{list(edge_weight.shape)}"
            )
        flat = edge_weight.detach().reshape(-1)
        flat = flat if graph.edge_perm is None else flat[graph.edge_perm.to(flat.device)]
        values = flat.double().cpu().numpy().copy()
        if not (np.isfinite(values) & (values >= 0)).all():
            raise ValueError("edge_weight must be finite and not negative; take its absolute value")
    width = np.int32 if max(graph.num_edges, graph.num_cols) < 2**31 else np.int64
    parts = graph.indices, graph.indptr
    indices, indptr = (part.cpu().numpy().astype(width, copy=False) for part in parts)
    matrix = sparse.csr_array((values, indices, indptr), shape=(graph.num_rows, graph.num_cols))
    matrix = matrix.copy()  # sum_duplicates works in place and must not touch the graph's arrays
    matrix.sum_duplicates()
    return matrix
