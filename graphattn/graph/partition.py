"""Parts of a graph: blocks of a breadth-first order, or METIS where it is installed."""

from __future__ import annotations

import torch
from torch import Tensor

from graphattn.graph.csr import CSRGraph

METHODS = ("auto", "bfs", "metis")


def partition(graph: CSRGraph, parts: int, method: str = "auto") -> Tensor:
    """The part of every node, [N] int64 in ``[0, parts)``.

    Args:
        graph: Square; treated as undirected.
        parts: Number of parts; every part has N / parts nodes, one more or less ("bfs").
        method: ``"bfs"``: consecutive blocks of the reverse Cuthill-McKee order, in which
            neighbours are near; ``"metis"``: few cut edges (pymetis, extra ``partition``);
            ``"auto"``: METIS where it is installed.

    Memory: the graph and its reverse.

    Raises:
        ValueError: Fewer nodes than parts, or an unknown method.
        ImportError: ``"metis"`` without pymetis.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if not 1 <= parts <= max(graph.num_rows, 1):
        raise ValueError(
            f"parts must be in [1, {graph.num_rows}] (the number of nodes), got {parts}"
        )
    if method == "bfs" or (method == "auto" and not _has_metis()):
        return _blocks(graph, parts)
    return _metis(graph, parts)


def _has_metis() -> bool:
    from importlib.util import find_spec

    return find_spec("pymetis") is not None


def _blocks(graph: CSRGraph, parts: int) -> Tensor:
    _, order = graph.reorder("rcm")
    part = torch.empty_like(order)
    part[order] = torch.arange(graph.num_rows) * parts // max(graph.num_rows, 1)
    return part


def _metis(graph: CSRGraph, parts: int) -> Tensor:
    try:
        import pymetis
    except ImportError as error:
        raise ImportError(
            "method='metis' needs pymetis: pip install 'graphattn[partition]', or method='bfs'"
        ) from error
    simple = graph.remove_self_loops().to_undirected()
    # METIS counts in int32 or int64 as it was built; arrays of its own type are not copied.
    arrays = simple.indptr.numpy(), simple.indices.numpy()
    if hasattr(pymetis, "CSRAdjacency"):  # from 2025.2 on; the other way ends in 2027
        _, part = pymetis.part_graph(parts, pymetis.CSRAdjacency(*arrays))
    else:
        _, part = pymetis.part_graph(parts, xadj=arrays[0].tolist(), adjncy=arrays[1].tolist())
    return torch.tensor(part)
