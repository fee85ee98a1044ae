"""Our own copy of a loaded data set: one folder of .npy files, opened by memory map.

``cache_dir()/datasets/NAME-HASH`` holds one .npy file per tensor and ``meta.json``.  HASH comes
from the name, the root and the options; meta.json has the sizes and times of the raw files, and an
entry whose raw files have changed is rebuilt.  Folders are written under a temporary name and
renamed, so a killed run leaves no half entry.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from graphattn.cache import cache_dir
from graphattn.datasets.base import GraphDataset, NodeDataset
from graphattn.datasets.graph_list import GraphList
from graphattn.datasets.metrics import Evaluator, evaluator

if TYPE_CHECKING:
    from torch_geometric.data import Data

Dataset = NodeDataset | GraphDataset

FORMAT = 1
_TEXT_FIELDS = ("metric", "name", "num_classes", "task", "split_note", "edge_note")
logger = logging.getLogger(__name__)


def entry(name: str, root: str | os.PathLike[str], **options: object) -> Path:
    """The cache folder of a data set, whether or not it exists.

    Args:
        name: Canonical name.
        root: The user's root; relative and absolute spellings give the same folder.
        **options: What else changes the result (``undirected``, ``seed``).
    """
    key = json.dumps([FORMAT, name, os.path.realpath(root), sorted(options.items())])
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
    return cache_dir() / "datasets" / f"{safe}-{digest}"


def open_entry(folder: Path) -> Dataset | None:
    """Opens a cache entry.

    Args:
        folder: From ``entry``.

    Returns:
        The data set over copy-on-write memory maps (writing to a tensor never changes the file);
        None if there is no entry, its raw files have changed, or it is damaged (logged).
    """
    try:
        meta = json.loads((folder / "meta.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        if folder.exists():
            logger.warning("cache entry %s has no meta.json; rebuilding it", folder)
        return None
    except (OSError, ValueError) as error:
        logger.warning("cache entry %s is damaged (%s); rebuilding it", folder, error)
        return None
    if meta.get("format") != FORMAT or meta.get("sources") != _stamps(meta.get("sources", ())):
        logger.info("raw files behind %s have changed; rebuilding it", folder)
        return None
    try:
        return _read(folder, meta)
    except (OSError, ValueError, KeyError, EOFError) as error:
        logger.warning("cache entry %s is damaged (%s); rebuilding it", folder, error)
        return None


def store(dataset: Dataset, folder: Path) -> Dataset:
    """Writes an entry and opens it; where the cache cannot be written, returns what it was given.

    Args:
        dataset: What a loader returned; its evaluator must come from ``metrics.evaluator``.
        folder: From ``entry``.
    """
    try:
        with staging(folder) as temporary:
            write(dataset, temporary)
    except OSError as error:
        logger.warning("cannot cache %s in %s (%s); going on without", dataset.name, folder, error)
        return dataset
    return open_entry(folder) or dataset


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A temporary folder beside ``folder`` that takes its place when the block ends well.

    Args:
        folder: From ``entry``; an older entry there is replaced.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield temporary
        if folder.exists():
            stale = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            os.rename(folder, stale)
            shutil.rmtree(stale)
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write(dataset: Dataset, folder: Path) -> None:
    """Writes tensors and meta.json; a tensor whose file is in ``folder`` already is not rewritten.

    That exception lets a loader stream an array larger than memory straight to
    ``tensor_file(folder, "data.x")``.

    Args:
        dataset: The data set.
        folder: A folder from ``staging``.

    Raises:
        TypeError: If an attribute cannot be stored.
    """
    if not isinstance(dataset.evaluate, Evaluator):
        raise TypeError(f"{dataset.name}: only evaluators made by metrics.evaluator can be cached")
    meta: dict[str, Any] = {key: getattr(dataset, key) for key in _TEXT_FIELDS}
    meta |= {"format": FORMAT, "evaluator": dataset.evaluate.spec, "splits": len(dataset.splits)}
    meta["sources"] = _stamps(dataset.sources)
    tensors = {
        f"split{i}.{part}": items
        for i, split in enumerate(dataset.splits)
        for part, items in split.items()
    }
    pack = _pack_node if isinstance(dataset, NodeDataset) else _pack_graphs
    meta |= pack(dataset, tensors)  # type: ignore[arg-type]
    meta["tensors"] = {}
    for key, tensor in tensors.items():
        meta["tensors"][key] = [str(tensor.dtype), list(tensor.shape)]
        path = tensor_file(folder, key)
        if not path.exists():
            np.save(path, tensor.detach().cpu().contiguous().numpy())
    (folder / "meta.json").write_text(json.dumps(meta))


def tensor_file(folder: Path, key: str) -> Path:
    """Where the tensor ``key`` ("data.x", "split0.train") of an entry lies."""
    return folder / f"{key}.npy"


def map_tensor(path: Path) -> Tensor:
    """A tensor over a copy-on-write memory map of an .npy file.

    Args:
        path: The file.

    Raises:
        ValueError: If the file is truncated.
    """
    # numpy cannot map zero bytes.
    header = np.load(path, mmap_mode="c") if path.stat().st_size > 256 else np.load(path)
    return torch.from_numpy(header)


def _stamps(sources: Any) -> dict[str, list[int] | None]:
    """Size and time of every raw file; None for one that is absent."""
    stamps: dict[str, list[int] | None] = {}
    for source in sources:
        path = os.path.realpath(source)
        try:
            status = os.stat(path)
        except OSError:
            stamps[path] = None
        else:
            stamps[path] = [status.st_size, status.st_mtime_ns]
    return stamps


def _pack_node(dataset: NodeDataset, tensors: dict[str, Tensor]) -> dict[str, Any]:
    plain = {}
    for key, value in dataset.data.to_dict().items():
        if isinstance(value, Tensor):
            tensors[f"data.{key}"] = value
        else:
            plain[key] = _plain(value, dataset.name, key)
    return {"kind": "node", "plain": plain}


def _pack_graphs(dataset: GraphDataset, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Concatenates each attribute over the graphs and keeps its lengths."""
    keys = dataset.graphs[0].keys() if dataset.graphs else []
    joined, plain = {}, {}
    for key in keys:
        values = [graph[key] for graph in dataset.graphs]
        if not isinstance(values[0], Tensor):
            plain[key] = [_plain(value, dataset.name, key) for value in values]
            continue
        dim = dataset.graphs[0].__cat_dim__(key, values[0]) if values[0].dim() else None
        joined[key] = dim
        tensors[f"data.{key}"] = torch.stack(values) if dim is None else torch.cat(values, dim)
        if dim is not None:
            tensors[f"sizes.{key}"] = torch.tensor([value.shape[dim] for value in values])
    return {"kind": "graphs", "plain": plain, "joined": joined, "graphs": len(dataset.graphs)}


def _plain(value: Any, name: str, key: str) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    raise TypeError(f"{name}: cannot cache attribute {key!r} of type {type(value).__name__}")


def _read(folder: Path, meta: dict[str, Any]) -> Dataset:
    tensors = {}
    for key, (dtype, shape) in meta["tensors"].items():
        tensor = map_tensor(tensor_file(folder, key))
        if str(tensor.dtype) != dtype or list(tensor.shape) != shape:
            raise ValueError(f"{key} is {tensor.dtype} {list(tensor.shape)}, not {dtype} {shape}")
        tensors[key] = tensor
    fields: dict[str, Any] = {key: meta[key] for key in _TEXT_FIELDS}
    fields["evaluate"] = evaluator(meta["evaluator"])
    fields["sources"] = tuple(meta["sources"])
    fields["splits"] = [
        {part: tensors[f"split{i}.{part}"] for part in ("train", "valid", "test")}
        for i in range(meta["splits"])
    ]
    if meta["kind"] == "graphs":
        return GraphDataset(graphs=_unpack_graphs(tensors, meta), **fields)
    return NodeDataset(data=_unpack_node(tensors, meta), **fields)


def _unpack_node(tensors: dict[str, Tensor], meta: dict[str, Any]) -> Data:
    from torch_geometric.data import Data

    found = {k.removeprefix("data."): v for k, v in tensors.items() if k.startswith("data.")}
    return Data(**found, **meta["plain"])


def _unpack_graphs(tensors: dict[str, Tensor], meta: dict[str, Any]) -> GraphList:
    joined = {
        key: (tensors[f"data.{key}"], dim, None if dim is None else tensors[f"sizes.{key}"])
        for key, dim in meta["joined"].items()
    }
    return GraphList(joined, meta["plain"], meta["graphs"])
