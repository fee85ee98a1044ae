"""Laplacian encodings of a graph of clusters, brought back to the nodes: for very large graphs."""

import operator
import warnings
from typing import Any

import torch
from torch import Tensor

from graphattn.encodings.checks import check_k
from graphattn.encodings.device import DeviceLaplacian
from graphattn.encodings.operator import Laplacian, build_laplacian, symmetric_adjacency
from graphattn.encodings.pairs import solve
from graphattn.encodings.signs import fix_signs
from graphattn.encodings.solvers import one_thread
from graphattn.graph import as_graph

Array = Any  # numpy.ndarray
Matrix = Any  # scipy.sparse.csr_array

_NODES_PER_PART = 64
_PARTS_PER_VECTOR = 4
_MOST_PARTS = 20_000
_COARSE_TOL = 1e-3  # the clusters are the larger error


def coarse_laplacian_pe(
    graph: Any,
    k: int,
    *,
    parts: int | Tensor | None = None,
    smoothing: int = 8,
    edge_weight: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Approximate normalised Laplacian eigenvectors, from a graph of clusters.

    .. math:: P = D^{1/2} S (S^T D S)^{-1/2}, \qquad P^T L P\, y = \mu y, \qquad
        u = \left(I - \tfrac{1}{2} L\right)^{t} P y

    S ``[N, parts]`` says which cluster a node is in. :math:`P^T L P` is the normalised Laplacian of
    the cluster graph, whose edges (those inside a cluster too) weigh what they stand for; t
    ``smoothing`` steps of a lazy walk take the steps at the clusters' borders away, and a
    Rayleigh-Ritz step turns the vectors into the best ones of their span. This is one level of the
    multilevel scheme of Walshaw and of Barnard and Simon ("A fast multilevel implementation of
    recursive spectral bisection", 1994).

    The values are upper bounds of the true ones, close where clusters follow the graph (meshes,
    road networks; with METIS, communities). The time does not depend on the gap: about
    ``smoothing + 20`` passes over the graph.

    Args:
        graph: Undirected graph; anything that :func:`graphattn.as_graph` takes.
        k: Number of vectors, the trivial one not counted.
        parts: Number of clusters, grown from random seeds by a breadth-first search; or the
            cluster of every node ``[N]``, for instance METIS' from
            :func:`graphattn.graph.partition.partition`; ``None``: one per 64 nodes and at least
            ``4 (k + 1)``, where there are as many nodes, at most 20,000.
        smoothing: Number of steps t, at least 0.
        edge_weight: Nonnegative weights ``[E]`` in the caller's edge order, symmetric.
        dtype: Of the result; ``None`` is torch's default. Computed in float64.

    Returns:
        Ascending Rayleigh quotients ``[k]`` and orthonormal vectors ``[N, k]`` on the graph's
        device, signs fixed as in :func:`graphattn.laplacian_pe`. Isolated nodes get zeros. Where
        there are fewer clusters than k + 1, zero vectors with NaN values fill up. A
        ``RuntimeWarning`` tells when the solve on the cluster graph did not converge.

    Memory: the matrix, ``3 k`` float64 vectors of length N and the encodings of the cluster graph.

    Raises:
        TypeError: ``k`` is not an integer, or ``parts`` not one or a tensor of integers.
        ValueError: a directed or bipartite graph, ``k < 1``, ``smoothing < 0``, more parts than
            nodes, or ``parts`` of another length or with negative entries.
    """
    k, graph = check_k(k), as_graph(graph)
    if smoothing < 0:
        raise ValueError(f"smoothing must be at least 0, got {smoothing}")
    adjacency = symmetric_adjacency(graph, edge_weight)
    laplacian = build_laplacian(adjacency, True)
    nodes = torch.from_numpy(laplacian.nodes)
    if len(nodes) < graph.num_rows:
        adjacency = adjacency[laplacian.nodes][:, laplacian.nodes]
    cluster = _clusters(adjacency, parts, k, nodes, graph)
    start, residual = _prolongated(laplacian, adjacency, cluster, k)
    if residual > _COARSE_TOL:
        warnings.warn(
            "coarse_laplacian_pe: the solve on the cluster graph stopped at relative residual "
            f"{residual:.1e} (wanted: {_COARSE_TOL:.0e}); the vectors are rougher than their "
            "clusters make them: pass fewer parts, or parts that follow the graph (METIS)",
            RuntimeWarning,
            stacklevel=2,
        )
    vectors = torch.zeros(graph.num_rows, k, dtype=torch.float64)
    values = torch.full((k,), float("nan"), dtype=torch.float64)
    count = start.shape[1]
    if count:
        found, inside = _smoothed(laplacian, start, smoothing, graph.device)
        vectors[nodes, :count] = torch.from_numpy(fix_signs(inside))
        values[:count] = torch.from_numpy(found)
    where: dict[str, Any] = {"device": graph.device, "dtype": dtype or torch.get_default_dtype()}
    return values.to(**where), vectors.to(**where)


def _clusters(
    adjacency: Matrix, parts: int | Tensor | None, k: int, nodes: Tensor, graph: Any
) -> Array:
    """The cluster of every node that has neighbours, int64."""
    if parts is None:
        wanted = max(graph.num_rows // _NODES_PER_PART, _PARTS_PER_VECTOR * (k + 1))
        parts = max(1, min(graph.num_rows, wanted, _MOST_PARTS))
    if not isinstance(parts, Tensor):
        return _nearest_seed(adjacency, min(_check_count(parts, graph.num_rows), len(nodes)))
    if parts.is_floating_point() or parts.is_complex() or parts.dtype == torch.bool:
        raise TypeError(f"parts must hold integers, got {parts.dtype}; call parts.long()")
    if parts.shape != (graph.num_rows,) or (len(parts) and int(parts.min()) < 0):
        raise ValueError(
            f"parts must hold one cluster number >= 0 per node [{graph.num_rows}], got shape "
            f"{list(parts.shape)} and minimum {int(parts.min()) if parts.numel() else None}"
        )
    return parts.long().cpu()[nodes].numpy()


def _check_count(parts: Any, nodes: int) -> int:
    try:
        count = operator.index(parts)
    except TypeError:
        raise TypeError(
            f"parts must be a number of clusters or a tensor [N], got {parts!r}"
        ) from None
    if not 1 <= count <= max(nodes, 1):
        raise ValueError(f"parts must be in [1, {nodes}] (the number of nodes), got {count}")
    return count


def _nearest_seed(adjacency: Matrix, count: int) -> Array:
    """Clusters of a breadth-first search from ``count`` random nodes at once.

    They are round, where blocks of a node order would be strips that know one direction only. A
    component without a seed is a cluster of its own. One search from an added node beside all
    seeds: each edge is seen once.
    """
    import numpy as np
    from scipy import sparse
    from scipy.sparse import csgraph

    size = adjacency.shape[0]
    seeds = np.random.default_rng(0).permutation(size)[:count]
    columns = np.append(adjacency.indices, seeds.astype(adjacency.indices.dtype))
    starts = np.append(adjacency.indptr, len(columns))
    shape = (size + 1, size + 1)
    joined = sparse.csr_array((np.ones(len(columns)), columns, starts), shape=shape)
    order, nearer = csgraph.breadth_first_order(joined, size, directed=True)
    nearer[seeds] = seeds
    reached = order[1:]
    source = np.arange(size)
    source[reached] = nearer[reached]
    while not np.array_equal(farther := source[source], source):
        source = farther  # twice as far along the way to the seed
    cluster = np.full(size, -1)
    cluster[seeds] = np.arange(count)
    cluster = cluster[source]
    _, component = csgraph.connected_components(adjacency, connection="strong")
    return np.where(cluster < 0, count + component, cluster)


def _prolongated(
    laplacian: Laplacian, adjacency: Matrix, cluster: Array, k: int
) -> tuple[Tensor, float]:
    """``P y`` for the cluster graph's first vectors after the trivial one ``[n, at most k]``.

    And the relative residual of ``y``.
    """
    import numpy as np
    from scipy import sparse

    size = laplacian.size
    _, cluster = np.unique(cluster, return_inverse=True)
    count = int(cluster.max(initial=-1)) + 1
    member = sparse.csr_array((np.ones(size), cluster, np.arange(size + 1)), shape=(size, count))
    between = sparse.csr_array(member.T @ adjacency @ member)
    steps, here = 100 * max(k, 50), torch.device("cpu")
    values, heights, residual = solve(between, k, "sym", "first", _COARSE_TOL, "auto", steps, here)
    heights = heights[:, np.isfinite(values)]
    volume = np.sqrt(np.bincount(cluster, laplacian.root**2, minlength=count))
    spread = (laplacian.root / volume[cluster])[:, None] * heights[cluster]
    return torch.from_numpy(spread), residual


def _smoothed(
    laplacian: Laplacian, start: Tensor, steps: int, device: torch.device
) -> tuple[Array, Array]:
    """Steps of a lazy walk, then Rayleigh-Ritz: ascending values and vectors ``[n, j]``."""
    with one_thread() as threads:
        matrix = DeviceLaplacian(laplacian, device, threads)
        vectors = start.to(device)
        for _ in range(steps):
            vectors = vectors - matrix.multiply(vectors) / 2
        return matrix.rotate(vectors)
