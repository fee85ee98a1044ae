"""Largest eigenpairs of a symmetric operator by thick-restart Lanczos.

Plain Lanczos (ARPACK too, at loose tolerances) sees one vector of each eigenspace: the Krylov
space of one start vector holds no second copy of a repeated eigenvalue. Cycles, grids and tori
have them at the very bottom of the spectrum, so a converged answer is challenged here: the search
goes on from a fresh random vector orthogonal to it until that finds nothing better.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Array = Any  # numpy.ndarray; numpy and scipy load at first use
Apply = Callable[[Array], Array]
Measure = Callable[[Array], tuple[Array, Array]]

_VANISHED = 1e-12  # below this norm only rounding is left
_GUARD = 0.1  # a challenger counts once its own relative residual is below this


@dataclass(frozen=True)
class Search:
    """What to look for.

    Attributes:
        apply: The operator, ``[n] -> [n]``; its *largest* eigenvalues are sought.
        project: Projection onto the orthogonal complement of the known null vectors.
        measure: Vectors ``[n, j]`` -> (eigenvalues, residual norms) of the original problem, whose
            *smallest* eigenvalues are the operator's largest.
        size: Length n.
        count: Number of pairs m.
        tol: Bound on ``max residual / largest wanted eigenvalue``.
        max_iter: Bound on applications of the operator.
        single: Keep and multiply vectors in float32, half the memory traffic: where ``tol`` is far
            above its rounding. Residuals are measured in float64 all the same.
    """

    apply: Apply
    project: Apply
    measure: Measure
    size: int
    count: int
    tol: float
    max_iter: int
    single: bool = False


def basis_size(count: int) -> int:
    """Vectors kept for ``count`` wanted ones: deep enough that a restart loses little."""
    return 2 * count + 24


def thick_restart_lanczos(search: Search) -> tuple[Array, float]:
    """Solve ``search`` -> (orthonormal vectors [n, m], relative residual reached).

    Wu and Simon, "Thick-restart Lanczos method for large symmetric eigenvalue problems", 2000,
    with full orthogonalisation. Deterministic: the start vectors come from a fixed seed. Memory:
    ``3 m + 25`` vectors of length n in float64 and as many again while a restart recombines them.
    The caller compares the residual with ``tol``: when ``max_iter`` runs out, the best vectors so
    far come back.
    """
    from tqdm import tqdm

    basis = _Basis(search)
    agreed = float("nan")  # sum of the wanted eigenvalues when the answer was last challenged
    shown: dict[str, Any] = {"unit": "product", "disable": None, "delay": 3}
    with tqdm(desc="eigenvectors", **shown) as bar:
        return _search(search, basis, agreed, bar)


def _search(search: Search, basis: "_Basis", agreed: float, bar: Any) -> tuple[Array, float]:
    import numpy as np

    while True:
        basis.extend()
        ritz = basis.ritz_vectors()
        values, residuals = search.measure(ritz[:, : search.count + 1])
        bar.set_postfix_str(f"relative residual {residuals[:-1].max() / values[:-1].max():.1e}")
        bar.update(basis.applied - bar.n)
        top, largest = ritz[:, : search.count], values[:-1].max()
        allowed = np.append(np.full(search.count, search.tol * largest), _GUARD * values[-1])
        if basis.applied >= search.max_iter or (residuals <= allowed).all():
            total = values[:-1].sum()
            if basis.applied >= search.max_iter or total >= agreed * (1 - search.tol):
                return top, float(residuals[:-1].max() / largest)
            agreed = total
            basis.challenge(top)
        else:
            basis.restart(ritz, int(np.argmax(residuals / allowed)))


class _Basis:
    """Orthonormal vectors V and the projected matrix H = V' Op V, grown one vector at a time."""

    def __init__(self, search: Search) -> None:
        import numpy as np

        self.search = search
        self.room = basis_size(search.count)
        self.rng = np.random.default_rng(0)
        self.dtype = np.float32 if search.single else np.float64
        self.vectors = np.empty((search.size, self.room + 1), self.dtype, order="F")
        self.matrix = np.zeros((self.room, self.room))
        self.filled = 0  # columns whose row of `matrix` is known; the next column is ready
        self.applied = 0
        self.values = np.empty(0)  # of the Ritz vectors last asked for
        self._put(0, self._random())

    def _random(self) -> Array:
        drawn = self.rng.standard_normal(self.search.size).astype(self.dtype, copy=False)
        return self.search.project(drawn)

    def _put(self, column: int, vector: Array) -> None:
        """Make ``vector`` orthonormal to the columns before ``column`` and store it there.

        One that vanishes (the Krylov space is exhausted) gives way to a random one.
        """
        import numpy as np

        before = self.vectors[:, :column]
        for _ in range(5):
            norm = np.linalg.norm(vector)
            vector = vector / norm if norm > _VANISHED else self._random()
            vector = vector - before @ (before.T @ vector)
            if np.linalg.norm(vector) > 0.7:  # little was taken away: orthogonal to rounding
                break
            vector = self.search.project(vector)
        self.vectors[:, column] = vector / np.linalg.norm(vector)

    def extend(self) -> None:
        """Fill the basis by Lanczos steps, orthogonalised against every vector."""
        for column in range(self.filled, self.room):
            known = self.vectors[:, : column + 1]
            image = self.search.project(self.search.apply(self.vectors[:, column]))
            weights = known.T @ image
            self.matrix[: column + 1, column] = weights
            self.matrix[column, : column + 1] = weights
            self._put(column + 1, image - known @ weights)
        self.applied += self.room - self.filled
        self.filled = self.room

    def ritz_vectors(self) -> Array:
        """Approximate eigenvectors, best first: the wanted ones and some of the next."""
        import numpy as np

        values, turn = np.linalg.eigh(self.matrix)
        keep = self.search.count + (self.room - self.search.count) // 3
        self.values = values[::-1][:keep]
        return self.vectors[:, : self.room] @ turn[:, ::-1][:, :keep].astype(self.dtype)

    def restart(self, ritz: Array, worst: int) -> None:
        """Shrink the basis to ``ritz`` and look on along the residual of its column ``worst``.

        All residuals are parallel to the last Lanczos vector, until a challenge brings in others.
        """
        image = self.search.project(self.search.apply(ritz[:, worst]))
        self._reset(ritz, image - self.dtype(self.values[worst]) * ritz[:, worst])
        self.applied += 1

    def challenge(self, found: Array) -> None:
        """Shrink the basis to ``found`` and look on from a fresh random vector."""
        self._reset(found, self._random())

    def _reset(self, kept: Array, following: Array) -> None:
        import numpy as np

        count = kept.shape[1]
        self.vectors[:, :count] = kept
        self.matrix = np.zeros_like(self.matrix)
        self.matrix[:count, :count] = np.diag(self.values[:count])
        self.filled = count
        self._put(count, following)
