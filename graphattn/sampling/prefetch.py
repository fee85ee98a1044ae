"""Batches made ahead by threads, handed out in order."""

from __future__ import annotations

import ctypes
import mmap
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

_SECONDS = 1.0  # between two looks at the memory in use
_GROWTH, _ROOM = 1.25, 2**27  # memory may grow by a quarter and 128 MiB before freed parts go back


def in_order(
    make: Callable[[Item], Made], items: Iterable[Item], threads: int, ahead: int = 2
) -> Iterator[Made]:
    """``make(item)`` for every item, in order, up to ``ahead`` per thread before they are needed.

    Threads pay because the samplers and torch's gathers work without the GIL; memory grows by the
    batches that wait, ``threads * ahead`` at most. What earlier batches left in glibc's heaps goes
    back to the system when it has grown: batches of unequal size fragment them, by tens of
    megabytes a step.

    Args:
        make: Must not depend on the order of its calls.
        items: Drawn in the caller's thread.
        threads: 0 makes each item when it is asked for.
        ahead: Items per thread that are ready or in the making.

    Raises:
        Exception: What ``make`` raises, as soon as any item has failed, without the items before
            it. Items that have not begun are dropped.
    """
    heap = _Heap()
    for made in _made(make, items, threads, ahead):
        yield made
        del made  # the caller's copy is the only one
        heap.tidy()


class _Heap:
    """Gives freed memory back when the process has grown, not oftener: new pages cost faults."""

    def __init__(self) -> None:
        self.last, self.base = time.monotonic(), own_memory()

    def tidy(self) -> None:
        """Look at the memory in use if that is a second ago."""
        if time.monotonic() - self.last <= _SECONDS:
            return
        if own_memory() > _GROWTH * self.base + _ROOM:
            release_freed()
            self.base = own_memory()
        self.last = time.monotonic()


def own_memory() -> int:
    """Bytes that this process holds and shares with no file; 0 where Linux does not say."""
    try:
        numbers = Path("/proc/self/statm").read_text().split()
    except OSError:
        return 0
    return (int(numbers[1]) - int(numbers[2])) * mmap.PAGESIZE


def release_freed() -> None:
    """Give freed memory back to the system, where the C library can."""
    if (trim := _malloc_trim()) is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    """glibc's ``malloc_trim``, or None under another C library."""
    try:
        return getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (OSError, TypeError):  # Windows has no handle of the process's own symbols
        return None


def _made(
    make: Callable[[Item], Made], items: Iterable[Item], threads: int, ahead: int
) -> Iterator[Made]:
    if threads == 0:
        yield from map(make, items)
        return
    rest = iter(items)
    pool = ThreadPoolExecutor(threads, "graphattn-loader")
    try:
        pending = deque(pool.submit(make, item) for item in islice(rest, threads * ahead))
        while pending:
            made = _first(pending)
            pending.popleft()
            pending.extend(pool.submit(make, item) for item in islice(rest, 1))
            yield made
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _first(pending: deque[Future[Made]]) -> Made:
    """Result of the first future, unless another one fails earlier."""
    while True:
        for future in pending:
            if future.done() and future.exception() is not None:
                future.result()
        if pending[0].done():
            return pending[0].result()
        wait([future for future in pending if not future.done()], return_when=FIRST_COMPLETED)
