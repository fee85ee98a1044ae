"""Smallest nonzero eigenpairs of a graph Laplacian: the routes, and the way to one of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from math import log2
from typing import Any

import torch

from graphattn.encodings import filters
from graphattn.encodings.choose import choose_for_mesh, estimate_gap
from graphattn.encodings.closed_form import closed_pairs
from graphattn.encodings.communities import community_pairs
from graphattn.encodings.device import DeviceLaplacian
from graphattn.encodings.krylov import Search, basis_size, block_lanczos
from graphattn.encodings.multigrid import fills_the_space, multigrid_pairs
from graphattn.encodings.operator import Laplacian

Array = Any  # numpy.ndarray
METHODS = ("auto", "dense", "lanczos", "chebyshev", "shift-invert", "multigrid")

DENSE_SIZE = 600  # up to here a dense solve takes about as long as setting up anything else
_SCALES = 1e6  # of the spectrum: beyond, or below its inverse, squares in float32 may vanish
_BLOCK = 8  # vectors at once where a product with several costs little more than with one
_FEW = 4  # vectors at once where each should reach as far as it can
_SINGLE_TOL = 5e-3  # float32 carries a residual of this size ...
_SINGLE_GAP = 1e-3  # ... beside eigenvalues of this part of the spectrum
_ABOVE = 1.5  # the filter's cut over the wanted values: the next pair should rise too
_WORTH_A_FILTER = 0.3  # of the spectrum: eigenvalues below it are brought apart by a filter


def smallest_pairs(
    laplacian: Laplacian,
    count: int,
    method: str,
    tol: float,
    max_iter: int,
    device: torch.device | None = None,
) -> tuple[Array, Array, float]:
    """The ``count`` smallest nonzero eigenpairs -> (ascending values, vectors, residual).

    ``residual`` is ``max ||L u - lambda u|| / lambda_count``; 0 for a dense solve.
    """
    if not 1 / _SCALES < laplacian.bound < _SCALES:
        scale = 2.0 ** round(log2(laplacian.bound))
        near = replace(laplacian, matrix=laplacian.matrix / scale, bound=laplacian.bound / scale)
        values, vectors, residual = smallest_pairs(near, count, method, tol, max_iter, device)
        return values * scale, vectors, residual
    rank = laplacian.size - laplacian.nullity
    tiny = rank <= basis_size(count, _BLOCK) + _BLOCK  # a basis would span everything
    with one_thread() as threads:
        if tiny or method == "dense" or (method == "auto" and laplacian.size <= DENSE_SIZE):
            return (*_dense(laplacian, count), 0.0)
        if method == "auto":
            known = closed_pairs(laplacian, count)
            if known is not None:
                return (*known, 0.0)
        matrix = DeviceLaplacian(laplacian, device or torch.device("cpu"), threads)
        route = _Route(matrix, count, tol, max_iter)
        vectors, residual = route.auto() if method == "auto" else route.run(method)
        return (*matrix.rotate(vectors.to(matrix.device)), residual)


class _Route:
    """One problem and the ways to solve it; each gives vectors ``[n, count]`` and a residual."""

    def __init__(self, matrix: DeviceLaplacian, count: int, tol: float, max_iter: int) -> None:
        self.matrix, self.count, self.tol, self.max_iter = matrix, count, tol, max_iter

    def auto(self) -> tuple[torch.Tensor, float]:
        """By the communities if there are any, where a rough answer will do.

        Else Lanczos steps on ``c I - L`` until the gap is known; then on with them or another way.
        """
        loose = self.tol >= _SINGLE_TOL
        found = community_pairs(self.matrix, self.count, self.tol) if loose else None
        if found is not None:
            return found
        search = self.search(filters.complement(self.matrix), single=loose)
        basis = search.basis()
        gap = estimate_gap(search, basis)
        bound = self.matrix.laplacian.bound
        exact = search.dtype == torch.float64 or gap.value >= _SINGLE_GAP * bound
        if gap.resolved and exact:
            return block_lanczos(search, basis)
        del basis  # before the next one is made
        if gap.resolved:
            return self.run("lanczos")
        method = choose_for_mesh(self.matrix.laplacian, self.matrix.device.type != "cpu")
        try:
            return self.run(method)
        except MemoryError:  # of the factor
            return self.run("chebyshev")

    def run(self, method: str) -> tuple[torch.Tensor, float]:
        """Solve by ``method``, one of ``METHODS`` that iterate."""
        laplacian = self.matrix.laplacian
        if method == "multigrid":
            if fills_the_space(laplacian, self.count):
                return torch.from_numpy(_dense(laplacian, self.count)[1]), 0.0
            asked = self.count, self.tol, self.max_iter, self.matrix.threads
            return multigrid_pairs(laplacian, *asked)
        if method == "lanczos":
            return block_lanczos(self.search(filters.complement(self.matrix)))
        if method == "chebyshev":
            return self._filtered()
        here = DeviceLaplacian(laplacian, torch.device("cpu"))  # SuperLU has no other place
        route = _Route(here, self.count, self.tol, self.max_iter)
        return block_lanczos(route.search(filters.inverse(laplacian), _BLOCK))

    def _filtered(self) -> tuple[torch.Tensor, float]:
        """Lanczos on Chebyshev filters whose cut falls as better bounds of the values are known.

        Ritz values lie above the eigenvalues, so the wanted ones are always below the cut.
        """
        bound = self.matrix.laplacian.bound
        cut, search = bound, self.search(filters.complement(self.matrix), _BLOCK)
        while True:
            basis = search.basis()
            for _ in range(self.count // search.block + 3):
                basis.step()
            values, _ = self.matrix.measure(basis.eigenvectors(self.count))
            highest = float(values.max())
            if highest > min(cut / 2, _WORTH_A_FILTER * bound):
                return block_lanczos(search, basis)
            cut = highest
            del basis  # before the next one is made
            search = self.search(filters.chebyshev(self.matrix, _ABOVE * cut), _BLOCK)

    def search(self, operator: filters.Operator, block: int = _FEW, single: bool = False) -> Search:
        """The search for the pairs with ``operator``, in float32 if ``single``."""
        matrix = self.matrix
        return Search(
            operator.apply,
            matrix.project,
            matrix.measure,
            operator.spread,
            matrix.laplacian.size,
            self.count,
            self.tol,
            self.max_iter,
            min(block, self.count),
            torch.float32 if single else torch.float64,
            matrix.device,
        )


@contextmanager
def one_thread() -> Iterator[int]:
    """Sums over nodes on one thread: the same bits everywhere; yields the threads there were.

    Inside a repeated eigenvalue's space a last-bit difference turns the whole basis.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _blas().limit(limits=1, user_api="blas"):
            yield threads
    finally:
        torch.set_num_threads(threads)


@cache
def _blas() -> Any:
    import scipy.linalg  # noqa: F401  # brings its own BLAS, which must be loaded to be found
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _dense(laplacian: Laplacian, count: int) -> tuple[Array, Array]:
    """Nodes without neighbours are null vectors: in ``D - A`` all but a few nodes may be."""
    import numpy as np
    from scipy import linalg

    inside = np.flatnonzero(laplacian.matrix.diagonal() > 0)
    matrix = laplacian.matrix[inside][:, inside].toarray()
    first = laplacian.nullity - (laplacian.size - len(inside))
    values, found = linalg.eigh(matrix, subset_by_index=(first, first + count - 1))
    vectors = np.zeros((laplacian.size, count))
    vectors[inside] = found
    return values.clip(min=0), vectors
