"""Rows of a store's arrays: written block by block, going on after a kill."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from graphattn.cache import atomic_write
from graphattn.graph.store import Store, describe, write_meta
from graphattn.graph.store_checks import check_finite, check_rows, type_name
from graphattn.graph.store_disk import full_disk_named, mapped, require_room

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_ROWS = 1 << 24  # bytes of rows copied at a time


class Rows(Protocol):
    """A tensor, or something that makes its rows when a slice of them is read."""

    @property
    def shape(self) -> Any:
        """Rows first."""

    @property
    def dtype(self) -> torch.dtype:
        """Of what a slice gives."""

    def numel(self) -> int:
        """Numbers in all rows."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Tensor: ...


def add_array(
    folder: Path | str, key: str, array: Rows, about: Mapping[str, Any] | None = None
) -> Store:
    """A finished store with one more array; one that it has already is kept.

    Args:
        folder: Of the store.
        key: Name of the array.
        array: Its rows; they may be computed from the store's own arrays as they are read.
        about: Further entries of ``meta["extra"]``; also what a run after a kill must agree on.

    Raises:
        ValueError: No store, the beginning of another array of that name, or an array of one row
            per node (x, y, pe, part, hop1, ...) that has another number.
        OSError: The disk is too small.
    """
    store = Store(folder)
    if key in store.names:
        return store
    check_rows(key, len(array), store.num_nodes)
    about = dict(about or {})
    settings = [key, list(array.shape), str(array.dtype), about]
    progress = Progress(store.folder / f"progress-{key}.json", settings)
    if not progress.path.exists():
        require_room(store.folder, array.numel() * array.dtype.itemsize)
    with full_disk_named(store.folder):
        entry = copy_rows(store.folder, progress, key, array, None)
        arrays, extra = store.meta["arrays"] | {key: entry}, store.meta["extra"] | about
        write_meta(store.folder, store.meta | {"arrays": arrays, "extra": extra})
    progress.path.unlink()
    return Store(folder)


class Progress:
    """What is done, on disk after every step."""

    def __init__(self, path: Path, settings: list[Any]) -> None:
        self.path = path
        self.state: dict[str, Any] = {"settings": settings}
        if self.path.exists():
            self.state = json.loads(self.path.read_text())
        if self.state["settings"] != settings:
            raise ValueError(
                f"{path.parent} holds the beginning of another store or array "
                f"({self.state['settings']}), asked for {settings}; remove it or choose another "
                "folder"
            )

    def get(self, key: str, default: Any = None) -> Any:
        return self.state.get(key, default)

    def put(self, **values: Any) -> None:
        self.state |= values
        with atomic_write(self.path) as file:
            file.write(json.dumps(self.state).encode())


def stored_dtype(key: str, array: Rows, dtype: str | None) -> torch.dtype:
    """What an array has on the disk: ``dtype`` is for x alone."""
    return DTYPES[dtype] if key == "x" and dtype is not None else array.dtype


def copy_rows(
    folder: Path, progress: Progress, key: str, array: Rows, dtype: str | None
) -> dict[str, Any]:
    """One array into its file, going on after the rows that are noted as done."""
    path, kind = folder / f"{key}.npy", stored_dtype(key, array, dtype)
    name = type_name(kind)
    if f"{key} done" in progress.state:
        entry: dict[str, Any] = progress.get(f"{key} done")
        return entry
    plain = np.dtype(np.uint16) if kind == torch.bfloat16 else np.dtype(name)
    start = progress.get(key, 0)
    if 0 in array.shape:
        np.save(path, np.empty(tuple(array.shape), plain))
    else:
        out = mapped(path, tuple(array.shape), plain, start > 0)
        rows = max(1, _ROWS // max(out[0].nbytes, 1))
        bar = tqdm(total=len(array), initial=start, desc=key, unit="row", disable=None, delay=2)
        for first in range(start, len(array), rows):
            given = array[first : first + rows]
            block = given.to(kind)
            check_finite(key, first, given, block)
            out[first : first + rows] = (
                block.view(torch.uint16) if kind == torch.bfloat16 else block
            ).numpy()
            out.flush()
            progress.put(**{key: first + len(block)})
            bar.update(len(block))
        bar.close()
    entry = describe(path, name, list(array.shape))
    progress.put(**{f"{key} done": entry})
    return entry
