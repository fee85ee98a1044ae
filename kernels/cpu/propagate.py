"""Label propagation: communities of a graph in a few passes over its edges.

Raghavan, Albert and Kumara, "Near linear time algorithm to detect community structures in
large-scale networks" (2007). One node after the other, on one thread, without the GIL: the order
decides the result, and is the caller's.
"""

import numpy as np

from graphattn.kernels.cpu.arrays import ArrayKernel, prefetch

_AHEAD = 8  # nodes between asking for a row and reading it
_LINE = 16  # indices of a cache line
_STEP = 40_503  # a node's first entry is its number times this, modulo its degree


def _sweep(version, indptr, indices, weights, order, labels, score):
    """Each node of ``order`` takes the heaviest label around it; how many changed theirs.

    A node's own label stays unless another weighs more, of equal others the first to weigh that
    wins; a node looks around from an entry of its own, or one label would run through a graph
    whose nodes are numbered along it. ``score`` is zero for every label, before and after.
    """
    moved, last = 0, order.shape[0] - 1
    around = np.empty(np.diff(indptr).max(), labels.dtype)
    for at in range(order.shape[0]):
        node = order[at]
        prefetch(indptr, order[min(at + 2 * _AHEAD, last)])
        ahead = indptr[order[min(at + _AHEAD, last)]]
        for line in range(0, 2 * _LINE, _LINE):
            prefetch(indices, ahead + line)
            prefetch(weights, ahead + line)
        begin, size = indptr[node], indptr[node + 1] - indptr[node]
        own = labels[node]
        best, most = own, score[own]
        entry = begin + node * _STEP % max(size, 1)
        for seen in range(size):
            other = indices[entry]
            label = labels[other]
            around[seen] = label
            if other != node:
                score[label] += weights[entry]
                if score[label] > most:
                    best, most = label, score[label]
            entry = entry + 1 if entry + 1 < begin + size else begin
        if most > score[own]:
            labels[node] = best
            moved += 1
        for seen in range(size):
            score[around[seen]] = 0
    return moved


def _moments(version, indptr, indices, weights, scale, labels, first, second, most):
    """Add ``P' A P`` to ``first`` and ``P' A A P`` to ``second`` ``[c, c]``; how much is done.

    P ``[N, c]`` has ``scale`` of a node in the column of its label; row by row of ``A P``. Stops
    once more than ``most`` numbers were added to ``second``.
    """
    done = 0
    count = first.shape[0]
    seen, image = np.full(count, -1, np.int64), np.zeros(count)
    around = np.empty(count, np.int64)
    for row in range(indptr.shape[0] - 1):
        size = 0
        for entry in range(indptr[row], indptr[row + 1]):
            column = indices[entry]
            label = labels[column]
            if seen[label] != row:
                seen[label] = row
                around[size] = label
                image[label] = 0
                size += 1
            image[label] += weights[entry] * scale[column]
        done += size * size
        if done > most:
            break
        for a in range(size):
            first[labels[row], around[a]] += scale[row] * image[around[a]]
            for b in range(size):
                second[around[a], around[b]] += image[around[a]] * image[around[b]]
    return done


_sweep_labels = ArrayKernel(_sweep)
_add_moments = ArrayKernel(_moments)


def propagate_labels(
    indptr: np.ndarray,
    indices: np.ndarray,
    weights: np.ndarray,
    order: np.ndarray,
    sweeps: int,
    settled: int,
) -> np.ndarray:
    """A label per node ``[N]``, numbered from 0 without gaps.

    Args:
        indptr, indices, weights: A square CSR and the weight of every entry; a node's entry with
            itself does not count.
        order: The nodes in the order of a sweep.
        sweeps: At most so many.
        settled: Stop after a sweep that moved no more nodes.

    Memory: about eight numbers per node.
    """
    size = len(indptr) - 1
    labels, score = np.arange(size, dtype=indices.dtype), np.zeros(size, weights.dtype)
    for _ in range(sweeps):
        if _sweep_labels(indptr, indices, weights, order, labels, score) <= settled:
            break
    held = np.bincount(labels, minlength=size) > 0
    return (np.cumsum(held) - 1)[labels]


def community_moments(
    indptr: np.ndarray,
    indices: np.ndarray,
    weights: np.ndarray,
    scale: np.ndarray,
    labels: np.ndarray,
    count: int,
    most: int,
) -> tuple[np.ndarray, np.ndarray] | None:
    """``P' A P`` and ``P' A A P`` ``[count, count]``: see :func:`_moments`. A is symmetric.

    ``None`` where that takes more than ``most`` additions: the rows see too many labels.
    """
    first, second = np.zeros((count, count)), np.zeros((count, count))
    done = _add_moments(indptr, indices, weights, scale, labels, first, second, most)
    return None if done > most else (first, second)
