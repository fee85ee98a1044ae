"""Building a store in a streaming pass that survives a kill: edges sorted on disk, rows copied."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from graphattn.graph.sort import sort_keys
from graphattn.graph.store import META, Store, describe, write_meta
from graphattn.graph.store_checks import (
    check_block,
    check_count,
    check_rows,
    check_same,
    type_name,
)
from graphattn.graph.store_disk import full_disk_named, mapped, require_room
from graphattn.graph.store_rows import DTYPES, Progress, Rows, copy_rows, stored_dtype

Edges = Callable[[], Iterator[np.ndarray]]
_PROGRESS = "progress.json"
_HEADER = 128  # bytes of every one-dimensional .npy's header
_BUCKET = 1 << 25  # edges sorted at a time


def build_store(
    folder: Path | str,
    num_nodes: int,
    num_edges: int,
    edges: Edges,
    arrays: Mapping[str, Rows],
    *,
    undirected: bool = False,
    coalesce: bool = False,
    dtype: str | None = None,
    name: str = "",
    extra: dict[str, Any] | None = None,
    bucket: int = _BUCKET,
) -> Store:
    """Write a store without ever holding edges or features in memory.

    Edges are dealt by row range into files small enough to sort, sorted one after the other, and
    appended; arrays are copied block by block. What is done is noted in ``progress.json``: the
    same call after a kill goes on there. ``meta.json`` comes last.

    Args:
        folder: Target; created. A finished store there that was built with the same arguments is
            returned as it is (sizes, options, and names, shapes and dtypes of the arrays are
            compared, their content is not).
        num_nodes: N.
        num_edges: Edges that ``edges`` will yield, no more and no fewer.
        edges: Starts the stream: int64 blocks [2, n] of (source, target), the same at each call.
        arrays: Rows per node (x, y, pe, part, hop1, ...) or index arrays: tensors, mapped ones
            welcome, or what makes its rows as they are read.
        undirected: Add every reverse and merge duplicates.
        coalesce: Merge duplicates.
        dtype: Of ``x``: fp32, fp16 or bf16; ``None`` keeps it.
        name: For messages and ``meta.json``.
        extra: Further entries of ``meta.json``.
        bucket: Edges sorted at a time; 24 bytes of memory each.

    Raises:
        ValueError: The folder holds another store or its beginning; an edge is out of range, or
            there are more or fewer than announced; an array has not a row per node, or numbers
            that ``dtype`` cannot hold.
        TypeError: Edges that are not integers.
        OSError: Disk full: the remedy is named, and the same call goes on.
    """
    folder, merge = Path(folder), undirected or coalesce
    _check(num_nodes, arrays, dtype)
    kept = _shapes(arrays, dtype)
    asked = {"name": name, "num_nodes": num_nodes, "edges_read": num_edges}
    asked |= {"undirected": undirected, "coalesced": merge}
    if (folder / META).exists():
        return _finished(folder, asked | {f"array {key}": kept[key] for key in kept})
    folder.mkdir(parents=True, exist_ok=True)
    progress = Progress(folder / _PROGRESS, [*asked.values(), kept, bucket])
    _require(folder, num_nodes, num_edges * (2 if undirected else 1), arrays, dtype)
    with full_disk_named(folder):
        _sort_edges(folder, progress, edges, num_nodes, num_edges, undirected, merge, bucket)
        entries = {key: copy_rows(folder, progress, key, arrays[key], dtype) for key in arrays}
    rows = [num_nodes + 1], [progress.get("edges", 0)]
    kinds = "int64", str(index_type(num_nodes))
    for key, shape, kind in zip(("indptr", "indices"), rows, kinds, strict=True):
        entries[key] = describe(folder / f"{key}.npy", kind, shape)
    content = asked | {"num_edges": rows[1][0], "arrays": entries, "extra": extra or {}}
    write_meta(folder, content)
    shutil.rmtree(folder / "buckets", ignore_errors=True)
    (folder / _PROGRESS).unlink()
    return Store(folder)


def index_type(num_nodes: int) -> np.dtype[Any]:
    """int32 where it can count the nodes."""
    return np.dtype(np.int32 if num_nodes < 2**31 else np.int64)


def _check(nodes: int, arrays: Mapping[str, Rows], dtype: str | None) -> None:
    if dtype not in (None, *DTYPES):
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    for key, array in arrays.items():
        check_rows(key, len(array), nodes)


def _shapes(arrays: Mapping[str, Rows], dtype: str | None) -> dict[str, list[Any]]:
    """Shape and stored dtype of every array, as ``meta.json`` has them."""
    return {
        key: [list(array.shape), type_name(stored_dtype(key, array, dtype))]
        for key, array in sorted(arrays.items())
    }


def _finished(folder: Path, wanted: Mapping[str, Any]) -> Store:
    """The store that is there, if it is what was asked for; it may have gained arrays."""
    store = Store(folder)
    entries = store.meta["arrays"]
    held = store.meta | {f"array {k}": [e["shape"], e["dtype"]] for k, e in entries.items()}
    lacking = {what: "missing" for what in wanted if what.startswith("array ")}
    check_same(folder, lacking | held, wanted)
    return store


def _require(
    folder: Path, nodes: int, edges: int, arrays: Mapping[str, Rows], dtype: str | None
) -> None:
    """Refuse before the work what cannot fit: buckets and indices, offsets, arrays."""
    size = 12 * edges + 8 * nodes
    for key, array in arrays.items():
        size += array.numel() * stored_dtype(key, array, dtype).itemsize
    held = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    require_room(folder, size, held)


def _sort_edges(
    folder: Path, progress: Progress, edges: Edges, nodes: int, count: int, undirected: bool,
    merge: bool, bucket: int,
) -> None:  # fmt: skip
    """indices.npy and indptr.npy from a stream of edges."""
    if progress.get("indptr"):
        return
    buckets = max(1, -(-count * (2 if undirected else 1) // bucket))
    if not progress.get("dealt"):
        _deal(folder / "buckets", edges, nodes, count, undirected, buckets)
        progress.put(dealt=True, bucket=0, edges=0)
    target = folder / "indices.npy"
    kind = index_type(nodes)
    counts = mapped(
        folder / "buckets" / "counts.npy", (nodes + 1,), np.int64, bool(progress.get("bucket"))
    )
    with _open_at(target, _HEADER + progress.get("edges") * kind.itemsize) as out:
        for number in tqdm(range(buckets), desc="sort", unit="part", disable=None, delay=2):
            if number < progress.get("bucket"):
                continue
            keys = np.fromfile(folder / "buckets" / f"{number}.bin", np.int64)
            keys = sort_keys(keys, merge)
            row, column = np.divmod(keys, nodes)
            first, last = (-(-n * nodes // buckets) for n in (number, number + 1))
            counts[1 + first : 1 + last] = np.bincount(row - first, minlength=last - first)
            counts.flush()
            out.write(column.astype(kind).data)  # tofile hides a full disk's errno
            out.flush()
            progress.put(bucket=number + 1, edges=progress.get("edges") + len(keys))
        out.seek(0)
        _write_header(out, kind, (progress.get("edges"),))
    # Never in place: a kill before the next note would have the sums summed again.
    indptr = mapped(folder / "indptr.npy", (nodes + 1,), np.int64)
    np.cumsum(counts, out=indptr)
    indptr.flush()
    progress.put(indptr=True)


def _deal(
    place: Path, edges: Edges, nodes: int, count: int, undirected: bool, buckets: int
) -> None:
    """Keys row * N + column into one file per range of rows."""
    shutil.rmtree(place, ignore_errors=True)  # of a run that was killed while dealing
    place.mkdir()
    found = 0
    bounds = np.array([-(-n * nodes // buckets) for n in range(1, buckets)], np.int64) * nodes
    with ExitStack() as stack:
        paths = (place / f"{number}.bin" for number in range(buckets))
        files = [stack.enter_context(path.open("ab")) for path in paths]
        with tqdm(total=count, desc="edges", unit="edge", unit_scale=True, disable=None) as bar:
            for block in edges():
                check_block(block, nodes)
                found += block.shape[1]
                check_count(found, count, False)
                source, target = block.astype(np.int64)
                keys = target * nodes + source
                if undirected:
                    keys = np.concatenate([keys, source * nodes + target])
                if buckets > 1:
                    keys = np.sort(keys)
                for file, piece in zip(
                    files, np.split(keys, keys.searchsorted(bounds)), strict=True
                ):
                    file.write(piece.data)
                bar.update(block.shape[1])
    check_count(found, count, True)


def _open_at(path: Path, size: int) -> BinaryIO:
    """A file cut to ``size`` bytes, to append to."""
    path.touch()
    file = path.open("r+b")
    file.truncate(size)
    file.seek(size)
    return file


def _write_header(file: BinaryIO, kind: np.dtype[Any], shape: tuple[int, ...]) -> None:
    header = {"descr": kind.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    assert file.tell() == _HEADER
