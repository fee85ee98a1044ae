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


def run_chunks(call: Callable[[int, int], None], chunks: torch.Tensor, work: float) -> None:
    """Call ``call(first, last)`` until all rows are done, on ``torch.get_num_threads()`` threads.

    ``chunks`` [C + 1] holds row bounds of about equal edge count; ``work`` estimates the
    multiply-adds and keeps small calls on the calling thread.
    """
    bounds, threads = chunks.tolist(), torch.get_num_threads()
    if threads == 1 or work < INLINE_WORK or len(bounds) <= 2:
        call(bounds[0], bounds[-1])
        return
    step = max((len(bounds) - 1) // (threads * PIECES_PER_THREAD), 1)
    kept = [*bounds[:-1:step], bounds[-1]]
    # next() of a list iterator is atomic: each piece is taken once, by whoever is free.
    pieces = iter(list(pairwise(kept)))

    def work_off() -> None:
        for first, last in pieces:
            call(first, last)

    futures = [_pool(threads - 1).submit(work_off) for _ in range(threads - 1)]
    work_off()
    for future in futures:
        # A task that never started has nothing left to do.
        if not future.cancel():
            future.result()
