"""ogbn-papers100M, streamed: 57 GB of features never pass through memory as a whole.

Members of OGB's .npz are inflated block by block into the files of the cache entry, which is then
opened by memory map.  Needs about 85 GB of disk for the entry (110 GB with ``undirected``, and 52
GB more while sorting); memory stays at a few GB.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np

from graphattn.datasets import cache
from graphattn.datasets.base import NodeDataset, check_edges, check_features, edge_note
from graphattn.datasets.files import reading
from graphattn.datasets.metrics import evaluator
from graphattn.datasets.ogb_raw import RawFolder, class_labels
from graphattn.datasets.splits import check_labels, check_splits
from graphattn.graph.sort import sort_keys

_BLOCK = 1 << 22  # items read at a time
_BUCKET = 1 << 25  # edges sorted at a time


def load(raw: RawFolder, folder: Path, undirected: bool) -> NodeDataset:
    """Streams the raw files into the cache entry ``folder`` and opens it.

    Args:
        raw: OGB's folder, with raw/data.npz and raw/node-label.npz.
        folder: From ``cache.entry``.
        undirected: Symmetrise, on disk.

    Returns:
        The data set over memory maps; ``sources`` is empty because it is cached already.
    """
    archive, labels = raw.file("raw/data.npz"), raw.file("raw/node-label.npz")
    with cache.staging(folder) as temporary:
        stream_member(archive, "node_feat", _place(temporary, "x"), np.float32)
        stream_member(archive, "edge_index", _place(temporary, "edge_index"), np.int64)
        if "node_year.npy" in _members(archive):
            stream_member(archive, "node_year", _place(temporary, "node_year"), np.int64)
        stream_member(labels, "node_label", _place(temporary, "y"), None)
        dataset = _describe(raw, temporary, undirected)
        cache.write(dataset, temporary)
    opened = cache.open_entry(folder)
    if not isinstance(opened, NodeDataset):
        raise ValueError(f"{raw.name}: the cache entry {folder} cannot be read back")
    opened.sources = ()
    return opened


def _place(folder: Path, key: str) -> Path:
    return cache.tensor_file(folder, f"data.{key}")


def _describe(raw: RawFolder, folder: Path, undirected: bool) -> NodeDataset:
    from torch_geometric.data import Data

    x, y = cache.map_tensor(_place(folder, "x")), class_labels(np.load(_place(folder, "y")))
    _place(folder, "y").unlink()  # written again as int64
    edge_index = cache.map_tensor(_place(folder, "edge_index"))
    in_file, num_nodes, how = edge_index.shape[1], x.shape[0], "as in the file"
    check_edges(edge_index, num_nodes, raw.name)
    check_features(x, raw.name)
    if undirected:
        symmetrise_file(_place(folder, "edge_index"), num_nodes)
        edge_index = cache.map_tensor(_place(folder, "edge_index"))
        how = "symmetrised, duplicates merged"
    data = Data(x=x, edge_index=edge_index, y=y, num_nodes=num_nodes)
    if _place(folder, "node_year").exists():
        data.node_year = cache.map_tensor(_place(folder, "node_year")).view(-1)
        _place(folder, "node_year").unlink()
    splits, classes = raw.splits(), int(raw.info["num classes"])
    check_splits(splits, num_nodes, raw.name)
    check_labels(y, splits, classes, "multiclass", raw.name)
    return NodeDataset(
        data, splits, "acc", evaluator(f"ogb:{raw.name}"), raw.name, classes, "multiclass",
        f"official split (by {raw.info['split']})",
        edge_note(raw.name, in_file, edge_index.shape[1], how), tuple(raw.sources),
    )  # fmt: skip


def _members(path: Path) -> list[str]:
    with reading(path), zipfile.ZipFile(path) as archive:
        return archive.namelist()


def stream_member(path: Path, key: str, target: Path, dtype: type | None) -> None:
    """Copies one array of an .npz into an .npy in blocks, in C order.

    Args:
        path: The .npz; compressed or not.
        key: The array; one- or two-dimensional, in C or Fortran order.
        target: The .npy to write.
        dtype: Its dtype; None keeps the file's.

    Raises:
        ValueError: If the archive is damaged or has no such array.
    """
    with reading(path), zipfile.ZipFile(path) as archive, archive.open(f"{key}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        header = np.lib.format.read_array_header_1_0
        if version >= (2, 0):
            header = np.lib.format.read_array_header_2_0
        shape, fortran, kind = header(stream)
        out = _allocate(target, np.dtype(dtype or kind), shape)
        # A Fortran-ordered [2, E] (OGB transposed it before saving) is the C order of [E, 2].
        _fill(stream, out.T if fortran else out, kind)
        out.flush()


def _allocate(target: Path, dtype: np.dtype, shape: tuple[int, ...]) -> np.memmap:
    """A new .npy to write through a map; a full disk is noticed here, not by a bus error."""
    needed, free = int(np.prod(shape)) * dtype.itemsize, shutil.disk_usage(target.parent).free
    if needed > free:
        raise OSError(
            errno.ENOSPC,
            f"{needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free; set GRAPHATTN_CACHE to a "
            "folder on a larger disk",
            str(target),
        )
    return np.lib.format.open_memmap(target, "w+", dtype, shape)


def _fill(stream: IO[bytes], out: np.ndarray, kind: np.dtype) -> None:
    width = int(np.prod(out.shape[1:]))
    rows = max(1, _BLOCK // max(width, 1))
    for start in range(0, len(out), rows):
        block = out[start : start + rows]
        data = stream.read(block.size * kind.itemsize)
        block[...] = np.frombuffer(data, kind).reshape(block.shape)


def symmetrise_file(path: Path, num_nodes: int, bucket: int = _BUCKET) -> None:
    """Replaces an edge index file by its symmetric closure: ``base.symmetrise`` on disk.

    Edges and their reverses are dealt by row range into files small enough to sort in memory.

    Args:
        path: An .npy int64 [2, E]; rewritten as [2, E'].
        num_nodes: Number of nodes.
        bucket: Edges per file to aim at.
    """
    edges = np.load(path, mmap_mode="r")
    count = -(-2 * edges.shape[1] // bucket) or 1
    bounds = (np.arange(1, count) * num_nodes // count) * num_nodes
    work = Path(tempfile.mkdtemp(dir=path.parent))
    try:
        files = [work / f"{number}.bin" for number in range(count)]
        with ExitStack() as stack:
            outs = [stack.enter_context(open(file, "wb")) for file in files]
            for keys in _key_blocks(edges, num_nodes):
                for out, piece in zip(outs, np.split(keys, keys.searchsorted(bounds)), strict=True):
                    piece.tofile(out)
        total = 0
        for file in files:
            unique = sort_keys(np.fromfile(file, np.int64), merge=True)
            unique.tofile(file)
            total += len(unique)
        _write_keys(files, total, num_nodes, work / "edges.npy")
        (work / "edges.npy").replace(path)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _key_blocks(edges: np.ndarray, num_nodes: int) -> Iterator[np.ndarray]:
    """Sorted keys row * N + column of the edges and their reverses, block by block."""
    for start in range(0, edges.shape[1], _BLOCK):
        row, column = np.asarray(edges[:, start : start + _BLOCK])
        yield np.sort(np.concatenate([row * num_nodes + column, column * num_nodes + row]))


def _write_keys(files: list[Path], total: int, num_nodes: int, target: Path) -> None:
    out = _allocate(target, np.dtype(np.int64), (2, total))
    start = 0
    for file in files:
        keys = np.fromfile(file, np.int64)
        np.divmod(keys, num_nodes, out=(out[0, start:][: len(keys)], out[1, start:][: len(keys)]))
        start += len(keys)
    out.flush()
