"""Exactly one self-loop per node, as PyG's convolutions add them, computed once per graph."""

from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from graphattn.graph import CSRGraph
from graphattn.graph.edit import filter_edges

_looped: WeakKeyDictionary[CSRGraph, tuple[CSRGraph, Tensor]] = WeakKeyDictionary()


def with_self_loops(graph: CSRGraph) -> tuple[CSRGraph, Tensor]:
    """``graph`` without its self-loops and then with one per node, which come last.

    Returns it with the old ids [E'] of the edges that are kept; a bipartite graph gets as many
    loops as its smaller side has nodes. Kept as long as the graph lives.
    """
    if graph not in _looped:
        with torch.inference_mode(False):
            source, target = graph.edge_index()
            plain, kept = filter_edges(graph, source != target)
            nodes = torch.arange(min(graph.num_rows, graph.num_cols), device=graph.device)
            pairs = torch.cat([plain.edge_index(), nodes.expand(2, -1)], 1)
            size = graph.num_cols, graph.num_rows
            _looped[graph] = CSRGraph.from_edge_index(pairs, size), kept
    return _looped[graph]


def loop_features(
    edge_attr: Tensor, kept: Tensor, graph: CSRGraph, fill: float | Tensor | str
) -> Tensor:
    """Edge features of ``with_self_loops``: those kept, then one row per loop.

    ``fill``: a number, a row, or how to reduce the features of a node's other in-edges.
    """
    found = edge_attr[kept]
    loops = graph.num_edges - found.shape[0]
    if not isinstance(fill, str):
        rows = torch.as_tensor(fill, dtype=found.dtype, device=found.device)
        return torch.cat([found, rows.expand(loops, *found.shape[1:])])
    from torch_geometric.utils import scatter

    target = graph.edge_index()[1, : found.shape[0]]
    return torch.cat([found, scatter(found, target, 0, graph.num_rows, fill)[:loops]])
