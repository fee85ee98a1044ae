"""Which solver suits a graph: what the first Lanczos steps and a breadth-first search tell."""

from dataclasses import dataclass
from importlib.util import find_spec
from math import log2
from typing import Any

from graphattn.encodings.basis import Basis
from graphattn.encodings.krylov import Search
from graphattn.encodings.operator import Laplacian

Array = Any  # numpy.ndarray

_STEPS = 10  # of blocks of 4: as much as 20 single steps and more tell about the gap
_RISING = 6  # steps one after the other of which each left a larger relative residual
_RESOLVED = 0.5  # relative residual of the lowest pair at which its eigenvalue is no guess
_LEVELS_SEEN = 20_000  # a search this deep settles the choice

# Seconds of one core, measured: an entry of the matrix times one vector, a step of orthogonality
# per node, a node of a factor of a mesh, an entry of its widest front cubed, a multigrid solve.
_PRODUCT, _ORTHOGONAL, _FACTOR, _FRONT, _MULTIGRID = 2.5e-9, 2.5e-8, 4e-7, 7e-9, 3e-5
_ON_GPU = 0.02  # of those seconds, for products and orthogonality: assumed, not yet measured


@dataclass(frozen=True)
class Gap:
    """What a few Lanczos steps found: the smallest eigenvalue so far, its relative residual."""

    value: float
    residual: float

    @property
    def resolved(self) -> bool:
        """Whether Lanczos steps alone will do: the graph is like communities, or small."""
        return self.residual <= _RESOLVED


def estimate_gap(search: Search, basis: Basis) -> Gap:
    """Take the first steps of ``search``, whose operator is ``c I - L``; they are not lost.

    On a mesh the relative residual rises with every step: after some of them that is settled.
    """
    rising, found = 0, Gap(0.0, 0.0)
    for _ in range(_STEPS):
        if basis.full or (rising >= _RISING and not found.resolved):
            break
        basis.step()
        value = float(search.spread(basis.values[:1]))
        before, found = found, Gap(value, float(basis.residuals(1)) / max(value, 1e-300))
        rising = rising + 1 if found.residual > before.residual else 0
    return found


def choose_for_mesh(laplacian: Laplacian, on_gpu: bool) -> str:
    """Method for a graph whose gap is too small for plain Lanczos.

    A breadth-first search gives the number of levels (the gap falls with its square) and the
    widest level, which separates the graph: a factor costs about its cube. Cycles bound the
    separator of tree-like graphs.
    """
    levels, width = breadth_first(laplacian)
    size, entries = laplacian.size, laplacian.matrix.nnz
    separator = float(min(width, 2 * laplacian.cycles))
    speed = _ON_GPU if on_gpu else 1.0
    cost = {
        "chebyshev": 10.0 * levels * (_PRODUCT * entries + _ORTHOGONAL * size) * speed,
        "shift-invert": _FACTOR * size * log2(size) + _FRONT * separator**3,
    }
    if find_spec("pyamg") is not None:
        cost["multigrid"] = _MULTIGRID * size
    return min(cost, key=lambda name: cost[name])


def breadth_first(laplacian: Laplacian) -> tuple[int, int]:
    """Number and largest size of the breadth-first levels of the heaviest component."""
    import numpy as np
    from scipy.sparse import csgraph

    start = int(np.argmax(laplacian.labels == 0))
    for _ in range(2):  # the second search starts at the far end found by the first
        order, parent = csgraph.breadth_first_order(laplacian.matrix, start, directed=True)
        start = int(order[-1])
    place = np.empty(laplacian.size, dtype=np.int64)
    place[order] = np.arange(len(order))
    parents = place[parent[order[1:]]]  # never falls along the order
    first, last, levels, width = 0, 1, 1, 1
    while last < len(order) and levels < _LEVELS_SEEN:
        first, last = last, 1 + int(np.searchsorted(parents, last, side="left"))
        levels, width = levels + 1, max(width, last - first)
    return levels, width
