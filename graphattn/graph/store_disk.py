"""Room on the disk: asked for before the work, and reserved before a file is mapped."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_BLOCK = 1 << 24
_HEAD = 1 << 12  # the first block of a file holds the header
_CANNOT = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # a file system that reserves nothing


class DiskFull(OSError):
    """The disk is too small; the message says what is needed and how to go on."""


def require_room(folder: Path, size: int, held: int = 0) -> None:
    """Refuse before the work what the disk cannot hold beside ``held`` bytes that are there."""
    free = shutil.disk_usage(folder).free + held
    if size > free:
        raise _too_small(folder, size, free)


@contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """Turn the system's word for a full disk into one that says how to go on."""
    try:
        yield
    except DiskFull:
        raise
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise DiskFull(
            errno.ENOSPC, "the disk is full; free some and the same call goes on", str(folder)
        ) from error


def mapped(path: Path, shape: tuple[int, ...], kind: Any, goes_on: bool = False) -> Any:
    """A .npy file to fill, or the one that a killed run was filling.

    Raises:
        DiskFull: There is no room for the whole file, which is removed again.
    """
    if goes_on:
        return np.load(path, mmap_mode="r+")
    path.unlink(missing_ok=True)  # its content may still be mapped
    array = np.lib.format.open_memmap(path, "w+", kind, shape)
    try:
        allocate(path)
    except BaseException:
        path.unlink()
        raise
    return array


def allocate(path: Path) -> None:
    """Give a file of holes all its blocks on the disk.

    A write through a map into a hole for which the disk has no block left kills the process with
    SIGBUS; here it is an error like any other.

    Raises:
        DiskFull: Saying what is needed and what is free.
    """
    size = path.stat().st_size
    try:
        with path.open("r+b") as file:
            _reserve(file, size)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise _too_small(path, size, shutil.disk_usage(path.parent).free) from error


def _reserve(file: BinaryIO, size: int) -> None:
    """By one call where the system has it, else by writing: what is there, then zeros."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
            return
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
    head = file.read(_HEAD)
    file.seek(0)
    file.write(head)
    while (place := file.tell()) < size:
        file.write(bytes(min(_BLOCK, size - place)))


def _too_small(place: Path, size: int, free: int) -> DiskFull:
    return DiskFull(
        errno.ENOSPC,
        f"about {size / 1e9:.3g} GB needed, {free / 1e9:.3g} GB free; free some and the same call "
        "goes on, or choose a larger disk, or features in fp16",
        str(place),
    )
