"""Smallest eigenpairs by LOBPCG with an algebraic multigrid cycle as preconditioner (pyamg)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from graphattn.encodings.device import DeviceLaplacian
from graphattn.encodings.operator import Laplacian

Array = Any  # numpy.ndarray

_COARSE = 400  # nodes of the coarsest level, solved densely
_EXTRA = 4  # vectors beyond the wanted ones: the last pairs of a block converge slowly


def fills_the_space(laplacian: Laplacian, count: int) -> bool:
    """Whether a step's vectors would span all there is: their basis would be rounding."""
    return laplacian.size - laplacian.nullity <= 3 * (count + _EXTRA)


def multigrid_pairs(
    laplacian: Laplacian, count: int, tol: float, max_iter: int, threads: int = 1
) -> tuple[Tensor, float]:
    """Vectors ``[n, count]`` and the relative residual reached.

    Knyazev, "Toward the optimal preconditioned eigensolver" (2001), with one cycle of smoothed
    aggregation (Vanek, Mandel, Brezina 1996) per vector and step. It starts from the coarsest
    level's eigenvectors, prolongated. Unlike scipy's ``lobpcg`` it stops once the wanted vectors
    have converged, relative to the largest wanted eigenvalue; a few more keep it fast.

    Where :func:`fills_the_space`, use another method.

    Memory: about 2.5 times the matrix and ``7 (count + 4)`` float64 vectors.

    Raises:
        ImportError: pyamg is not installed.
    """
    from tqdm import tqdm

    hierarchy = _hierarchy(laplacian)
    matrix = DeviceLaplacian(laplacian, torch.device("cpu"), threads)
    cycle = hierarchy.aspreconditioner()
    vectors, values = _ritz(matrix, _coarse_vectors(laplacian, hierarchy, count))
    before = vectors[:, :0]
    noise = torch.finfo(torch.float64).eps * laplacian.bound
    with tqdm(desc="eigenvectors", unit="step", disable=None, delay=3) as bar:
        for _ in range(max_iter):
            residual = matrix.multiply(vectors) - vectors * values
            norms = residual[:, :count].square().sum(0).sqrt()
            reached = float(norms.max()) / max(float(values[count - 1]), noise)
            bar.set_postfix_str(f"relative residual {reached:.1e}")
            bar.update()
            if reached <= tol:
                break
            better = [torch.from_numpy(cycle @ column.numpy()) for column in residual.t()]
            old = vectors
            vectors, values = _ritz(matrix, torch.cat([old, torch.stack(better, 1), before], 1))
            vectors, values = vectors[:, : old.shape[1]], values[: old.shape[1]]
            before = vectors - old @ (old.t() @ vectors)
    return vectors[:, :count], reached


def _ritz(matrix: DeviceLaplacian, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Ritz vectors and ascending values of the span of ``[n, j]``, off the null space.

    For a vector that depends on the others the factorisation puts in some direction orthogonal to
    them: that may lie in the null space, hence the second projection.
    """
    basis, _ = torch.linalg.qr(matrix.project(vectors / vectors.norm(dim=0).clamp(min=1e-300)))
    values, turned = matrix.rotate(matrix.project(basis))
    return torch.from_numpy(turned), torch.from_numpy(values)


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
    with _numpy_seed():
        return pyamg.smoothed_aggregation_solver(matrix, B=near_null, max_coarse=_COARSE)


@contextmanager
def _numpy_seed() -> Iterator[None]:
    """NumPy's global generator at a fixed seed, then as it was.

    pyamg estimates spectral radii from a vector that it draws there.
    """
    import numpy as np

    before = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(before)


def _coarse_vectors(laplacian: Laplacian, hierarchy: Any, count: int) -> Tensor:
    """Smallest Ritz vectors after the null space in the span of the coarsest basis functions.

    Random vectors where that level is too small.
    """
    import numpy as np
    from scipy.linalg import eigh

    basis = hierarchy.levels[0].P if len(hierarchy.levels) > 1 else None
    for level in hierarchy.levels[1:-1]:
        basis = basis @ level.P
    first, wanted = laplacian.nullity, count + _EXTRA
    if basis is None or basis.shape[1] < first + wanted:
        drawn = np.random.default_rng(0).standard_normal((laplacian.size, wanted))
        return torch.from_numpy(drawn)
    mass = (basis.T @ basis).toarray()
    columns = (first, first + wanted - 1)
    _, turn = eigh(hierarchy.levels[-1].A.toarray(), mass, subset_by_index=columns)
    return torch.from_numpy(basis @ turn)
