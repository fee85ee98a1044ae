"""Raw files: found, fetched and read with messages that say which file, where, and what to do."""

from __future__ import annotations

import logging
import shutil
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

logger = logging.getLogger(__name__)

DOWNLOAD = "download=True (--data.download true)"


def need_file(path: Path, name: str, remedy: str = "") -> Path:
    """Returns ``path`` if the file is there.

    Args:
        path: The raw file.
        name: Data set name for the message.
        remedy: What to do; by default, where ``root`` has to point.

    Raises:
        FileNotFoundError: Naming the file, the folder it was looked for in, and the remedy.
    """
    if path.is_file():
        return path
    remedy = remedy or (
        f"put it there, or pass the root= that holds {name}'s folder; {DOWNLOAD} fetches sets "
        "that have a public address"
    )
    raise FileNotFoundError(f"{name}: no file {path.name} in {path.parent.absolute()}; {remedy}")


@contextmanager
def reading(path: Path, remedy: str = "delete it and fetch it again") -> Iterator[None]:
    """Turns what a damaged file makes readers raise into one ValueError that names the file.

    Args:
        path: The file that the block reads.
        remedy: What to do; the default suits files that were downloaded.

    Raises:
        ValueError: If the file is truncated, not of its format, or holds unreadable text.
    """
    import pandas.errors

    damage = (
        zipfile.BadZipFile, EOFError, zlib.error, KeyError, UnicodeDecodeError, ValueError,
        pandas.errors.ParserError, pandas.errors.EmptyDataError,
    )  # fmt: skip
    try:
        yield
    except damage as error:
        raise ValueError(_damaged(path, error, remedy)) from error
    except OSError as error:
        # gzip and numpy raise OSError without errno for a damaged file; a full disk has one.
        if error.errno is not None:
            raise
        raise ValueError(_damaged(path, error, remedy)) from error


def _damaged(path: Path, error: Exception, remedy: str) -> str:
    size = f"{path.stat().st_size:,} bytes" if path.is_file() else "missing"
    return (
        f"{path} ({size}) is truncated, damaged or not in the expected layout "
        f"({type(error).__name__}: {error}); {remedy}"
    )


def read_npz(path: Path, keys: Sequence[str], name: str) -> dict[str, np.ndarray]:
    """Reads members of an .npz file (no pickles).

    Args:
        path: The file.
        keys: Members wanted.
        name: Data set name for the messages.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is damaged or lacks a member (the message lists those it has).
    """
    need_file(path, name)
    # numpy leaves the file open when the archive is broken, so we open it.
    with reading(path), open(path, "rb") as stream, np.load(stream) as archive:
        missing = [key for key in keys if key not in archive]
        if not missing:
            return {key: archive[key] for key in keys}
        present = ", ".join(archive.files)
    raise ValueError(f"{path} has no array {', '.join(missing)}; it has {present}")


def read_csv(path: Path, name: str) -> np.ndarray:
    """Reads a headerless .csv(.gz) of numbers [rows, columns]: int64, else float32, as OGB does.

    Args:
        path: The file.
        name: Data set name for the messages.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is damaged or holds text.
    """
    import pandas

    need_file(path, name)
    with reading(path):
        values: np.ndarray = pandas.read_csv(path, header=None).values
        kind = np.int64 if values.dtype.kind in "iu" else np.float32
        return values.astype(kind)  # pandas 3 hands out read-only arrays


def fetch(url: str, folder: Path, name: str) -> Path:
    """Downloads a file after saying how large it is; never asks.

    Args:
        url: Public address.
        folder: Where to put the file; a killed download leaves no part of it there.
        name: Data set name for the messages.

    Returns:
        The file.

    Raises:
        FileNotFoundError: If the address cannot be read or the folder not be written; names the
            address and the remedy.
    """
    from torch_geometric.data import download_url

    from graphattn.datasets.base import announce

    with _reaching(url, folder, name), urllib.request.urlopen(url, timeout=60) as reply:
        size = int(reply.headers.get("Content-Length", 0))
    announce(f"{name}: downloading {url} ({size / 1e9:.2f} GB) into {folder.absolute()}")
    with hidden_folder(folder, url, name) as hidden, _reaching(url, folder, name):
        path = Path(download_url(url, str(hidden), log=False))
        return path.replace(folder / path.name)


@contextmanager
def hidden_folder(folder: Path, url: str, name: str) -> Iterator[Path]:
    """A temporary folder inside ``folder``, from which finished files are renamed to their place.

    Args:
        folder: The target folder; created if missing.
        url: What is being downloaded, for the message.
        name: Data set name for the message.

    Raises:
        FileNotFoundError: If ``folder`` cannot be written to; names it and the remedy.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        hidden = Path(tempfile.mkdtemp(prefix=".download-", dir=folder))
    except OSError as error:
        raise FileNotFoundError(
            f"{name}: cannot write into {folder.absolute()} to download {url} ({error}); pass a "
            "root= that can be written to, or one that already holds the set"
        ) from error
    try:
        yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


@contextmanager
def _reaching(url: str, folder: Path, name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileNotFoundError(
            f"{name}: cannot download {url} ({error}); fetch it by hand into {folder.absolute()} "
            "or pass the root= that already holds the set"
        ) from error
