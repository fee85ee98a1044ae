"""Laplacian positional encodings: the smoothest functions on a graph, as node features."""

import warnings
from typing import Any

import torch
from torch import Tensor

from graphattn.encodings import store
from graphattn.encodings.checks import check_k
from graphattn.encodings.operator import symmetric_adjacency
from graphattn.encodings.pairs import solve
from graphattn.encodings.solvers import DENSE_SIZE, METHODS
from graphattn.graph import as_graph

Array = Any  # numpy.ndarray
_NORMALIZATIONS = ("sym", "rw", None)
_DROPS = ("first", "all_zero", None)
_CHEAPER = (
    "Cheaper encodings: graphattn.encodings.coarse_laplacian_pe (eigenvectors of a graph of "
    "clusters) and graphattn.encodings.random_walk_pe (a few steps)"
)
_MESH = ', or try method="shift-invert" if the graph is mesh-like'
_OTHERS = {  # what to try instead of a method that did not converge; "auto" has chosen
    "lanczos": _MESH,
    "chebyshev": _MESH,
    "multigrid": _MESH,
    "shift-invert": ', or try method="lanczos" if the graph is not mesh-like',
}


def laplacian_pe(
    graph: Any,
    k: int,
    *,
    normalization: str | None = "sym",
    drop: str | None = "first",
    tol: float = 1e-6,
    method: str = "auto",
    max_iter: int = 5000,
    max_nodes: int = 5_000_000,
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
            features 1e-2 is often enough and several times faster. Where many eigenvalues lie
            close together (communities), which of them come back is open within ``4 tol``.
        method: ``"auto"`` takes a closed form where the graph is a path, cycle, torus or complete
            (with ``None`` also a grid); where ``tol >= 5e-3`` the communities that label
            propagation finds, if the answer from them passes its checks (needs Numba); else a few
            Lanczos steps estimate the gap. A resolved one (communities, hubs) is solved on by
            ``"lanczos"``; for meshes a breadth-first search decides among ``"shift-invert"`` (a
            sparse factor, on the CPU), ``"chebyshev"`` (Lanczos on a filter: no factor, on the
            graph's device) and, where pyamg is installed, ``"multigrid"`` (LOBPCG, on the CPU).
            Very small graphs are solved by ``"dense"``.
        max_iter: Bound on the vectors that the last search multiplies (``"chebyshev"``: filters,
            ``"shift-invert"``: solves with), k of them at least; the steps that estimate the gap or
            find a filter come on top. For ``"multigrid"`` a bound on LOBPCG steps. When it runs
            out, a ``RuntimeWarning`` gives the residual reached and the best vectors come back.
        max_nodes: Size budget: on larger graphs ``"auto"`` warns before it starts what the solve
            takes and which encodings cost less.
        edge_weight: Nonnegative weights ``[E]`` in the caller's edge order, symmetric.
        cache: Read and write a file under :func:`graphattn.cache.cache_dir`, keyed by the graph's
            content and every argument. Graphs of at most 600 nodes never use it: solving takes
            less time than a file.
        dtype: Of the result; ``None`` is torch's default. The solve is in float64; only
            ``"auto"`` starts in float32 where ``tol >= 5e-3``, stays there where the gap is wide
            (communities), and takes the last step in float64.

    Returns:
        Ascending eigenvalues ``[k]`` and eigenvectors ``[N, k]`` on the graph's device. Where
        fewer than k exist, zero vectors with NaN eigenvalues fill up.

    Memory: about ``2 k + 60`` vectors of length N (see ``dtype``) beside the matrix; ``8 N^2``
    bytes for ``"dense"``; shift-invert adds its factor, multigrid its levels.

    Raises:
        TypeError: ``k`` or ``max_iter`` is not an integer.
        ImportError: ``"multigrid"`` without pyamg.
        ValueError: a directed or bipartite graph, an unknown option, ``k`` or ``max_iter`` below 1,
            bad weights.
        MemoryError: a factor that does not fit, with ``method="shift-invert"``.
    """
    k, max_iter = check_k(k), check_k(max_iter, "max_iter")
    _check(normalization, drop, tol, method)
    graph = as_graph(graph)
    options: dict[str, Any] = {"k": k, "normalization": normalization, "drop": drop, "tol": tol}
    options |= {"method": method, "max_iter": max_iter}

    stored = cache and graph.num_rows > DENSE_SIZE

    def make() -> tuple[Array, Array, float]:
        if method == "auto" and graph.num_rows > max_nodes:
            _warn_of_size(graph.num_rows, graph.num_edges, k, max_nodes, 3 + stored)
        adjacency = symmetric_adjacency(graph, edge_weight)
        return solve(adjacency, device=graph.device, **options)

    if stored:
        values, vectors, residual = store.load_or_make(graph, edge_weight, options, make)
    else:
        values, vectors, residual = make()
    if residual > tol:
        warnings.warn(
            f"laplacian_pe stopped after {max_iter} iterations at relative residual "
            f"{residual:.1e} (asked: tol={tol:.0e}); the vectors are approximate: raise max_iter, "
            f"loosen tol{_OTHERS.get(method, '')}. {_CHEAPER}",
            RuntimeWarning,
            stacklevel=2,
        )
    where = {"device": graph.device, "dtype": dtype or torch.get_default_dtype()}
    return torch.from_numpy(values).to(**where), torch.from_numpy(vectors).to(**where)


def _warn_of_size(nodes: int, edges: int, k: int, max_nodes: int, depth: int) -> None:
    """``depth``: frames between this one and the caller of ``laplacian_pe``."""
    memory = 8 * nodes * (2 * k + 60) + 24 * edges
    warnings.warn(
        f"laplacian_pe on {nodes:,} nodes is beyond max_nodes={max_nodes:,}: it takes about "
        f"{memory / 2**30:.0f} GiB and many products with the matrix. {_CHEAPER}; raise max_nodes "
        "to silence this",
        RuntimeWarning,
        stacklevel=1 + depth,
    )


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
