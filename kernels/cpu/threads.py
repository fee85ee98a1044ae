"""Running a kernel over chunks of rows on a thread pool of our own.

Kernels release the GIL. Rows do not depend on each other, so the result is the same for any
number of threads and any order of the chunks.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import torch

# Below this many multiply-adds (about 0.3 ms) waking another thread costs more than it saves.
INLINE_WORK = 2_000_000
PIECES_PER_THREAD = 8

# One pool per process and size, made at first use: a forked child finds none under its own id,
# and two threads that race for the first pool agree on one (setdefault is atomic).
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def _pool(workers: int) -> ThreadPoolExecutor:
    name = (os.getpid(), workers)
    if name not in _pools:
        _pools.setdefault(name, ThreadPoolExecutor(workers, "graphattn"))
    return _pools[name]


def threads_for(work: float) -> int:
    """Threads that pay for about ``work`` multiply-adds: torch's number, or the caller's alone."""
    return 1 if work < INLINE_WORK else torch.get_num_threads()


def run_chunks(call: Callable[[int, int], None], bounds: list[int], work: float) -> None:
    """Call ``call(first, last)`` until all rows are done, in pieces as large as the threads allow.

    ``bounds`` cut the rows into chunks of about equal edge count; ``work`` estimates the
    multiply-adds.
    """
    threads = threads_for(work)
    if threads == 1:
        call(bounds[0], bounds[-1])
        return
    step = max((len(bounds) - 1) // (threads * PIECES_PER_THREAD), 1)
    kept = [*bounds[:-1:step], bounds[-1]]
    run_pieces(lambda _, first, last: call(first, last), kept, threads)


def run_pieces(call: Callable[[int, int, int], None], bounds: list[int], threads: int) -> None:
    """Call ``call(number, first, last)`` once for each pair of neighbouring bounds."""
    # next() of a list iterator is atomic: each piece is taken once, by whoever is free.
    pieces = iter([(number, *piece) for number, piece in enumerate(pairwise(bounds))])

    def work_off() -> None:
        for piece in pieces:
            call(*piece)

    helpers = min(threads, len(bounds) - 1) - 1
    futures = [_pool(threads - 1).submit(work_off) for _ in range(helpers)]
    work_off()
    for future in futures:
        # A task that never started has nothing left to do.
        if not future.cancel():
            future.result()
