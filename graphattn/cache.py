"""Where graphattn keeps what it can make again: data sets read, eigenvectors found."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def cache_dir() -> Path:
    """The user's cache folder; nothing is created.

    Returns:
        ``$GRAPHATTN_CACHE`` if set, else ``$XDG_CACHE_HOME/graphattn``, else
        ``~/.cache/graphattn``.
    """
    if chosen := os.environ.get("GRAPHATTN_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "graphattn"


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path`` that takes its place when the block ends well.

    Readers see the old file or the complete new one, never a part; several processes may write the
    same path, the last one wins. If the block raises, the temporary file goes and ``path`` stays
    as it was. The folder is created when it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
