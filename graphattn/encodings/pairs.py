"""The wanted eigenpairs of a whole graph: null vectors, isolated nodes, what solvers find."""

from typing import Any

import torch

from graphattn.encodings.operator import Laplacian, build_laplacian
from graphattn.encodings.signs import fix_signs
from graphattn.encodings.solvers import smallest_pairs

Array = Any  # numpy.ndarray


def solve(
    adjacency: Any,
    k: int,
    normalization: str | None,
    drop: str | None,
    tol: float,
    method: str,
    max_iter: int,
    device: torch.device,
) -> tuple[Array, Array, float]:
    """(values [k], vectors [N, k], residual), padded, signs fixed."""
    import numpy as np

    size = adjacency.shape[0]
    laplacian = build_laplacian(adjacency, normalization is not None)
    skip = {"first": 1, "all_zero": laplacian.nullity, None: 0}[drop]
    zeros = min(laplacian.nullity, skip + k)
    rest = min(skip + k - zeros, size - laplacian.nullity)
    asked = method, tol, max_iter, device
    found, vectors, residual = _nonzero_pairs(laplacian, size, rest, *asked)
    late = max(0, skip - zeros)  # the first pair is not a null vector when no edge exists
    null = np.zeros((size, max(0, zeros - skip)))
    null[laplacian.nodes] = laplacian.null_basis(min(skip, zeros), zeros)
    values = np.concatenate([np.zeros(null.shape[1]), found[late:]])
    vectors = np.concatenate([null, vectors[:, late:]], axis=1)
    if normalization == "rw":
        scale = np.ones(size)
        scale[laplacian.nodes] = laplacian.root
        vectors = vectors / scale[:, None]
        vectors = vectors / np.linalg.norm(vectors, axis=0)
    missing = k - len(values)
    values = np.pad(values, (0, missing), constant_values=np.nan)
    return values, np.pad(fix_signs(vectors), ((0, 0), (0, missing))), residual


def _nonzero_pairs(
    laplacian: Laplacian, size: int, count: int, *asked: Any
) -> tuple[Array, Array, float]:
    """The ``count`` smallest nonzero pairs of the whole graph, isolated nodes included."""
    import numpy as np

    inner = min(count, laplacian.size - laplacian.nullity)
    values, residual = np.empty(0), 0.0
    vectors = np.zeros((size, inner))
    if inner > 0:
        values, inside, residual = smallest_pairs(laplacian, inner, *asked)
        vectors[laplacian.nodes] = inside
    isolated = np.ones(size, dtype=bool)
    isolated[laplacian.nodes] = False
    alone = np.flatnonzero(isolated)[:count]
    if len(alone):
        single = np.zeros((size, len(alone)))
        single[alone, np.arange(len(alone))] = 1
        values = np.concatenate([values, np.ones(len(alone))])
        vectors = np.concatenate([vectors, single], axis=1)
    order = np.argsort(values, kind="stable")[:count]
    return values[order], vectors[:, order], residual
