"""as_graph: everything that users hold as a graph becomes a CSRGraph, once."""

import threading
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from graphattn.graph.checks import Size, normal_size
from graphattn.graph.csr import CSRGraph
from graphattn.graph.product import ProductGraph

_SPARSE = (torch.sparse_coo, torch.sparse_csr, torch.sparse_csc)
_cache: Any = WeakIdKeyDictionary()
_lock = threading.Lock()


def as_graph(obj: Any, size: Size = None) -> CSRGraph:
    """Convert ``obj`` to a :class:`CSRGraph`; an ``edge_index`` is converted once per tensor.

    Args:
        obj: ``edge_index`` [2, E]; PyG ``EdgeIndex``; a torch sparse tensor, ``torch_sparse``
            ``SparseTensor`` or scipy sparse matrix holding ``adj_t`` (row = target, as PyG's
            ``ToSparseTensor`` writes it; the stored values are not used); a ``CSRGraph``; or a
            ``GridGraph``, whose edges are written down.
        size: Number of nodes, or ``(num_sources, num_targets)``; ``None`` reads it from ``obj``
            (for a plain ``edge_index``: the largest index plus one).

    Conversions are cached weakly by identity, version and size of the tensor: training loops that
    pass the same ``edge_index`` sort it once, and the cache never keeps a tensor alive.
    """
    if isinstance(obj, CSRGraph):
        return _check_size(obj, size)
    if isinstance(obj, ProductGraph):
        return _check_size(obj.to_csr(), size)
    if isinstance(obj, Tensor):
        return _from_tensor(obj, size)
    if hasattr(obj, "csr") and hasattr(obj, "sparse_sizes"):
        indptr, indices, _ = obj.csr()
        return _check_size(CSRGraph(indptr, indices, obj.sparse_size(1)), size)
    if type(obj).__module__.partition(".")[0] == "scipy":
        return _check_size(_from_scipy(obj), size)
    array = hasattr(obj, "__array__") or isinstance(obj, list | tuple)
    raise TypeError(
        "a graph must be an edge_index [2, E], EdgeIndex, torch or scipy sparse adj_t, "
        f"SparseTensor, CSRGraph or GridGraph, got {type(obj).__name__}"
        + ("; call torch.as_tensor on it" if array else "")
    )


def as_pattern(obj: Any, query: Any, key: Any) -> CSRGraph | ProductGraph:
    """As ``as_graph``, but a grid stays a grid, and comes to where ``query`` is.

    A plain ``edge_index`` has as many nodes as query [..., rows, H, D] and key [..., cols, H, D].
    """
    if isinstance(obj, CSRGraph):
        return obj
    if isinstance(obj, ProductGraph):
        return obj.to(query.device) if isinstance(query, Tensor) else obj
    nodes = all(isinstance(t, Tensor) and t.dim() >= 3 for t in (query, key))
    plain = isinstance(obj, Tensor) and obj.layout not in _SPARSE
    return as_graph(obj, (key.shape[-3], query.shape[-3]) if plain and nodes else None)


def _from_scipy(matrix: Any) -> CSRGraph:
    """Copies, because scipy edits its arrays in place; duplicate entries are edges."""
    if matrix.format == "csr":
        arrays = torch.tensor(matrix.indptr), torch.tensor(matrix.indices)
        return CSRGraph(*arrays, matrix.shape[1])
    entries = matrix.tocoo()
    pairs = torch.stack([torch.tensor(entries.col), torch.tensor(entries.row)])
    return _row_major(pairs, matrix.shape)


def _row_major(edge_index: Tensor, shape: tuple[int, int]) -> CSRGraph:
    """A graph from the entries of a sparse matrix, whose caller's order is row-major."""
    graph = CSRGraph.from_edge_index(edge_index, (shape[1], shape[0]))
    return CSRGraph._trusted(graph.indptr, graph.indices, shape[1], None)


def _from_tensor(tensor: Tensor, size: Size) -> CSRGraph:
    if hasattr(tensor, "as_tensor"):  # PyG's EdgeIndex subclass
        return _from_edge_index_class(tensor, size)
    size = normal_size(size)
    if torch.compiler.is_compiling() or tensor.is_inference():
        return _convert(tensor, size)
    return _cached(tensor, size)


def _convert(tensor: Tensor, size: Size) -> CSRGraph:
    if tensor.layout in _SPARSE:
        return _check_size(_from_sparse(tensor), size)
    return CSRGraph.from_edge_index(tensor, size)


def _from_edge_index_class(edge_index: Any, size: Size) -> CSRGraph:
    """PyG's EdgeIndex: a tensor [2, E] that may know its size."""
    known, asked = edge_index.sparse_size(), normal_size(size)
    if asked is None and None not in known:
        asked = (int(known[0]), int(known[1]))
    if asked is not None and any(k not in (None, a) for k, a in zip(known, asked, strict=True)):
        raise ValueError(f"the EdgeIndex has size {tuple(known)}, but size={size} was asked")
    return _from_tensor(edge_index.as_tensor(), asked)


def _cached(tensor: Tensor, size: Size) -> CSRGraph:
    key = (tensor._version, size)
    with _lock:  # held while converting: of several threads one works and the others wait
        found: dict[Any, CSRGraph] = _cache.get(tensor, {})
        if key not in found:
            with torch.inference_mode(False):  # the graph must serve training later
                graph = _convert(tensor, size)
            found = {k: v for k, v in found.items() if k[0] == tensor._version} | {key: graph}
            _cache[tensor] = found
        return found[key]


def remember(edge_index: Tensor, graph: CSRGraph) -> None:
    """Let ``as_graph(edge_index, num_nodes)`` find a square graph that is known already.

    For code that makes ``edge_index`` and graph together: a loader that draws edges row by row.
    """
    key = (edge_index._version, (graph.num_cols, graph.num_rows))
    with _lock:
        _cache[edge_index] = {key: graph}


def _from_sparse(tensor: Tensor) -> CSRGraph:
    num_rows, num_cols = tensor.shape[0], tensor.shape[1]
    if tensor.layout == torch.sparse_csr:
        return CSRGraph(tensor.crow_indices(), tensor.col_indices(), num_cols)
    if tensor.layout == torch.sparse_csc:
        by_col = CSRGraph(tensor.ccol_indices(), tensor.row_indices(), num_rows).t()
        return CSRGraph._trusted(by_col.indptr, by_col.indices, num_cols, None)
    rows, cols = tensor._indices()  # of an uncoalesced tensor too: duplicates are edges
    return _row_major(torch.stack([cols, rows]), (num_rows, num_cols))


def _check_size(graph: CSRGraph, size: Size) -> CSRGraph:
    want = normal_size(size)
    have = (graph.num_cols, graph.num_rows)
    if want is not None and want != have:
        raise ValueError(
            f"the graph has {have[0]} sources and {have[1]} targets, but size={size} was asked; "
            "drop size, or build the graph with it"
        )
    return graph
