"""Laplacian positional encodings: the smoothest functions on a graph, as node features."""

import warnings
from typing import Any

import torch
from torch import Tensor

from graphattn.encodings import store
from graphattn.encodings.checks import check_k
from graphattn.encodings.operator import Laplacian, build_laplacian, symmetric_adjacency
from graphattn.encodings.signs import fix_signs
from graphattn.encodings.solvers import DENSE_SIZE, METHODS, smallest_pairs
from graphattn.graph import as_graph

Array = Any  # numpy.ndarray
_NORMALIZATIONS = ("sym", "rw", None)
_DROPS = ("first", "all_zero", None)


def laplacian_pe(
    graph: Any,
    k: int,
    *,
    normalization: str | None = "sym",
    drop: str | None = "first",
    tol: float = 1e-6,
    method: str = "auto",
    max_iter: int = 5000,
    edge_weight: Tensor | None = None,
    cache: bool = False,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    r"""The k smoothest eigenvectors of a graph's Laplacian.

    .. math:: L = I - D^{-1/2} A D^{-1/2}, \qquad D_{ii} = \sum_j A_{ij}

    of Dwivedi and Bresson, "A Generalization of Transformer Networks to Graphs" (2020), with a
    symmetric solver; :math:`D^{-1/2}` is 0 where D is. Columns have unit L2 norm; the sign is fixed
    (the largest entry by magnitude is positive, the first of equal ones). Inside an eigenspace with
    several dimensions (cycles, grids, graphs with equal parts) every rotation is a valid answer:
    the one returned is the same on every call but means nothing. Flip signs in training with
    :func:`flip_signs`.

    Self-loops do not count (as in PyG), duplicate edges count with multiplicity, and an isolated
    node has eigenvalue 1 in the normalised forms, 0 in ``D - A``.

    Args:
        graph: Undirected graph; anything that :func:`graphattn.as_graph` takes.
        k: Number of eigenvectors, after dropping.
        normalization: ``"sym"`` as above; ``"rw"``: right eigenvectors of
            :math:`I - D^{-1} A`; ``None``: :math:`D - A`.
        drop: ``"first"``: the trivial eigenvector, constant up to the root of the degree; on a
            graph with c components c - 1 others with eigenvalue 0 remain, each sets one component
            against all larger ones. ``"all_zero"``: every vector with eigenvalue 0. ``None``:
            nothing.
        tol: Bound on the relative residual :math:`\max \|L u - \lambda u\| / \lambda_k`. As
            features 1e-2 is often enough and several times faster with Lanczos.
        method: ``"dense"``; ``"shift-invert"`` (a sparse factor: meshes, road networks);
            ``"lanczos"`` (community-like graphs, hubs); ``"auto"`` chooses by size and by how
            deep and wide the graph is. Very small graphs are always solved densely.
        max_iter: Bound on applications of the operator. When it runs out, a ``RuntimeWarning``
            gives the residual reached and the best vectors found come back.
        edge_weight: Nonnegative weights ``[E]`` in the caller's edge order, symmetric.
        cache: Read and write a file under :func:`graphattn.cache.cache_dir`, keyed by the graph's
            content and every argument. Graphs of at most 600 nodes never use it: solving takes
            less time than a file.
        dtype: Of the result; ``None`` is torch's default. The solve is in float64.

    Returns:
        Ascending eigenvalues ``[k]`` and eigenvectors ``[N, k]`` on the graph's device. Where
        fewer than k exist, zero vectors with NaN eigenvalues fill up.

    Memory: about ``6 k + 50`` float64 vectors of length N beside the matrix; ``8 N^2`` bytes for
    ``"dense"``; shift-invert adds its factor.

    Raises:
        TypeError: ``k`` is not an integer.
        ValueError: a directed or bipartite graph, an unknown option, ``k < 1``, bad weights.
        MemoryError: a factor that does not fit, with ``method="shift-invert"``.
    """
    k = check_k(k)
    _check(normalization, drop, tol, method)
    graph = as_graph(graph)
    options: dict[str, Any] = {"k": k, "normalization": normalization, "drop": drop, "tol": tol}
    options |= {"method": method, "max_iter": max_iter}

    def solve() -> tuple[Array, Array, float]:
        return _solve(symmetric_adjacency(graph, edge_weight), **options)

    if cache and graph.num_rows > DENSE_SIZE:
        values, vectors, residual = store.load_or_make(graph, edge_weight, options, solve)
    else:
        values, vectors, residual = solve()
    if residual > tol:
        warnings.warn(
            f"laplacian_pe stopped after {max_iter} iterations at relative residual "
            f"{residual:.1e} (asked: tol={tol:.0e}); the vectors are approximate: raise max_iter, "
            'loosen tol, or try method="shift-invert" if the graph is mesh-like',
            RuntimeWarning,
            stacklevel=2,
        )
    where = {"device": graph.device, "dtype": dtype or torch.get_default_dtype()}
    return torch.from_numpy(values).to(**where), torch.from_numpy(vectors).to(**where)


def _check(normalization: str | None, drop: str | None, tol: float, method: str) -> None:
    if not tol > 0:
        raise ValueError(f"tol must be positive, got {tol}; 1e-6 is the default")
    for name, value, known in (
        ("normalization", normalization, _NORMALIZATIONS),
        ("drop", drop, _DROPS),
        ("method", method, METHODS),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {known}, got {value!r}")


def _solve(
    adjacency: Any,
    k: int,
    normalization: str | None,
    drop: str | None,
    tol: float,
    method: str,
    max_iter: int,
) -> tuple[Array, Array, float]:
    """(values [k], vectors [N, k], residual), padded, signs fixed."""
    import numpy as np

    size = adjacency.shape[0]
    laplacian = build_laplacian(adjacency, normalization is not None)
    skip = {"first": 1, "all_zero": laplacian.nullity, None: 0}[drop]
    zeros = min(laplacian.nullity, skip + k)
    rest = min(skip + k - zeros, size - laplacian.nullity)
    found, vectors, residual = _nonzero_pairs(laplacian, size, rest, method, tol, max_iter)
    late = max(0, skip - zeros)  # the first pair is not a null vector when no edge exists
    null = np.zeros((size, max(0, zeros - skip)))
    null[laplacian.nodes] = laplacian.null_basis(min(skip, zeros), zeros)
    values = np.concatenate([np.zeros(null.shape[1]), found[late:]])
    vectors = np.concatenate([null, vectors[:, late:]], axis=1)
    if normalization == "rw":
        scale = np.ones(size)
        scale[laplacian.nodes] = laplacian.root
        vectors = vectors / scale[:, None]
        vectors = vectors / np.linalg.norm(vectors, axis=0)
    missing = k - len(values)
    values = np.pad(values, (0, missing), constant_values=np.nan)
    return values, np.pad(fix_signs(vectors), ((0, 0), (0, missing))), residual


def _nonzero_pairs(
    laplacian: Laplacian, size: int, count: int, method: str, tol: float, max_iter: int
) -> tuple[Array, Array, float]:
    """The ``count`` smallest nonzero pairs of the whole graph, isolated nodes included."""
    import numpy as np

    inner = min(count, laplacian.size - laplacian.nullity)
    values, residual = np.empty(0), 0.0
    vectors = np.zeros((size, inner))
    if inner > 0:
        values, inside, residual = smallest_pairs(laplacian, inner, method, tol, max_iter)
        vectors[laplacian.nodes] = inside
    alone = np.setdiff1d(np.arange(size), laplacian.nodes)[:count]
    if len(alone):
        single = np.zeros((size, len(alone)))
        single[alone, np.arange(len(alone))] = 1
        values = np.concatenate([values, np.ones(len(alone))])
        vectors = np.concatenate([vectors, single], axis=1)
    order = np.argsort(values, kind="stable")[:count]
    return values[order], vectors[:, order], residual
