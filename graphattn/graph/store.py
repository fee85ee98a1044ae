"""GraphStore: a graph, features and labels as a folder of .npy files, opened by memory map."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphattn.graph.checks import check_places
from graphattn.graph.csr import CSRGraph
from graphattn.kernels.cpu.pages import empty

META = "meta.json"
VERSION = 1
_KIND = "graphattn graph store"
_PAGE = 4096
_PAGES = 64  # read from every file when a store is opened
_BLOCK = 1 << 24


class Store:
    """An open store; nothing is read before it is asked for.

    ``meta.json`` names every array's file, dtype, shape and SHA-256. Opening checks sizes, headers
    and a digest of 64 pages per file, which finds truncated and exchanged files in milliseconds;
    :meth:`verify` (``graphattn info FOLDER --verify``) reads everything. Rows are sorted by column;
    edge ids are CSR positions.

    Args:
        folder: From :func:`graphattn.graph.store_build.build_store`.

    Attributes:
        graph: A :class:`CSRGraph` over the mapped arrays; row i lists the sources of i's in-edges.
        meta: Content of ``meta.json``.

    Raises:
        ValueError: No store, another version, or a file that is not the one written.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.meta = _read_meta(self.folder)
        self._arrays: dict[str, Tensor] = {}
        for name in self.meta["arrays"]:
            self._check(name)
        indptr, indices = self.array("indptr"), self.array("indices")
        self.graph = CSRGraph._trusted(indptr, indices, self.num_nodes, None)

    @property
    def num_nodes(self) -> int:
        """Number of nodes."""
        return int(self.meta["num_nodes"])

    @property
    def names(self) -> list[str]:
        """Arrays beside the graph: x, y, split_train, ..."""
        return [name for name in self.meta["arrays"] if name not in ("indptr", "indices")]

    def array(self, name: str) -> Tensor:
        """A mapped array; writing to the tensor does not reach the file.

        Raises:
            KeyError: There is no such array; the message lists them.
        """
        if name not in self.meta["arrays"]:
            raise KeyError(f"{self.folder} has no array {name!r}; it has {', '.join(self.names)}")
        if name not in self._arrays:
            self._arrays[name] = self._map(name)
        return self._arrays[name]

    def gather(self, name: str, nodes: Tensor) -> Tensor:
        """Rows ``nodes`` of an array [n, ...]; each distinct row is read once, in ascending order.

        Ascending reads touch every page of the file at most once per call.

        Raises:
            KeyError: There is no such array.
            TypeError: ``nodes`` are not integers.
            ValueError: One is below 0 or beyond the last row.
        """
        remedy = "call .nonzero().squeeze(1) on a mask; count from the end yourself"
        check_places(nodes, len(self.array(name)), f"rows of {name} of {self.folder}", remedy)
        array = self.array(name)
        return select_ascending(array, nodes.reshape(-1)).reshape(*nodes.shape, *array.shape[1:])

    def verify(self) -> None:
        """Read every file and compare its SHA-256, with a progress bar.

        Raises:
            ValueError: Naming the first file that differs.
        """
        for name, entry in self.meta["arrays"].items():
            if file_digest(self.folder / entry["file"]) != entry["sha256"]:
                raise self._damaged(name, "its SHA-256 differs from the one in meta.json")

    def _check(self, name: str) -> None:
        entry = self.meta["arrays"][name]
        path = self.folder / entry["file"]
        if not path.exists():
            raise self._damaged(name, "it is missing")
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise self._damaged(name, f"it has {size:,} bytes instead of {entry['bytes']:,}")
        if pages_digest(path) != entry["pages"]:
            raise self._damaged(name, "its content is not what was written")

    def _map(self, name: str) -> Tensor:
        entry = self.meta["arrays"][name]
        path = self.folder / entry["file"]
        # numpy cannot map zero bytes. "c": writable to torch, private to this process.
        empty = 0 in entry["shape"]
        array = np.load(path) if empty else np.load(path, mmap_mode="c")
        if not empty and name not in ("indptr", "indices") and self._beyond_memory():
            _read_no_further(array)
        if list(array.shape) != entry["shape"]:
            raise self._damaged(name, f"its shape is {list(array.shape)}, not {entry['shape']}")
        tensor = torch.from_numpy(array)
        return tensor.view(torch.bfloat16) if entry["dtype"] == "bfloat16" else tensor

    def _beyond_memory(self) -> bool:
        """Whether the store is larger than the memory that could cache it."""
        size = sum(entry["bytes"] for entry in self.meta["arrays"].values())
        return bool(size > physical_memory())

    def _damaged(self, name: str, what: str) -> ValueError:
        file = self.folder / self.meta["arrays"][name]["file"]
        return ValueError(
            f"{file} is damaged: {what}; copy it again, or build the store anew into another folder"
        )

    def __repr__(self) -> str:
        return f"Store({str(self.folder)!r}, {self.graph}, arrays={self.names})"


def select(array: Tensor, rows: Tensor, out: Tensor | None = None) -> Tensor:
    """``array[rows]``, rows ``[n]``, into ``out`` or fresh memory, on huge pages if large.

    Indexing with brackets goes number by number instead.
    """
    if out is None:
        out = empty(array, (len(rows), *array.shape[1:]))
    return torch.index_select(array, 0, rows.to(array.device), out=out)


def select_ascending(array: Tensor, rows: Tensor) -> Tensor:
    """``array[rows]``; each distinct row is read once, in ascending order, as a disk likes it."""
    distinct, place = torch.unique(rows, return_inverse=True)
    return select(select(array, distinct.long()), place)


def widened(rows: Tensor) -> Tensor:
    """Rows in float32 if they are stored in half precision, else as they are."""
    if rows.dtype not in (torch.float16, torch.bfloat16):
        return rows
    return empty(rows, rows.shape, torch.float32).copy_(rows)


def physical_memory() -> float:
    """Bytes of the machine's memory; infinite where the system does not tell."""
    if not hasattr(os, "sysconf"):
        return float("inf")
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _read_no_further(array: Any) -> None:
    """Tell the system that rows are read here and there.

    It else reads up to megabytes around every row: welcome where the file ends up in memory, most
    of the traffic where it cannot.
    """
    if hasattr(mmap, "MADV_RANDOM"):
        array._mmap.madvise(mmap.MADV_RANDOM)


def is_store(folder: Path | str) -> bool:
    """Whether a folder says that it is a store."""
    try:
        meta = json.loads((Path(folder) / META).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(meta, dict) and meta.get("kind") == _KIND


def _read_meta(folder: Path) -> dict[str, Any]:
    if not is_store(folder):
        raise ValueError(
            f"{folder} is no graph store (no {META} that says so); make one with graphattn "
            "partition NAME --out FOLDER. A conversion that was stopped goes on with the same "
            "command"
        )
    meta: dict[str, Any] = json.loads((folder / META).read_text())
    if meta.get("version") != VERSION:
        raise ValueError(
            f"{folder} has store version {meta.get('version')}, expected {VERSION}; build it anew "
            "with this version of graphattn"
        )
    return meta


def describe(path: Path, dtype: str, shape: list[int]) -> dict[str, Any]:
    """The entry of a finished file in ``meta.json``."""
    return {
        "file": path.name,
        "dtype": dtype,
        "shape": shape,
        "bytes": path.stat().st_size,
        "pages": pages_digest(path),
        "sha256": file_digest(path),
    }


def write_meta(folder: Path, content: dict[str, Any]) -> None:
    """Finish a store: with ``meta.json`` a folder becomes one."""
    from graphattn.cache import atomic_write

    meta = {"kind": _KIND, "version": VERSION} | content
    with atomic_write(folder / META) as file:
        file.write(json.dumps(meta, indent=1).encode())


def pages_digest(path: Path) -> str:
    """SHA-256 of 64 pages spread over a file."""
    digest, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as file:
        for number in range(_PAGES):
            file.seek(number * max(size - _PAGE, 0) // (_PAGES - 1))
            digest.update(file.read(_PAGE))
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a whole file, with a progress bar where it takes long."""
    from tqdm import tqdm

    digest, size = hashlib.sha256(), path.stat().st_size
    options: dict[str, Any] = {"unit": "B", "unit_scale": True, "disable": None, "delay": 2}
    with path.open("rb") as file, tqdm(total=size, desc=f"check {path.name}", **options) as bar:
        while block := file.read(_BLOCK):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()
