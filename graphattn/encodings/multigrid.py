"""Smallest eigenpairs by LOBPCG with an algebraic multigrid cycle as preconditioner (pyamg)."""

import warnings
from typing import Any

import torch
from torch import Tensor

from graphattn.encodings.device import DeviceLaplacian
from graphattn.encodings.operator import Laplacian

Array = Any  # numpy.ndarray

_COARSE = 400  # nodes of the coarsest level, solved densely
_EXTRA = 4  # vectors beyond the wanted ones: the last pairs of a block converge slowly


def multigrid_pairs(
    laplacian: Laplacian, count: int, tol: float, max_iter: int
) -> tuple[Tensor, float]:
    """Vectors ``[n, count]`` and the relative residual reached.

    Knyazev, "Toward the optimal preconditioned eigensolver" (2001), by scipy, with one cycle of
    smoothed aggregation (Vanek, Mandel, Brezina 1996) per vector and step. It starts from the
    coarsest level's eigenvectors, prolongated, so that the search begins near the answer.

    Memory: about 2.5 times the matrix and ``6 (count + 4)`` float64 vectors.

    Raises:
        ImportError: pyamg is not installed.
    """
    import numpy as np
    from scipy.sparse.linalg import LinearOperator, lobpcg

    hierarchy = _hierarchy(laplacian)
    matrix = DeviceLaplacian(laplacian, torch.device("cpu"))
    start, values = _coarse_pairs(laplacian, hierarchy, count)
    cycle = hierarchy.aspreconditioner()
    shape = (laplacian.size, laplacian.size)

    def precondition(block: Array) -> Array:
        columns = np.stack([cycle @ column for column in block.T], axis=1)
        projected: Array = matrix.project(torch.from_numpy(columns)).numpy()
        return projected

    helper = LinearOperator(shape, matvec=cycle.matvec, matmat=precondition, dtype=np.float64)
    vectors = matrix.project(torch.from_numpy(start)).numpy()
    target = 0.7 * tol * float(values[count - 1])  # a coarse eigenvalue lies above the true one
    with warnings.catch_warnings():  # the residual is measured below, in relative terms
        warnings.simplefilter("ignore", UserWarning)
        _, vectors = lobpcg(
            laplacian.matrix, vectors, M=helper, tol=target, maxiter=max_iter, largest=False
        )
    _, turned = matrix.rotate(torch.from_numpy(vectors))
    found = torch.from_numpy(turned[:, :count])
    values, residuals = matrix.measure(found)
    return found, float(residuals.max() / values.max())


def _hierarchy(laplacian: Laplacian) -> Any:
    import numpy as np
    from scipy import sparse

    try:
        import pyamg
    except ImportError as error:
        raise ImportError(
            'method="multigrid" needs pyamg: pip install "graphattn[spectral]", or '
            'method="shift-invert"'
        ) from error
    matrix = sparse.csr_matrix(laplacian.matrix)
    matrix.indices, matrix.indptr = (a.astype(np.int32) for a in (matrix.indices, matrix.indptr))
    near_null = laplacian.root[:, None].copy()
    return pyamg.smoothed_aggregation_solver(matrix, B=near_null, max_coarse=_COARSE)


def _coarse_pairs(laplacian: Laplacian, hierarchy: Any, count: int) -> tuple[Array, Array]:
    """Smallest nonzero Ritz pairs in the span of the coarsest level's basis functions.

    Random vectors fill up where that level is too small.
    """
    import numpy as np
    from scipy.linalg import eigh

    basis = hierarchy.levels[0].P if len(hierarchy.levels) > 1 else None
    for level in hierarchy.levels[1:-1]:
        basis = basis @ level.P
    first, wanted = laplacian.nullity, count + _EXTRA
    if basis is None or basis.shape[1] < first + wanted:
        drawn = np.random.default_rng(0).standard_normal((laplacian.size, wanted))
        return drawn, np.full(wanted, laplacian.bound * 1e-6)
    mass = (basis.T @ basis).toarray()
    values, turn = eigh(
        hierarchy.levels[-1].A.toarray(), mass, subset_by_index=(first, first + wanted - 1)
    )
    return basis @ turn, values
