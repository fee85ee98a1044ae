"""The build of test_store_kill.py: FOLDER [deal|sort|rows]; it kills itself there."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from graphattn.graph import store_rows
from graphattn.graph.store import Store
from graphattn.graph.store_build import build_store

N, E, BLOCK = 300, 6000, 1000


def kill() -> None:
    """End this process as the system does when memory runs out: nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


class Rows:
    """Features made as they are read; ``kill_at`` rows are made before the end."""

    shape, dtype = (N, 8), torch.float32

    def __init__(self, kill_at: int) -> None:
        self.kill_at = kill_at

    def numel(self) -> int:
        return N * 8

    def __len__(self) -> int:
        return N

    def __getitem__(self, rows: slice) -> torch.Tensor:
        if rows.start >= self.kill_at:
            kill()
        return torch.arange(rows.start * 8, min(rows.stop, N) * 8).view(-1, 8).sin()


def build(folder: Path, step: str = "") -> Store:
    """Edges in six blocks and several buckets, rows in blocks of 30."""
    store_rows._ROWS = 30 * 8 * 4

    def edges() -> Iterator[np.ndarray]:
        for number in range(0, E, BLOCK):
            if step == "deal" and number == 3 * BLOCK:
                kill()
            yield np.random.default_rng(number).integers(0, N, (2, BLOCK))

    if step == "sort":
        put = store_rows.Progress.put

        def noted(self: store_rows.Progress, **values: object) -> None:
            if values.get("bucket") == 3:  # written, and not noted yet
                kill()
            put(self, **values)

        store_rows.Progress.put = noted  # type: ignore[method-assign]
    arrays = {"x": Rows(150 if step == "rows" else N), "y": torch.arange(N)}
    return build_store(folder, N, E, edges, arrays, bucket=1000)


if __name__ == "__main__":
    build(Path(sys.argv[1]), *sys.argv[2:])
