"""Eigenpairs that need no iteration: complete graphs, and products of paths and cycles."""

from typing import Any, NamedTuple

from graphattn.encodings.operator import Laplacian

Array = Any  # numpy.ndarray
Matrix = Any  # scipy.sparse.csr_array

_SAME = 1e-12  # relative difference of entries that rounding explains


class Axis(NamedTuple):
    """A path of ``length`` nodes, or a cycle."""

    length: int
    wraps: bool


def closed_pairs(laplacian: Laplacian, count: int) -> tuple[Array, Array] | None:
    """The smallest nonzero eigenvalues ``[count]`` and vectors ``[n, count]``, or ``None``.

    Known forms, with equal weights: the complete graph; a path or a cycle, however its nodes are
    numbered; and, numbered row by row, the torus, and for ``D - A`` the grid and the cylinder (the
    normalised form of a grid has no product structure: its border nodes have fewer neighbours).
    Nothing is assumed: every entry of the matrix is compared with the form's.

    Memory: the matrix once more, and the result.
    """
    import numpy as np

    matrix, size = laplacian.matrix, laplacian.size
    entries = matrix.data[matrix.data < 0]
    if laplacian.nullity != 1 or size < 4:
        return None
    weight, equal = -float(entries[0]), np.ptp(entries) <= -_SAME * entries[0]
    if len(entries) == size * (size - 1):
        return _complete(size, weight, count) if equal and not np.ptp(laplacian.root) else None
    normalized = not np.array_equal(laplacian.root, np.ones(size))
    guess = _guess(matrix)
    if guess is None:
        return None
    axes, order = guess
    product = not normalized or all(axis.wraps for axis in axes)
    if not (product or len(axes) == 1) or not _same(matrix, axes, order, normalized, weight):
        return None
    values, vectors = _product(axes, weight, count) if product else _one_path(size, count)
    placed = np.empty_like(vectors)
    placed[order] = vectors
    return values, placed / np.linalg.norm(placed, axis=0)


def _guess(matrix: Matrix) -> tuple[list[Axis], Array] | None:
    """The axes that the first node's neighbours suggest, and the node at each position."""
    import numpy as np
    from scipy.sparse import csgraph

    size = matrix.shape[0]
    degree = np.diff(matrix.indptr) - 1
    if degree.max() <= 2:
        wraps = bool(degree.min() == 2)
        start = int(np.argmin(degree))
        order, _ = csgraph.depth_first_order(matrix, start, return_predecessors=True)
        return [Axis(size, wraps)], order
    near = np.sort(matrix.indices[: matrix.indptr[1]])[1:].tolist()
    if degree.max() > 4 or len(near) < 2 or near[0] != 1:
        return None
    wraps_within = len(near) > 2 and near[2] == near[1] + 1
    width = near[2] if wraps_within else near[1]
    if size % width:
        return None
    wraps_down = len(near) == 3 + int(wraps_within)
    return [Axis(size // width, wraps_down), Axis(width, wraps_within)], np.arange(size)


def _same(matrix: Matrix, axes: list[Axis], order: Array, normalized: bool, weight: float) -> bool:
    """Whether ``matrix`` is the Laplacian of the product of ``axes``, in the given order."""
    import numpy as np
    from scipy import sparse

    adjacency = sparse.csr_array((1, 1))
    for axis in axes:
        before, after = (sparse.eye_array(m) for m in (adjacency.shape[0], axis.length))
        adjacency = sparse.kron(adjacency, after) + sparse.kron(before, _line(axis))
    degree = np.asarray(adjacency.sum(axis=1)).reshape(-1)
    if normalized:
        scale = sparse.diags_array(1 / np.sqrt(degree))
        form = sparse.eye_array(len(degree)) - scale @ adjacency @ scale
    else:
        form = weight * (sparse.diags_array(degree) - adjacency)
    if form.nnz != matrix.nnz:
        return False
    difference = sparse.csr_array(form) - matrix[order][:, order]
    return bool(abs(difference).max() <= _SAME * matrix.data.max())


def _line(axis: Axis) -> Matrix:
    import numpy as np
    from scipy import sparse

    ones = np.ones(axis.length - 1)
    line = sparse.diags_array([ones, ones], offsets=[1, -1]).tolil()
    if axis.wraps:
        line[0, axis.length - 1] = line[axis.length - 1, 0] = 1
    return line.tocsr()


def _one_path(size: int, count: int) -> tuple[Array, Array]:
    """Normalised path: ``1 - cos(pi j / (n - 1))``, cosines times the root of the degree."""
    import numpy as np

    waves = np.arange(1, count + 1)
    vectors = np.cos(np.pi / (size - 1) * np.outer(np.arange(size), waves))
    vectors[1:-1] *= np.sqrt(2)
    return 1 - np.cos(np.pi * waves / (size - 1)), vectors


def _product(axes: list[Axis], weight: float, count: int) -> tuple[Array, Array]:
    """Sums of the axes' eigenvalues, products of their vectors; ``weight (D - A)``."""
    import numpy as np

    values, vectors = np.zeros(1), np.ones((1, 1))
    for axis in axes:
        wave, shape = _waves(axis, count + 1)
        total = (values[:, None] + wave).reshape(-1)
        first = np.argsort(total, kind="stable")[: count + 1]
        above, within = np.divmod(first, len(wave))
        values = total[first]
        vectors = (vectors[:, None, above] * shape[None, :, within]).reshape(-1, len(first))
    return weight * values[1:], vectors[:, 1:]


def _waves(axis: Axis, count: int) -> tuple[Array, Array]:
    """The first eigenvalues and unnormalised vectors of ``D - A`` on one axis."""
    import numpy as np

    length, waves = axis.length, np.arange(min(count, axis.length))
    place = np.arange(length)
    if not axis.wraps:
        shape = np.cos(np.pi / length * np.outer(place + 0.5, waves))
        return 2 - 2 * np.cos(np.pi * waves / length), shape
    waves, odd = (waves + 1) // 2, waves % 2 == 1
    angle = 2 * np.pi / length * np.outer(place, waves)
    shape = np.where(odd | (waves == 0), np.cos(angle), np.sin(angle))
    shape /= np.linalg.norm(shape, axis=0)
    return 2 - 2 * np.cos(2 * np.pi * waves / length), shape


def _complete(size: int, weight: float, count: int) -> tuple[Array, Array]:
    """``n w`` throughout; vector j sets node j + 1 against all before it."""
    import numpy as np

    vectors = np.zeros((size, count))
    for j in range(count):
        vectors[: j + 1, j] = 1 / np.sqrt((j + 1) * (j + 2))
        vectors[j + 1, j] = -np.sqrt((j + 1) / (j + 2))
    return np.full(count, size * weight), vectors
