"""Smallest eigenpairs of graphs of communities, from the communities: no basis, no restarts."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from graphattn.encodings.basis import Basis
from graphattn.encodings.device import DeviceLaplacian
from graphattn.encodings.filters import chebyshev, complement
from graphattn.encodings.operator import Laplacian
from graphattn.graph.sort import has_numba

Array = Any  # numpy.ndarray

_SMALLEST = 5_000  # nodes, below which Lanczos steps take no time
_MOST = 1_500  # communities, whose small matrix is solved densely
_NODES_EACH = 30  # on average at least: else the graph has no communities that help
_SWEEPS, _SETTLED = 12, 0.01  # of label propagation, until less than this part of nodes moves
_ORDERS = 2  # of the nodes, tried where propagation merged communities
_EXTRA = 4  # vectors beyond the wanted ones
_PASSES = 3  # of the filter; one or two are enough where communities are what they seem
_STEPS, _BLOCK = 12, 4  # of the search for what the communities do not hold
_GUARD = 0.1  # relative residual at which it has found the smallest value there
_UNCOUPLED = 1e-3  # of a value: less than that is rounding
_MORE_NOISE = 1.25  # in communities that are not carried
_ROOM = 0.8  # the filter's cut, of that value
_OPEN = 4  # tolerances: a value that is returned may be too large by so many


@dataclass(frozen=True)
class _Communities:
    """P ``[n, c]``: on each community the null vector ``root`` of the connected graph, normalised.

    Attributes:
        labels: Community of every node.
        mass: ``sum(root^2)`` of each.
        inner: ``P' L P``, the Laplacian in their span.
        outer: ``P' L (I - P P') L P``, the square of what couples them with all else.
    """

    labels: Array
    mass: Array
    inner: Array
    outer: Array

    def project_off(self, matrix: DeviceLaplacian) -> Any:
        """Projection onto the complement of the span: as of the null space, by communities."""
        laplacian = replace(matrix.laplacian, labels=self.labels, mass=self.mass)
        return DeviceLaplacian(laplacian, matrix.device, matrix.threads).project

    def least(self, first: int, count: int, pull: float) -> Array:
        r"""Eigenvalues ``first``, ``first + 1``, ... of L, if L on the complement is larger.

        An eigenvalue x of L is one of ``inner - B' (L - x)^{-1} B`` with B what couples the two,
        ``B' B = outer``; ``pull`` stands for the inverse.
        """
        from scipy.linalg import eigh

        span = first, first + count - 1
        return eigh(self.inner - pull * self.outer, eigvals_only=True, subset_by_index=span)


@dataclass(frozen=True)
class _Start:
    """The lowest Ritz pairs in the span of the communities.

    Attributes:
        values: Ascending ``[j]``.
        vectors: ``[n, j]``.
        coupled: Squared norm of what leaves the span when L is applied ``[j]``.
    """

    values: Array
    vectors: Array
    coupled: Array

    def pull(self, found: Array) -> float:
        """How far coupling pulled the values down to those ``found``, per unit of it, at most."""
        import numpy as np

        clear = self.coupled > (_UNCOUPLED * self.values) ** 2
        down = (self.values - found) / np.where(clear, self.coupled, np.inf)
        return float(down.max(initial=0.0))


def community_pairs(matrix: DeviceLaplacian, count: int, tol: float) -> tuple[Tensor, float] | None:
    r"""Vectors ``[n, count]`` and the relative residual reached; ``None`` where it is no use.

    With P ``[n, c]`` the communities that label propagation finds:

    1. A few Lanczos steps in the complement of P find the smallest value of L there.
    2. The smallest Ritz vectors of ``P' L P`` are the answer up to the noise of single nodes, which
       a Chebyshev filter with its cut below that value and a Rayleigh-Ritz step take away.
    3. No community vector that was not carried ends below: their noise is taken to lie where that
       of the carried ones does, and to be a quarter more.

    Any check that fails returns ``None``: a giant community, a mesh, a tolerance below what
    the communities tell. About ``30 + 6 count`` products with a vector and some passes of label
    propagation, each about two products.

    Memory: ``4 count + 60`` float32 vectors of length n, ``32 c^2`` bytes.
    """
    laplacian = matrix.laplacian
    if laplacian.size < _SMALLEST or not has_numba():
        return None
    communities = None
    for seed in range(_ORDERS):
        communities = _communities(laplacian, count + _EXTRA, seed, communities)
        if communities is None:
            return None
        start = _lowest(laplacian, communities, count + _EXTRA)
        cut = _ROOM * _smallest_outside(matrix, communities)
        if start.values[-1] < cut:
            break
    else:
        return None
    found = _filtered(matrix, start, count, tol, cut)
    if found is None:
        return None
    values, vectors, residual = found
    pull = _MORE_NOISE * start.pull(values)
    least = communities.least(laplacian.nullity, count, pull)
    if (least < values[:count] - _OPEN * tol * values[count - 1]).any():
        return None
    return vectors, residual


def _communities(
    laplacian: Laplacian, wanted: int, seed: int, before: _Communities | None
) -> _Communities | None:
    """The communities, unless they are too few, too many or one holds most nodes.

    What was together ``before`` and is not now is split: propagation may merge two communities in
    one order of the nodes, seldom the same two in another.
    """
    import numpy as np

    from graphattn.kernels.cpu.propagate import community_moments, propagate_labels

    size, matrix = laplacian.size, laplacian.matrix
    entries = matrix.indptr, matrix.indices
    order = np.random.default_rng(seed).permutation(size)
    settled = int(_SETTLED * size)
    weights = (-matrix.data).astype(np.float32)
    labels = propagate_labels(*entries, weights, order, _SWEEPS, settled)
    if before is not None:
        _, labels = np.unique(before.labels * size + labels, return_inverse=True)
    nodes = np.bincount(labels)
    count = len(nodes)
    few = count < laplacian.nullity + wanted
    if few or count > min(_MOST, size / _NODES_EACH) or nodes.max() > size / 2:
        return None
    mass = np.bincount(labels, laplacian.root**2)
    scale = laplacian.root / np.sqrt(mass)[labels]
    inner, square = community_moments(*entries, matrix.data, scale, labels, count)
    return _Communities(labels, mass, inner, square - inner @ inner)


def _smallest_outside(matrix: DeviceLaplacian, communities: _Communities) -> float:
    """The smallest value of L on the complement of the communities, less its residual."""
    rows = torch.empty(((_STEPS + 2) * _BLOCK, matrix.laplacian.size), device=matrix.device)
    operator = complement(matrix)
    basis = Basis(operator.apply, communities.project_off(matrix), rows, _BLOCK)
    while True:
        basis.step()
        smallest, residual = float(operator.spread(basis.values[:1])), float(basis.residuals(1))
        if residual <= _GUARD * smallest or basis.full:
            return smallest - residual


def _lowest(laplacian: Laplacian, communities: _Communities, wanted: int) -> _Start:
    """Where the noise pulls the pairs to, to second order: it lies about at L's mean value."""
    import numpy as np
    from scipy.linalg import eigh

    span = laplacian.nullity, laplacian.nullity + wanted - 1
    values = eigh(communities.inner, eigvals_only=True, subset_by_index=span)
    gap = max(float(laplacian.matrix.diagonal().mean()) - float(values[-1]), float(values[-1]))
    _, turn = eigh(communities.inner - communities.outer / gap, subset_by_index=span)
    heights = turn / np.sqrt(communities.mass)[:, None]
    inner, coupled = (
        (turn * (part @ turn)).sum(0) for part in (communities.inner, communities.outer)
    )
    return _Start(inner, laplacian.root[:, None] * heights[communities.labels], coupled)


def _filtered(
    matrix: DeviceLaplacian, start: _Start, count: int, tol: float, cut: float
) -> tuple[Array, Tensor, float] | None:
    """Ritz values, the first ``count`` vectors and their residual, unless it stays above ``tol``.

    In float32 throughout: the caller's tolerance is far above its rounding, and takes a last
    Rayleigh-Ritz step in float64.
    """
    from scipy.linalg import eigh

    operator = chebyshev(matrix, cut)
    vectors = torch.from_numpy(start.vectors).to(matrix.device, torch.float32)
    for _ in range(_PASSES):
        vectors = matrix.project(operator.apply(vectors))
        image = matrix.multiply(vectors)
        inner, mass = ((vectors.t() @ part).double().cpu().numpy() for part in (image, vectors))
        values, turn = eigh((inner + inner.T) / 2, mass)
        turned = torch.from_numpy(turn).to(vectors)
        vectors = vectors @ turned
        rest = image @ turned - vectors * torch.from_numpy(values).to(vectors)
        residual = float(rest[:, :count].norm(dim=0).max()) / float(values[count - 1])
        if residual <= tol:
            return values, vectors[:, :count], residual
    return None
