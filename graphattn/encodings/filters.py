"""Operators whose largest eigenvalues belong to the smallest ones of a Laplacian."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any

import torch
from torch import Tensor

from graphattn.encodings.device import DeviceLaplacian
from graphattn.encodings.operator import Laplacian
from graphattn.kernels.cpu.pages import empty

Apply = Callable[[Tensor], Tensor]

_SHIFT = 1e-9  # of the spectrum's bound: makes the matrix definite, far below most eigenvalues
_REACH = 4.0  # a Chebyshev filter lifts the lowest end by about cosh of this ...
_MOST_PRODUCTS = 400  # ... with at most this many products


@dataclass(frozen=True)
class Operator:
    """A function of L.

    Attributes:
        apply: ``[n, b] -> [n, b]``.
        spread: See :class:`graphattn.encodings.krylov.Search`.
    """

    apply: Apply
    spread: Apply


def complement(matrix: DeviceLaplacian) -> Operator:
    """``c I - L``, c a bound of the spectrum."""
    bound = matrix.laplacian.bound
    return Operator(
        lambda x: matrix.accumulate(bound * x, x, 1.0, -1.0), lambda values: bound - values
    )


def chebyshev(matrix: DeviceLaplacian, cut: float) -> Operator:
    r"""``T_d(t(L)) / T_d(t(0))``, where t maps ``[cut, c]`` to ``[1, -1]``, c the spectrum's bound.

    .. math:: T_d(t(0)) \approx \cosh(2 d \sqrt{cut / c})

    Above ``cut`` the filter stays below ``1 / cosh(4)``, below it rises to 1: d products bring
    the smallest eigenvalues as far apart as d Lanczos steps would, with three blocks of vectors in
    memory. d is at most 400, and a cut below ``c / 40,000`` is raised to it: d products would
    make a filter that is flat there and tells no two eigenvalues apart. The recurrence is scaled,
    so that nothing overflows (Zhou, Saad, Tiago and Chelikowsky, "Self-consistent-field
    calculations using Chebyshev-filtered subspace iteration", 2006).
    """
    bound = matrix.laplacian.bound
    cut = max(cut, bound * (_REACH / (2 * _MOST_PRODUCTS)) ** 2)
    degree = min(ceil(_REACH / (2 * sqrt(cut / bound))), _MOST_PRODUCTS)
    half, centre = (bound - cut) / 2, (bound + cut) / 2
    first = half / centre  # 1 / t(0)

    def apply(x: Tensor) -> Tensor:
        ratio, before, now = first, *(empty(x, x.shape).copy_(x) for _ in range(2))
        matrix.accumulate(now, x, first * centre / half, -first / half)
        for _ in range(degree - 1):
            following = 1 / (2 / first - ratio)
            scale = 2 * following / half
            matrix.accumulate(before, now, -ratio * following, -scale).add_(
                now, alpha=scale * centre
            )
            before, now = now, before
            ratio = following
        return now

    return Operator(apply, torch.ones_like)  # the filter's largest value, not an own small one


def inverse(laplacian: Laplacian) -> Operator:
    """``(L + shift I)^-1`` by a sparse factorisation on the CPU.

    Raises:
        MemoryError: the factor does not fit.
    """
    factor = factorise(laplacian)
    return Operator(lambda x: torch.from_numpy(factor.solve(x.numpy())), lambda values: values)


def factorise(laplacian: Laplacian) -> Any:
    """SuperLU's factor of the Laplacian, shifted so that it is definite."""
    from scipy import sparse
    from scipy.sparse.linalg import splu

    shift = _SHIFT * laplacian.bound
    shifted = sparse.csc_array(laplacian.matrix + shift * sparse.eye_array(laplacian.size))
    # On a mesh, small panels and larger leaves of the elimination tree take less time.
    options = {"options": {"SymmetricMode": True}, "relax": 16, "panel_size": 4}
    return splu(shifted, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, **options)
