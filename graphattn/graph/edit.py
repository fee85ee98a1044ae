"""Operations that change a graph's edges, each with the edge map that attributes follow.

The functions return ``(graph, edge_map)``; the methods of the same names on :class:`CSRGraph`
return the graph alone. All work in the caller's edge order: ``edge_map`` holds, for each edge of
the new graph, the id of the old edge that it comes from (-1 for a new one), so
``edge_attr[edge_map]`` follows. ``coalesce`` alone maps old ids to new ones, for a reduction.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from graphattn.graph.csr import CSRGraph


def _rebuild(graph: "CSRGraph", edge_index: Tensor) -> "CSRGraph":
    return type(graph).from_edge_index(edge_index, (graph.num_cols, graph.num_rows))


def _need_square(graph: "CSRGraph", what: str) -> None:
    if graph.num_rows != graph.num_cols:
        raise ValueError(
            f"{what} needs a square graph, got {graph.num_rows} rows and {graph.num_cols} columns; "
            "bipartite graphs have no such thing"
        )


def add_self_loops(graph: "CSRGraph") -> "tuple[CSRGraph, Tensor]":
    """Append one self-loop per node after the existing edges (PyG's order); existing ones stay."""
    _need_square(graph, "add_self_loops()")
    nodes = torch.arange(graph.num_rows, device=graph.device)
    edge_index = torch.cat([graph.edge_index(), nodes.expand(2, -1)], dim=1)
    old = torch.arange(graph.num_edges, device=graph.device)
    edge_map = torch.cat([old, torch.full_like(nodes, -1)])
    return _rebuild(graph, edge_index), edge_map


def remove_self_loops(graph: "CSRGraph") -> "tuple[CSRGraph, Tensor]":
    """Drop every edge from a node to itself; the others keep their order."""
    _need_square(graph, "remove_self_loops()")
    source, target = graph.edge_index()
    return filter_edges(graph, source != target)


def filter_edges(graph: "CSRGraph", edge_mask: Tensor) -> "tuple[CSRGraph, Tensor]":
    """Keep the edges where ``edge_mask`` [E] bool (caller's order) is true."""
    if not isinstance(edge_mask, Tensor):
        raise TypeError(f"edge_mask must be a bool tensor, got {type(edge_mask).__name__}")
    if edge_mask.dtype != torch.bool or edge_mask.shape != (graph.num_edges,):
        raise ValueError(
            f"edge_mask must be bool of shape [{graph.num_edges}], got {edge_mask.dtype} "
            f"of shape {list(edge_mask.shape)}"
        )
    edge_map = edge_mask.nonzero().squeeze(1)
    return _rebuild(graph, graph.edge_index()[:, edge_map]), edge_map


def coalesce(graph: "CSRGraph") -> "tuple[CSRGraph, Tensor]":
    """Merge duplicate edges; the result is in row-major order.

    The edge map goes from old to new, [E old] -> new id, because several edges become one:
    ``torch.zeros(new.num_edges, F).index_add(0, edge_map, edge_attr)`` sums their attributes.
    """
    rows, indices = graph.row_index(), graph.indices.to(torch.int64)
    first = torch.ones(graph.num_edges, dtype=torch.bool, device=graph.device)
    first[1:] = (rows[1:] != rows[:-1]) | (indices[1:] != indices[:-1])
    new_id = first.cumsum(0) - 1
    merged = _rebuild(graph, torch.stack([indices[first], rows[first]]))
    if graph.edge_perm is None:
        return merged, new_id
    edge_map = torch.empty_like(new_id)
    edge_map[graph.edge_perm] = new_id
    return merged, edge_map


def to_undirected(graph: "CSRGraph") -> "tuple[CSRGraph, Tensor]":
    """Add the reverse of every edge and merge duplicates, as PyG does; row-major order.

    The edge map names, for each edge of the result, the lowest old id among the edges that it
    merges (the edge itself and its reverse).
    """
    _need_square(graph, "to_undirected()")
    edge_index = graph.edge_index()
    both = _rebuild(graph, torch.cat([edge_index, edge_index.flip(0)], dim=1))
    merged, new_id = coalesce(both)
    old = torch.arange(graph.num_edges, device=graph.device).repeat(2)
    edge_map = torch.full((merged.num_edges,), graph.num_edges, device=graph.device)
    edge_map.scatter_reduce_(0, new_id, old, "amin")
    return merged, edge_map


def is_undirected(graph: "CSRGraph") -> bool:
    """Whether every edge has its reverse, with the same multiplicity."""
    if graph.num_rows != graph.num_cols:
        return False
    other = graph.t()
    return torch.equal(graph.indptr, other.indptr) and torch.equal(graph.indices, other.indices)


def union(graph: "CSRGraph", other: "CSRGraph") -> "tuple[CSRGraph, Tensor]":
    """All edges of ``graph``, then all of ``other``; duplicates are kept.

    The edge map numbers the edges of ``graph`` first, then those of ``other``, so
    ``torch.cat([attr, other_attr])[edge_map]`` follows.
    """
    if not isinstance(other, type(graph)):
        raise TypeError(
            f"union needs a CSRGraph, got {type(other).__name__}; call as_graph() on it"
        )
    sizes = (graph.num_rows, graph.num_cols), (other.num_rows, other.num_cols)
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"union needs graphs of one size, got {sizes[0]} and {sizes[1]} (rows, columns)"
        )
    joined = _rebuild(graph, torch.cat([graph.edge_index(), other.edge_index()], dim=1))
    return joined, torch.arange(joined.num_edges, device=graph.device)


def reorder(graph: "CSRGraph", order: "str | Tensor") -> "tuple[CSRGraph, Tensor]":
    """Renumber the nodes: new node ``i`` is old node ``perm[i]``; edge ids stay.

    Args:
        order: ``"rcm"`` (reverse Cuthill-McKee by scipy: neighbours get near numbers, which is
            worth up to 2x in kernels on graphs with structure) or a permutation [N].

    Returns:
        The graph and ``perm`` [N]; ``x[perm]`` are its node features.
    """
    _need_square(graph, "reorder()")
    perm = _rcm(graph) if isinstance(order, str) and order == "rcm" else order
    if not isinstance(perm, Tensor) or perm.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"order must be 'rcm' or an integer permutation tensor, got {order!r}")
    perm = perm.to(torch.int64)
    nodes = torch.arange(graph.num_rows, device=graph.device)
    if perm.shape != nodes.shape or not torch.equal(perm.sort().values, nodes):
        raise ValueError(f"order must be a permutation of {graph.num_rows} nodes")
    position = torch.empty_like(perm)
    position[perm] = nodes
    return _rebuild(graph, position[graph.edge_index()]), perm


def _rcm(graph: "CSRGraph") -> Tensor:
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import reverse_cuthill_mckee

    indptr, indices = graph.indptr.cpu().numpy(), graph.indices.cpu().numpy()
    shape = (graph.num_rows, graph.num_rows)
    matrix = csr_array((torch.ones(graph.num_edges).numpy(), indices, indptr), shape=shape)
    order = reverse_cuthill_mckee((matrix + matrix.T).tocsr(), symmetric_mode=True)
    return torch.from_numpy(order.astype("int64")).to(graph.device)
