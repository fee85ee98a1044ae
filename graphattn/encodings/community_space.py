"""The communities of a graph as a space: what the Laplacian is in it, and what leaves it."""

from dataclasses import dataclass, replace
from typing import Any

from graphattn.encodings.device import DeviceLaplacian
from graphattn.encodings.operator import Laplacian

Array = Any  # numpy.ndarray

_MOST = 1_500  # communities, whose small matrix is solved densely
_NODES_EACH = 30  # on average at least: else the graph has no communities that help
_MIXED = 8  # times the entries: nodes that touch so many communities are in none
_SWEEPS, _SETTLED = 12, 0.03  # of label propagation, until less than this part of nodes moves
_TOGETHER = 16  # nodes of a sweep whose rows are read one after the other
_UNCOUPLED = 1e-3  # of a value: less than that is rounding


@dataclass(frozen=True)
class Start:
    """The lowest vectors of the communities, with what coupling does to them.

    Attributes:
        values: Rayleigh quotients, ascending ``[j]``.
        turn: The vectors by community ``[c, j]``.
        coupled: Squared norm of what leaves the space when L is applied ``[j]``.
    """

    values: Array
    turn: Array
    coupled: Array

    def pull(self, found: Array) -> float:
        """How far coupling pulled the values down to those ``found``, per unit of it, at most."""
        import numpy as np

        clear = self.coupled > (_UNCOUPLED * self.values) ** 2
        down = (self.values - found) / np.where(clear, self.coupled, np.inf)
        return float(down.max(initial=0.0))


@dataclass(frozen=True)
class Communities:
    """P ``[n, c]``: on each community the null vector ``root`` of the connected graph, normalised.

    Attributes:
        labels: Community of every node.
        mass: ``sum(root^2)`` of each.
        inner: ``P' L P``, the Laplacian in the space, with its null vectors at the far end.
        outer: ``P' L (I - P P') L P``, the square of what couples it with all else.
    """

    labels: Array
    mass: Array
    inner: Array
    outer: Array

    def project_off(self, matrix: DeviceLaplacian) -> Any:
        """Projection onto the complement of the space: as of the null space, by communities."""
        laplacian = replace(matrix.laplacian, labels=self.labels, mass=self.mass)
        return DeviceLaplacian(laplacian, matrix.device, matrix.threads).project

    def vectors(self, turn: Array, root: Array) -> Array:
        """``P turn`` for ``turn [c, j]``: float32 ``[n, j]``."""
        import numpy as np

        heights = (turn / np.sqrt(self.mass)[:, None]).astype(np.float32)
        return root.astype(np.float32)[:, None] * heights[self.labels]

    def lowest(self, count: int, mean: float) -> Start:
        """Where coupling pulls the pairs to, to second order: the rest lies about at ``mean``."""
        import numpy as np
        from scipy.linalg import eigh

        least = float(self.inner.diagonal().min())
        gap = max(mean - least, least)
        _, turn = eigh(self.inner - self.outer / gap, subset_by_index=(0, count - 1))
        inner, coupled = ((turn * (part @ turn)).sum(0) for part in (self.inner, self.outer))
        order = np.argsort(inner, kind="stable")
        return Start(inner[order], turn[:, order], coupled[order])

    def least(self, count: int, pull: float) -> Array:
        """The smallest eigenvalues of L off its null space, if L on the complement is larger.

        An eigenvalue x of L is one of ``inner - B' (L - x)^{-1} B`` with B what couples the two,
        ``B' B = outer``; ``pull`` stands for the inverse.
        """
        from scipy.linalg import eigh

        bent = self.inner - pull * self.outer
        return eigh(bent, eigvals_only=True, subset_by_index=(0, count - 1))


def find_communities(
    laplacian: Laplacian, wanted: int, seed: int, before: Communities | None
) -> Communities | None:
    """The communities, unless they are too few, too many, mixed, or one holds most nodes.

    What was together ``before`` and is not now is split: propagation may merge two communities in
    one order of the nodes, seldom the same two in another.
    """
    import numpy as np

    from graphattn.kernels.cpu.propagate import community_moments, propagate_labels

    size, matrix = laplacian.size, laplacian.matrix
    entries = matrix.indptr, matrix.indices
    order = _shuffled(size, seed)
    weights = (-matrix.data).astype(np.float32)
    labels = propagate_labels(*entries, weights, order, _SWEEPS, int(_SETTLED * size))
    if before is not None:
        _, labels = np.unique(before.labels * size + labels, return_inverse=True)
    nodes = np.bincount(labels)
    count = len(nodes)
    few = count < laplacian.nullity + wanted
    if few or count > min(_MOST, size / _NODES_EACH) or nodes.max() > size / 2:
        return None
    mass = np.bincount(labels, laplacian.root**2)
    scale = laplacian.root / np.sqrt(mass)[labels]
    most = _MIXED * matrix.nnz
    moments = community_moments(*entries, matrix.data, scale, labels, count, most)
    if moments is None:
        return None
    inner, square = moments
    outer = square - inner @ inner
    return Communities(labels, mass, inner + _null_part(laplacian, labels, mass), outer)


def _shuffled(size: int, seed: int) -> Array:
    """The nodes in random order, but for a few neighbours in memory that stay together."""
    import numpy as np

    first = _TOGETHER * np.random.default_rng(seed).permutation(-(-size // _TOGETHER))
    order = (first[:, None] + np.arange(_TOGETHER)).reshape(-1)
    return order[order < size]


def _null_part(laplacian: Laplacian, labels: Array, mass: Array) -> Array:
    """``bound N N'``, N ``[c, nullity]`` the null vectors by community: lifts them to the bound."""
    import numpy as np

    component = np.empty(len(mass), dtype=np.int64)
    component[labels] = laplacian.labels
    height = np.sqrt(mass / laplacian.mass[component])
    same = component[:, None] == component
    return laplacian.bound * same * np.outer(height, height)
