"""The run folder: config.yaml, metrics.jsonl, result.json, and TensorBoard on request."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from graphattn.training.checkpoint import write_bytes

METRICS = "metrics.jsonl"
CONFIG = "config.yaml"
RESULT = "result.json"


def new_folder(out: str | None, data: str, model: str) -> Path:
    """Chooses the folder of a new run; ``train_run`` makes it once the run can start.

    Args:
        out: Where; None means ``runs/<data>-<model>-<time>``.
        data: Data set name; of a path, its last part.
        model: Model name.

    Raises:
        ValueError: If the folder already holds a run.
    """
    if out is not None:
        folder = Path(out)
    else:
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S-%f")[:-3]
        folder = Path("runs") / f"{Path(data).name}-{model}-{stamp}"
    if (folder / CONFIG).exists():
        raise ValueError(
            f"{folder} already holds a run; continue it with --resume {folder}, or give another "
            "--out"
        )
    return folder


class Recorder:
    """Appends one line of JSON per epoch to ``metrics.jsonl``.

    Args:
        folder: Run folder.
        tensorboard: Write TensorBoard events as well.
        silent: Write nothing: for all ranks but the first.

    Raises:
        ValueError: If TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: Path, tensorboard: bool = False, silent: bool = False) -> None:
        self.path, self.silent = folder / METRICS, silent
        self._writer = _summary_writer(folder) if tensorboard and not silent else None

    def keep_until(self, epoch: int) -> None:
        """Drops lines after ``epoch``, and a line that a kill has torn: a resume writes them."""
        if self.silent:
            return
        kept = [entry for entry in read_metrics(self.path) if entry["epoch"] <= epoch]
        lines = "".join(json.dumps(entry) + "\n" for entry in kept)
        write_bytes(self.path, lines.encode())

    def write(self, entry: dict[str, Any]) -> None:
        """Appends an entry with the key ``epoch``.

        Raises:
            OSError: As the file system reports it, with the file and the remedy.
        """
        if self.silent:
            return
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            raise OSError(
                error.errno,
                f"cannot append to {self.path} ({error.strerror or error}); free space or "
                f"permissions there, then go on with --resume {self.path.parent}",
            ) from error
        if self._writer is not None:
            for key, value in entry.items():
                if key != "epoch":
                    self._writer.add_scalar(key, value, entry["epoch"])

    def close(self) -> None:
        """Flushes TensorBoard's events."""
        if self._writer is not None:
            self._writer.close()


def _summary_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(
            f"loop.tensorboard needs the package tensorboard ({error}); install graphattn[log]"
        ) from error
    return SummaryWriter(str(folder / "tensorboard"))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Entries of a ``metrics.jsonl``; empty if there is none. A torn last line is left out."""
    if not path.exists():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            break  # only a kill while appending tears a line, and nothing follows it
    return entries


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file whole or not at all."""
    write_bytes(path, (json.dumps(content, indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any] | None:
    """Reads a JSON file; None if there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
