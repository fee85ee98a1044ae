"""Random-walk positional encodings: how likely a walk is to be back home after t steps."""

from typing import Any

import torch
from torch import Tensor

from graphattn.encodings.checks import check_k
from graphattn.encodings.operator import to_scipy
from graphattn.graph import as_graph

Array = Any  # numpy.ndarray
Matrix = Any  # scipy.sparse.csr_array

_FILL = 0.1  # denser blocks of powers are kept as plain arrays


def random_walk_pe(
    graph: Any,
    k: int,
    *,
    edge_weight: Tensor | None = None,
    max_entries: int = 1 << 24,
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Return probabilities of random walks of 1 to k steps.

    .. math:: p_{i,t} = \left( (D^{-1} A)^t \right)_{ii}, \qquad D_{ii} = \sum_j A_{ij}

    of Dwivedi et al., "Graph Neural Networks with Learnable Structural and Positional
    Representations" (2022), as PyG's ``AddRandomWalkPE``: walks follow edges from source to
    target, self-loops count. Duplicate edges count with multiplicity, at every size. A walk ends
    at a node without outgoing weight. D is not clipped at 1 as PyG's is, which differs for weights
    that sum to less: those would not be probabilities.

    Exact. Powers are built for a block of nodes at a time and no ``N x N`` array exists. Only
    powers up to k/2 are needed, because
    :math:`(P^{a+b})_{ii} = \sum_j (P^a)_{ij} (P^b)_{ji}`. Time grows with the nodes that k/2 steps
    reach: about N on meshes and molecules, but ``N E k / 2`` where a few steps reach everything.

    Args:
        graph: Square graph, directed or not; anything that :func:`graphattn.as_graph` takes.
        k: Longest walk.
        edge_weight: Nonnegative weights ``[E]`` in the caller's edge order; D sums them.
        max_entries: Entries of a power held at a time (about 16 to 50 bytes each).
        dtype: Of the result; ``None`` is torch's default. Computed in float64.

    Returns:
        Probabilities ``[N, k]`` on the graph's device.

    Raises:
        TypeError: ``k`` is not an integer.
        ValueError: a bipartite graph, ``k < 1``, or weights that are negative, not finite or of
            the wrong length.
    """
    k, graph = check_k(k), as_graph(graph)
    if graph.num_rows != graph.num_cols:
        raise ValueError(
            f"random walks need a square graph, got {graph.num_rows} rows and "
            f"{graph.num_cols} columns"
        )
    step = _transition(to_scipy(graph, edge_weight))
    out = torch.empty(graph.num_rows, k, dtype=torch.float64)
    back = step.T.tocsr()
    start = 0
    for stop in _block_ends(step, back, (k + 1) // 2, max_entries):
        block = _diagonals(step, back, start, stop, k)
        out[start:stop] = torch.from_numpy(block)
        start = stop
    return out.to(device=graph.device, dtype=dtype or torch.get_default_dtype())


def _transition(adjacency: Matrix) -> Matrix:
    """``D^-1 A`` with row = source; the graph's rows are targets."""
    import numpy as np

    degree = np.asarray(adjacency.sum(axis=0)).reshape(-1)
    degree[degree == 0] = 1.0  # weights of 0 alone: no step, not 0 / 0
    adjacency.data /= degree[adjacency.indices]
    return adjacency.T.tocsr()


def _block_ends(step: Matrix, back: Matrix, depth: int, max_entries: int) -> list[int]:
    """Ends of runs of nodes whose rows of the powers up to ``depth`` fit in ``max_entries``."""
    import numpy as np

    size = step.shape[0]
    reach = np.zeros(size)
    for matrix in (step, back):
        lengths = np.diff(matrix.indptr)
        pattern = matrix.astype(bool).astype(np.float64)
        walks = lengths.astype(np.float64)
        for _ in range(depth - 1):  # the number of walks bounds the number of nodes reached
            walks = np.minimum(pattern @ walks, size)
        reach = np.maximum(reach, walks)
    cost = np.minimum(reach / _FILL, size) + 1  # a block that fills up turns into an array
    ends, room = [], float(max_entries)
    total = np.cumsum(cost)
    start = 0
    while start < size:
        used = total[start - 1] if start else 0.0
        stop = max(start + 1, int(np.searchsorted(total, used + room, side="right")))
        ends.append(min(stop, size))
        start = ends[-1]
    return ends


def _diagonals(step: Matrix, back: Matrix, start: int, stop: int, k: int) -> Array:
    """Diagonal entries ``start .. stop - 1`` of the first k powers ``[stop - start, k]``."""
    import numpy as np
    from scipy import sparse

    rows, size = stop - start, step.shape[0]
    ones, places = np.ones(rows), np.arange(start, stop)
    unit = sparse.csr_array((ones, places, np.arange(rows + 1)), shape=(rows, size))
    away, home = unit, unit  # rows of P^a, and of (P^T)^b = columns of P^b
    out = np.empty((rows, k))
    for t in range(k):
        if t % 2 == 0:
            away = _advance(away, step)
        else:
            home = _advance(home, back)
        out[:, t] = _row_dots(away, home)
    return out


def _advance(block: Any, matrix: Matrix) -> Any:
    """One more power; an array once it is no longer sparse."""
    block = block @ matrix
    sparse_still = hasattr(block, "nnz") and block.nnz < _FILL * block.shape[0] * block.shape[1]
    return block if sparse_still or not hasattr(block, "nnz") else block.toarray()


def _row_dots(a: Any, b: Any) -> Array:
    """Row-wise inner products of sparse or dense blocks ``[rows, N]`` -> ``[rows]``."""
    import numpy as np

    if hasattr(a, "nnz"):
        return np.asarray(a.multiply(b).sum(axis=1)).reshape(-1)
    if hasattr(b, "nnz"):
        return np.asarray(b.multiply(a).sum(axis=1)).reshape(-1)
    return np.einsum("ij,ij->i", a, b)
