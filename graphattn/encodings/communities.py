"""Smallest eigenpairs of graphs of communities, from the communities: no basis, no restarts."""

from math import acosh, inf, log
from typing import Any

import torch
from torch import Tensor

from graphattn.encodings.basis import Basis
from graphattn.encodings.community_space import Communities, Start, find_communities
from graphattn.encodings.device import DeviceLaplacian
from graphattn.encodings.filters import Operator, chebyshev, complement
from graphattn.graph.sort import has_numba
from graphattn.kernels.cpu.pages import on_huge_pages

Array = Any  # numpy.ndarray

_SMALLEST = 5_000  # nodes, below which Lanczos steps take no time
_ORDERS = 2  # of the nodes, tried where propagation merged communities
_EXTRA = 4  # vectors beyond the wanted ones
_PASSES = 3  # of the filter; one or two are enough where communities are what they seem
_STEPS, _BLOCK = 12, 2  # of the search for what the communities do not hold
_GUARD = 0.1  # relative residual at which it has found the smallest value there
_MORE_NOISE = 1.25  # in communities that are not carried
_ROOM = 0.8  # the filter's cut, of the smallest value off the communities
_OPEN = 4  # tolerances: a value that is returned may be too large by so many


def community_pairs(matrix: DeviceLaplacian, count: int, tol: float) -> tuple[Tensor, float] | None:
    """Vectors ``[n, count]`` and the relative residual reached; ``None`` where it is no use.

    With P ``[n, c]`` the communities that label propagation finds:

    1. Lanczos steps in the complement of P find the smallest value of L there: it must be above
       the wanted ones. There are as many steps as bring to light a vector that P does not hold.
    2. The smallest Ritz vectors of ``P' L P`` are the answer up to the noise of single nodes, which
       a Chebyshev filter with its cut below that value and a Rayleigh-Ritz step take away.
    3. No community vector that was not carried ends below: their noise is taken to lie where that
       of the carried ones does, and to be a quarter more.

    Any check that fails returns ``None``: a giant community, a mesh, a tolerance below what the
    communities tell. Where all hold, about ``30 + 6 count`` products with a vector and some passes
    of label propagation, each about two products.

    Memory: 45 or ``6 (count + 4)`` float32 vectors of length n, and ``40 c^2`` bytes.
    """
    if matrix.laplacian.size < _SMALLEST or not has_numba():
        return None
    found = _separated(matrix, count + _EXTRA)
    if found is None:
        return None
    communities, start, cut = found
    filtered = _filtered(matrix, communities, start, count, tol, cut)
    if filtered is None:
        return None
    values, vectors, residual = filtered
    least = communities.least(count, _MORE_NOISE * start.pull(values))
    if (least < values[:count] - _OPEN * tol * values[count - 1]).any():
        return None
    return vectors, residual


def _separated(matrix: DeviceLaplacian, wanted: int) -> tuple[Communities, Start, float] | None:
    """Communities whose lowest vectors lie below all else, those vectors, and a cut between."""
    laplacian, communities = matrix.laplacian, None
    mean = float(laplacian.matrix.diagonal().mean())
    for seed in range(_ORDERS):
        communities = find_communities(laplacian, wanted, seed, communities)
        if communities is None:
            return None
        start = communities.lowest(wanted, mean)
        last = float(start.values[-1])
        cut = _ROOM * _smallest_outside(matrix, communities, last)
        if last < cut:
            return communities, start, cut
    return None


def _smallest_outside(matrix: DeviceLaplacian, communities: Communities, last: float) -> float:
    """The smallest value of L on the complement of the communities, less its residual.

    Minus infinity where so many steps do not tell.
    """
    shape = (_STEPS + 2) * _BLOCK, matrix.laplacian.size
    rows = on_huge_pages(torch.empty(shape, dtype=torch.float32, device=matrix.device))
    operator = complement(matrix)
    basis = Basis(operator.apply, communities.project_off(matrix), rows, _BLOCK)
    while True:
        basis.step()
        smallest, residual = float(operator.spread(basis.values[:1])), float(basis.residuals(1))
        visible = _is_visible(basis, operator, last)
        if basis.full or (visible and residual <= _GUARD * smallest):
            return smallest - residual if visible else -inf


def _is_visible(basis: Basis, operator: Operator, value: float) -> bool:
    """Whether an eigenvector with ``value`` would show among the steps done so far.

    A random start holds about ``n^{-1/2}`` of it, or by bad luck a third of that, and k steps lift
    it by ``T_k`` over a spectrum as wide as the one seen.
    """
    first, last = (float(operator.spread(basis.values[i : i + 1 or None])) for i in (0, -1))
    beyond = ((first + last) / 2 - value) / max((last - first) / 2, 1e-300)
    if beyond <= 1:
        return False
    steps = basis.applied // _BLOCK - 1
    return steps * acosh(min(beyond, 1e300)) >= log(basis.rows.shape[1]) / 2 + log(3)


def _filtered(
    matrix: DeviceLaplacian,
    communities: Communities,
    start: Start,
    count: int,
    tol: float,
    cut: float,
) -> tuple[Array, Tensor, float] | None:
    """Ritz values, the first ``count`` vectors and their residual, unless it stays above ``tol``.

    In float32 throughout: the caller's tolerance is far above its rounding, and takes a last
    Rayleigh-Ritz step in float64.
    """
    import numpy as np
    from scipy.linalg import eigh

    operator = chebyshev(matrix, cut)
    vectors = torch.from_numpy(communities.vectors(start.turn, matrix.laplacian.root))
    vectors = vectors.to(matrix.device)
    for _ in range(_PASSES):
        vectors = matrix.project(operator.apply(vectors))
        image = matrix.multiply(vectors)
        inner, mass = ((vectors.t() @ part).double().cpu().numpy() for part in (image, vectors))
        try:
            values, turn = eigh((inner + inner.T) / 2, mass)
        except (np.linalg.LinAlgError, ValueError):  # the vectors have collapsed, or overflowed
            return None
        turned = torch.from_numpy(turn).to(vectors)
        vectors = vectors @ turned
        rest = image @ turned - vectors * torch.from_numpy(values).to(vectors)
        residual = float(rest[:, :count].norm(dim=0).max()) / float(values[count - 1])
        if residual <= tol:
            return values, vectors[:, :count], residual
    return None
