"""Eigenvectors on disk, one .npz file per graph and set of arguments."""

import hashlib
import json
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from graphattn.cache import atomic_write, cache_dir
from graphattn.graph import CSRGraph

Array = Any  # numpy.ndarray
Pairs = tuple[Array, Array, float]

_VERSION = 3  # part of every key: raise it when the encoding changes, and old files are not read
_BROKEN = (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile)


def cache_path(graph: CSRGraph, edge_weight: Tensor | None, options: Mapping[str, object]) -> Path:
    """Where the encodings of ``graph`` with ``options`` belong."""
    digest = hashlib.sha256(graph.fingerprint().encode())
    digest.update(json.dumps({"version": _VERSION, **options}, sort_keys=True).encode())
    if edge_weight is not None:
        digest.update(edge_weight.detach().double().cpu().numpy().tobytes())
    return cache_dir() / "laplacian_pe" / f"{digest.hexdigest()}.npz"


def load_or_make(
    graph: CSRGraph,
    edge_weight: Tensor | None,
    options: Mapping[str, object],
    make: Callable[[], Pairs],
) -> Pairs:
    """Read the stored pairs, or make and store them.

    A damaged file is replaced and a folder that cannot be written is passed over, each with a
    ``RuntimeWarning``.
    """
    path = cache_path(graph, edge_weight, options)
    if path.exists():
        try:
            return _read(path, graph.num_rows)
        except _BROKEN as error:
            _warn(f"cannot read {path} ({error}); the encodings are computed again")
    pairs = make()
    try:
        _write(path, pairs)
    except OSError as error:
        _warn(f"cannot write {path} ({error}); set GRAPHATTN_CACHE to a folder that can be written")
    return pairs


def _read(path: Path, num_nodes: int) -> Pairs:
    import numpy as np

    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        values, vectors = file["eigenvalues"], file["eigenvectors"]
        residual = float(file["residual"])
    if vectors.shape != (num_nodes, len(values)):
        raise ValueError(f"eigenvectors of shape {vectors.shape} for {num_nodes} nodes")
    return values, vectors, residual


def _write(path: Path, pairs: Pairs) -> None:
    import numpy as np

    with atomic_write(path) as file:
        np.savez(file, eigenvalues=pairs[0], eigenvectors=pairs[1], residual=pairs[2])


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)
