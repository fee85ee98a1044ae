"""Time and memory of long work: each stage in a process of its own, its figures kept on disk."""

import json
import multiprocessing
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Found = dict[str, float]


class Peak:
    """Seconds and largest anonymous memory in GiB of a block, looked at every 20 ms."""

    def __enter__(self) -> "Peak":
        self.gib = anonymous()
        self._start, self._end = time.perf_counter(), threading.Event()
        self._thread = threading.Thread(target=self._poll)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
        self._end.set()
        self._thread.join()

    def _poll(self) -> None:
        while not self._end.wait(0.02):
            self.gib = max(self.gib, anonymous())


def anonymous() -> float:
    """RssAnon + RssShmem of this process in GiB (0 where /proc is missing)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    kib = sum(int(fields[key].split()[0]) for key in ("RssAnon", "RssShmem") if key in fields)
    return kib / 2**20


def stage(kept: Path, call: Callable[..., Found | None], *arguments: Any) -> Found:
    """What ``call`` returns, and its ``seconds`` and ``peak``; read from ``kept`` if it ran before.

    Args:
        kept: JSON file.
        call: A function of a module; it runs in a new process.
        arguments: Its arguments.
    """
    if kept.exists():
        found: Found = json.loads(kept.read_text())
        return found
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(_watched, (call, arguments))
    kept.write_text(json.dumps(found))
    return found


def _watched(call: Callable[..., Found | None], arguments: tuple[Any, ...]) -> Found:
    with Peak() as peak:
        own = call(*arguments) or {}
    return {"seconds": peak.seconds, "peak": peak.gib} | own
