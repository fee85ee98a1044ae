"""Largest eigenpairs of a symmetric operator by thick-restart block Lanczos, on any device.

A Krylov space of one start vector holds one vector of each eigenspace, and cycles, grids, tori
and equal parts have repeated eigenvalues at the very bottom of the spectrum. A space of ``b``
start vectors holds up to ``b`` of each. Where more pairs are wanted than a block holds, a converged
answer is challenged: a search from fresh vectors orthogonal to it must find nothing better.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphattn.encodings.basis import Basis
from graphattn.kernels.cpu.pages import on_huge_pages

_GUARD = 0.1  # relative residual below which a Ritz vector counts as a challenger
_BETTER = 4.0  # an eigenvalue is better if it is lower by more than this many tolerances


@dataclass(frozen=True)
class Search:
    """What to look for.

    Attributes:
        apply: The operator, ``[n, b] -> [n, b]``; its *largest* eigenvalues are sought.
        project: Projection of ``[n, b]`` onto the complement of the known null vectors.
        measure: Unit vectors ``[n, j]`` -> (eigenvalues, residual norms) of the original problem,
            whose *smallest* eigenvalues are the operator's largest.
        spread: Eigenvalues of the operator -> the size that its residuals are compared with: an
            answer is measured once they are below ``tol`` times that.
        size: Length n.
        count: Number of pairs m.
        tol: Bound on ``max residual / largest wanted eigenvalue``.
        max_iter: Bound on the vectors that the operator is applied to; at least ``count`` are.
        block: Vectors that the operator is applied to at once.
        dtype: Of the vectors; float32 halves memory traffic where ``tol`` times the eigenvalues is
            far above its rounding.
        device: Of the vectors.
    """

    apply: Callable[[Tensor], Tensor]
    project: Callable[[Tensor], Tensor]
    measure: Callable[[Tensor], tuple[Tensor, Tensor]]
    spread: Callable[[Tensor], Tensor]
    size: int
    count: int
    tol: float
    max_iter: int
    block: int = 4
    dtype: torch.dtype = torch.float64
    device: torch.device = torch.device("cpu")

    @property
    def room(self) -> int:
        """Vectors kept before a restart."""
        return basis_size(self.count, self.block)

    def basis(self) -> Basis:
        """A basis that holds random start vectors."""
        shape = (self.room + self.block, self.size)
        rows = on_huge_pages(torch.empty(shape, dtype=self.dtype, device=self.device))
        return Basis(self.apply, self.project, rows, self.block)


@dataclass(frozen=True)
class Answer:
    """Unit vectors ``[n, j]``, their eigenvalues and residual norms ``[j]``."""

    vectors: Tensor
    values: Tensor
    residuals: Tensor

    @property
    def residual(self) -> float:
        """Largest residual norm relative to the largest eigenvalue."""
        return float(self.residuals.max() / self.values.max())


def basis_size(count: int, block: int = 4) -> int:
    """Vectors kept for ``count`` wanted ones: deep enough that a restart loses little."""
    return 2 * count + 24 + 4 * (block - 1)


def block_lanczos(search: Search, basis: Basis | None = None) -> tuple[Tensor, float]:
    """Solve ``search`` -> (orthonormal vectors [n, m], relative residual reached).

    Wu and Simon, "Thick-restart Lanczos method for large symmetric eigenvalue problems", 2000, by
    blocks and with full orthogonalisation. Deterministic: the start vectors come from a fixed seed.
    The caller compares the residual with ``tol``: when ``max_iter`` runs out, the best vectors so
    far come back.

    Args:
        search: What to look for.
        basis: Steps already done with the same operator; ``None`` starts from random vectors.

    Memory: ``basis_size(m, b) + b`` vectors of length n and about ``2 m`` while it restarts.
    """
    from tqdm import tqdm

    shown: dict[str, Any] = {"unit": "product", "disable": None, "delay": 3}
    with tqdm(desc="eigenvectors", **shown) as bar:
        answer = _search(search, basis or search.basis(), bar)
    return answer.vectors, answer.residual


def _search(search: Search, basis: Basis, bar: Any) -> Answer:
    found: Answer | None = None  # waits for its challenge
    while True:
        basis.step()
        bar.update(basis.applied - bar.n)
        if found is None:
            answer = _answer(search, basis, bar)
            if answer is not None and search.block >= search.count:
                return answer
            if answer is not None:
                found = answer
                basis.challenge(found.vectors, basis.values[: search.count])
        else:
            better = _challenger(search, basis, found)
            if better is False:
                return found
            found = None if better else found
        if basis.applied >= search.max_iter and basis.filled >= search.count:
            return found or _measured(search, basis, search.count)
        if basis.full:
            keep = search.count + (search.room - search.count) // 3
            basis.restart(keep, search.count)


def _answer(search: Search, basis: Basis, bar: Any) -> Answer | None:
    """The wanted vectors once their measured residual is below ``tol``.

    Where the basis is not exact the free residuals are too small: then only a full one is measured.
    """
    if not ((basis.exact or basis.full) and _settled(search, basis, search.tol)):
        return None
    answer = _measured(search, basis, search.count)
    bar.set_postfix_str(f"relative residual {answer.residual:.1e}")
    return answer if answer.residual <= search.tol else None


def _challenger(search: Search, basis: Basis, found: Answer) -> bool | None:
    """Whether the search from fresh vectors has found better ones; ``None``: not known yet."""
    if not _settled(search, basis, _GUARD):
        return None
    joint = _measured(search, basis, search.count + 1)
    if not (joint.residuals <= _GUARD * joint.values).all():
        return None
    values, largest = joint.values[:-1].sort().values, found.values.max()
    return bool((values < found.values.sort().values - _BETTER * search.tol * largest).any())


def _settled(search: Search, basis: Basis, tol: float) -> bool:
    """Whether the operator's own residuals, which cost nothing, are below ``tol``.

    The first vector not wanted must be a serious candidate: else a better one may be missing.
    """
    count = search.count
    if basis.filled <= count:
        return False
    residuals = basis.residuals(count + 1)
    spread = search.spread(basis.values[: count + 1])
    wanted = (residuals[:count] <= tol * spread[:count].max()).all()
    return bool(wanted and residuals[count] <= max(tol, _GUARD) * spread[count])


def _measured(search: Search, basis: Basis, count: int) -> Answer:
    vectors = basis.eigenvectors(count)
    return Answer(vectors, *search.measure(vectors))
