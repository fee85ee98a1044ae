"""Sorting edges by counting: two stable passes over them instead of comparisons.

Each pass writes every edge once, where the number of smaller keys says that it belongs; one thread,
without the GIL.
"""

import numpy as np

from graphattn.kernels.cpu.arrays import ArrayKernel


def _scatter(version, source, target, places, targets, ids):
    """Edges in the order of their source; ``places``: where those of each source begin."""
    for edge in range(source.shape[0]):
        place = places[source[edge]]
        places[source[edge]] = place + 1
        targets[place] = target[edge]
        ids[place] = edge


def _transpose(version, indptr, indices, carried, places, rows, positions):
    """Entries of a CSR in the order of their column, with the row and what each one carries.

    ``carried``: a number per entry, or None for its position; ``positions``: None to leave it out.
    """
    for row in range(indptr.shape[0] - 1):
        for entry in range(indptr[row], indptr[row + 1]):
            place = places[indices[entry]]
            places[indices[entry]] = place + 1
            rows[place] = row
            if positions is not None:
                if carried is None:
                    positions[place] = entry
                if carried is not None:
                    positions[place] = carried[entry]


_scatter_edges = ArrayKernel(_scatter)
_transpose_entries = ArrayKernel(_transpose)


def transpose(
    indptr: np.ndarray,
    indices: np.ndarray,
    columns: np.ndarray,
    rows: np.ndarray,
    positions: np.ndarray | None,
    carried: np.ndarray | None = None,
) -> None:
    """Fill ``rows`` [E], and ``positions`` [E] of the entries, in the order of their columns.

    ``columns`` [C + 1]: offsets of the columns. Entries of a column keep their order.
    """
    _transpose_entries(indptr, indices, carried, columns[:-1].copy(), rows, positions)


def sort_by_target(
    source: np.ndarray,
    target: np.ndarray,
    sources: np.ndarray,
    rows: np.ndarray,
    indices: np.ndarray,
    ids: np.ndarray,
) -> None:
    """Fill ``indices`` [E] (sources) and ``ids`` [E] of edges by (target, source, id).

    ``sources`` [C + 1], ``rows`` [R + 1]: offsets of either side. Memory: two integers per edge
    and one per node of either side.
    """
    targets = np.empty(len(source), np.int32 if len(rows) <= 2**31 else np.int64)
    carried = np.empty(len(source), np.int32 if len(source) < 2**31 else np.int64)
    _scatter_edges(source, target, sources[:-1].copy(), targets, carried)
    transpose(sources, targets, rows, indices, ids, carried)
