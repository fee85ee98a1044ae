"""Smallest nonzero eigenpairs of a graph Laplacian: dense, Lanczos, shift-invert."""

from contextlib import AbstractContextManager
from functools import cache
from typing import Any

from graphattn.encodings.krylov import Search, basis_size, thick_restart_lanczos
from graphattn.encodings.operator import Laplacian

Array = Any  # numpy.ndarray
METHODS = ("auto", "dense", "lanczos", "shift-invert")

DENSE_SIZE = 600  # up to here a dense solve takes about as long as setting up anything else
_SHIFT = 1e-9  # of the spectrum's bound: makes the matrix definite, far below any eigenvalue
_SINGLE_TOL = 5e-3  # float32 carries a residual of this size beside eigenvalues of 1e-4
_LEVELS_SEEN = 20_000  # a search this deep settles the choice


def smallest_pairs(
    laplacian: Laplacian, count: int, method: str, tol: float, max_iter: int
) -> tuple[Array, Array, float]:
    """The ``count`` smallest nonzero eigenpairs -> (ascending values, vectors, residual).

    ``residual`` is ``max ||L u - lambda u|| / lambda_count``; 0 for a dense solve.
    """
    rank = laplacian.size - laplacian.nullity
    tiny = rank <= basis_size(count) + 1  # the Lanczos basis would span everything
    auto = method == "auto"
    if auto:
        method = "dense" if laplacian.size <= DENSE_SIZE else choose_method(laplacian)
    with _one_blas_thread():
        if tiny or method == "dense":
            return (*_dense(laplacian, count), 0.0)
        try:
            return _iterate(laplacian, count, method, tol, max_iter)
        except MemoryError:  # of the factor
            if not auto or method == "lanczos":
                raise
            return _iterate(laplacian, count, "lanczos", tol, max_iter)


def _iterate(
    laplacian: Laplacian, count: int, method: str, tol: float, max_iter: int
) -> tuple[Array, Array, float]:
    import numpy as np

    single = method == "lanczos" and tol >= _SINGLE_TOL
    inverse = method == "shift-invert"
    apply = _inverse(laplacian) if inverse else _complement(laplacian, single)
    search = Search(
        apply, laplacian.project, laplacian.measure, laplacian.size, count, tol, max_iter, single
    )
    vectors, residual = thick_restart_lanczos(search)
    if single:
        vectors, _ = np.linalg.qr(vectors.astype(np.float64))
    return (*_rotate(laplacian, vectors), residual)


def choose_method(laplacian: Laplacian) -> str:
    """``"shift-invert"`` for mesh-like graphs whose factor stays small, else ``"lanczos"``.

    A breadth-first search gives the number of levels (deep: small gap, Lanczos is slow) and the
    widest level, which separates the graph: a factor costs about its cube. Cycles bound the
    separator of tree-like graphs.
    """
    import numpy as np

    levels, width = _levels(laplacian)
    separator = min(width, 2 * laplacian.cycles)
    factor = separator**3 + 1000.0 * laplacian.size * np.log2(laplacian.size)
    lanczos = 10.0 * levels * (laplacian.matrix.nnz + 100.0 * laplacian.size)
    return "shift-invert" if factor < lanczos else "lanczos"


def _levels(laplacian: Laplacian) -> tuple[int, int]:
    """Number and largest size of the breadth-first levels of the heaviest component."""
    import numpy as np
    from scipy.sparse import csgraph

    start = int(np.argmax(laplacian.labels == 0))
    for _ in range(2):  # the second search starts at the far end found by the first
        order, parent = csgraph.breadth_first_order(laplacian.matrix, start, directed=False)
        start = int(order[-1])
    place = np.empty(laplacian.size, dtype=np.int64)
    place[order] = np.arange(len(order))
    parents = place[parent[order[1:]]]  # never falls along the order
    first, last, levels, width = 0, 1, 1, 1
    while last < len(order) and levels < _LEVELS_SEEN:
        first, last = last, 1 + int(np.searchsorted(parents, last, side="left"))
        levels, width = levels + 1, max(width, last - first)
    return levels, width


def _one_blas_thread() -> AbstractContextManager[Any]:
    """Keep BLAS on one thread: the same bits on every machine, no spinning on a busy one.

    Inside a repeated eigenvalue's space a last-bit difference turns the whole basis.
    """
    limit: AbstractContextManager[Any] = _blas().limit(limits=1, user_api="blas")
    return limit


@cache
def _blas() -> Any:
    import scipy.linalg  # noqa: F401  # brings its own BLAS, which must be loaded to be found
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _dense(laplacian: Laplacian, count: int) -> tuple[Array, Array]:
    from scipy import linalg

    first = laplacian.nullity
    values, vectors = linalg.eigh(
        laplacian.matrix.toarray(), subset_by_index=(first, first + count - 1)
    )
    return values, vectors


def _complement(laplacian: Laplacian, single: bool) -> Any:
    """``c I - L``: its largest eigenvalues belong to the smallest of L."""
    import numpy as np

    if not single:
        return lambda vector: laplacian.bound * vector - laplacian.matrix @ vector
    matrix, bound = laplacian.matrix.astype(np.float32), np.float32(laplacian.bound)
    return lambda vector: bound * vector - matrix @ vector


def _inverse(laplacian: Laplacian) -> Any:
    """``(L + shift I)^-1`` by a sparse factorisation.

    Raises:
        MemoryError: the factor does not fit.
    """
    from scipy import sparse
    from scipy.sparse.linalg import splu

    shift = _SHIFT * laplacian.bound
    shifted = sparse.csc_array(laplacian.matrix + shift * sparse.eye_array(laplacian.size))
    options = {"SymmetricMode": True}
    factor = splu(shifted, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)
    return factor.solve


def _rotate(laplacian: Laplacian, vectors: Array) -> tuple[Array, Array]:
    """Rayleigh-Ritz on L itself: ascending values and their vectors."""
    import numpy as np

    small = vectors.T @ (laplacian.matrix @ vectors)
    values, turn = np.linalg.eigh((small + small.T) / 2)
    return values, vectors @ turn
