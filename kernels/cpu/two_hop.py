"""CPU two-hop tokens, row by row: A squared is never built.

The definition is kernels/reference/sampling.py. A bitmap of one bit per node stays in the cache
and tells which ends of two steps are new; it is emptied along the list that they made.
"""

import threading

import numpy as np
from numba.extending import register_jitable

from graphattn.kernels.cpu.arrays import ArrayKernel, prefetch
from graphattn.kernels.cpu.random import below, choose, derive, is_sparse
from graphattn.kernels.cpu.threads import run_pieces

_PIECE = 512  # rows that a thread takes at a time
_AHEAD = 16  # neighbours between asking for a row and reading it
_LINE = 16  # entries of a cache line
_ONE, _LOW = np.uint64(1), np.int64(63)


@register_jitable  # type: ignore[untyped-decorator]
def _sort(numbers, size):
    for right in range(1, size):
        number, at = numbers[right], right
        while at > 0 and numbers[at - 1] > number:
            numbers[at] = numbers[at - 1]
            at -= 1
        numbers[at] = number


@register_jitable  # type: ignore[untyped-decorator]
def _list_ends(indptr, indices, begin, end, bits, found):
    """The unique ends of two steps into ``found``; -1 when they do not fit."""
    size, most = np.int64(0), len(indices) - 1
    for p in range(begin, end):
        # Past the row's end, too: the next row of the table is most often the next node's.
        ahead = indptr[indices[min(p + _AHEAD, most)]]
        prefetch(indptr, indices[min(p + 2 * _AHEAD, most)])
        prefetch(indices, ahead)
        prefetch(indices, ahead + _LINE)
        middle = indices[p]
        first, last = indptr[middle], indptr[middle + 1]
        if size + last - first > len(found):
            for q in range(size):
                bits[found[q] >> 6] = 0
            return np.int64(-1)
        for q in range(first, last):
            node = np.int64(indices[q])
            word, bit = bits[node >> 6], _ONE << np.uint64(node & _LOW)
            if word & bit == 0:
                bits[node >> 6] = word | bit
                found[size] = node
                size += 1
    for q in range(size):
        bits[found[q] >> 6] = 0
    return size


@register_jitable  # type: ignore[untyped-decorator]
def _anywhere(key, nodes, rest, room, row):
    """``rest`` distinct nodes of the whole graph into ``row[1:]``; ``rest`` and more: all, cyclic.

    ``row``'s own length bounds the list where it must be numbered in full.
    """
    drawn = min(rest, nodes)
    choose(key, nodes, drawn, room)
    for step in range(rest):
        row[1 + step] = room[step % drawn]


@register_jitable  # type: ignore[untyped-decorator]
def _need(nodes, rest):
    """Room for a draw among all nodes."""
    drawn = min(rest, nodes)
    return 3 * drawn if is_sparse(nodes, drawn) else nodes


@register_jitable  # type: ignore[untyped-decorator]
def _exact(indptr, indices, begin, end, key, bits, found, row):
    """One row's tokens; False when ``found`` is too short."""
    rest, degree = len(row) - 1, end - begin
    if degree >= len(found):
        return False
    size = _list_ends(indptr, indices, begin, end, bits, found[degree:])
    if size < 0:
        return False
    for step in range(degree):
        found[step] = indices[begin + step]
    if degree + size < rest:
        _sort(found[degree:], size)
        for step in range(rest):
            row[1 + step] = found[step % (degree + size)]
        return True
    for step in range(rest):
        other = step + below(key, step, degree + size - step)
        row[1 + step] = found[other]
        found[other] = found[step]
    return True


@register_jitable  # type: ignore[untyped-decorator]
def _walk(indptr, indices, begin, end, key, found, row):
    """One row's tokens by walks, in three passes that each ask for what the next one reads."""
    rest = len(row) - 1
    for step in range(rest):
        middle = indices[begin + below(key, 2 * step, end - begin)]
        prefetch(indptr, middle)
        row[1 + step] = middle
    for step in range(rest):
        start = indptr[row[1 + step]]
        further = indptr[row[1 + step] + 1] - start
        on = below(key, 2 * step + 1, further + 1)
        found[step] = -1 if on == further else start + on
        prefetch(indices, max(found[step], 0))
    for step in range(rest):
        if found[step] >= 0:
            row[1 + step] = indices[found[step]]


def _tokens(version, indptr, indices, nodes, first, last, seed, walk, bits, found, out):
    """Rows ``first`` to ``last`` of the table; returns the row for which ``found`` is too short."""
    total, rest = len(indptr) - 1, out.shape[1] - 1
    for place in range(first, last):
        node = nodes[place]
        key = derive(seed, node)
        row = out[place]
        row[0] = node
        begin, end = indptr[node], indptr[node + 1]
        if begin == end:
            if _need(total, rest) > len(found):
                return place
            _anywhere(key, total, rest, found, row)
        elif not walk:
            if not _exact(indptr, indices, begin, end, key, bits, found, row):
                return place
        elif rest > len(found):
            return place
        else:
            _walk(indptr, indices, begin, end, key, found, row)
    return last


tokens = ArrayKernel(_tokens)
_local = threading.local()


def _scratch(num_nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """This thread's empty bitmap and list."""
    words = -(-num_nodes // 64)
    kept = getattr(_local, "scratch", None)
    _local.scratch = None  # an interrupted row may leave bits behind
    if kept is None or len(kept[0]) < words:
        return np.zeros(words, np.uint64), np.empty(1 << 14, np.int64)
    return kept  # type: ignore[no-any-return]


def sample_tokens(
    indptr: np.ndarray,
    indices: np.ndarray,
    nodes: np.ndarray,
    out: np.ndarray,
    seed: int,
    walk: bool,
    threads: int,
) -> None:
    """Fill ``out`` [n, K] with the tokens of ``nodes`` [n] int64.

    ``indices`` ascend in each row without duplicates; ``out`` has their dtype. Scratch per thread:
    N / 8 bytes and 8 bytes per entry of the longest list of a row. The same for any number of
    threads.
    """

    def piece(_number: int, first: int, last: int) -> None:
        bits, found = _scratch(len(indptr) - 1)
        arguments = indptr, indices, nodes, first, last, np.uint64(seed), walk
        while (done := tokens(*arguments, bits, found, out)) < last:
            found = np.empty(2 * len(found), np.int64)
            arguments = indptr, indices, nodes, done, last, np.uint64(seed), walk
        _local.scratch = bits, found

    bounds = [*range(0, len(nodes), _PIECE), len(nodes)]
    if len(nodes):
        run_pieces(piece, bounds, threads)
