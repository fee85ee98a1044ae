"""NeighborSampler: fan-out sampling on CSR arrays in memory or on disk, without the GIL."""

from __future__ import annotations

import itertools
import operator
import threading
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.sampler import BaseSampler, NodeSamplerInput, SamplerOutput
from torch_geometric.sampler.base import SubgraphType

from graphattn.graph import CSRGraph, as_graph
from graphattn.graph.convert import remember
from graphattn.graph.sort import index_dtype, indptr_from_counts
from graphattn.kernels.cpu import sampling as kernels
from graphattn.sampling.checks import check_seeds, directed

_MASK = 2**64 - 1


class NeighborSampler(BaseSampler):  # type: ignore[misc]
    r"""Samples up to ``num_neighbors[h]`` edges of every node that hop h - 1 discovered.

    Without replacement every subset of a row's edges is equally likely; duplicate edges are edges
    of their own. The row that a node draws in a hop depends on (seed, hop, node) alone, and with
    ``disjoint`` on the place of its own seed, not on threads; a node is expanded once (for each
    seed), in the hop after the one that found it. Needs no pyg-lib and no torch-sparse; also a PyG
    ``BaseSampler``.

    Args:
        data: PyG ``Data``, ``(FeatureStore, GraphStore)``, or anything that
            :func:`graphattn.as_graph` takes (a graph over memory-mapped arrays stays on disk).
        num_neighbors: Fan-out per hop; -1 takes all edges, 0 none.
        replace: Draw with replacement (then exactly the fan-out, where there is any edge).
        subgraph_type: ``"directional"``: the drawn edges; ``"bidirectional"``: with their
            reverses; ``"induced"``: all edges among the nodes found.
        disjoint: Every seed finds nodes of its own, a node once for each seed that reaches it;
            ``batch`` of the output tells whose they are.
        direction: ``"in"`` follows the sources of a node's in-edges (PyG's), ``"out"`` the targets
            of its out-edges, ``"both"`` either (an edge and its reverse count once, and edges have
            no ids).
        seed: Of calls that name none.

    Memory: of the batch, and per thread a table of at most 8 MB, or beyond 2^21 nodes and for
    disjoint samples of 16 to 32 bytes per node that the batch can reach; 16 bytes per node found.
    About 30 ns per edge (Hamilton et al., 2017, https://arxiv.org/abs/1706.02216).

    Raises:
        TypeError: Fan-outs that are not a list of integers.
        ValueError: A fan-out below -1, an unknown option, heterogeneous data.
    """

    def __init__(
        self,
        data: Any,
        num_neighbors: list[int],
        *,
        replace: bool = False,
        subgraph_type: SubgraphType | str = "directional",
        disjoint: bool = False,
        direction: str = "in",
        seed: int = 0,
    ) -> None:
        self.fanouts = check_fanouts(num_neighbors)
        self.replace, self.disjoint = replace, disjoint
        self.subgraph_type = SubgraphType(subgraph_type)
        if disjoint and self.subgraph_type == SubgraphType.induced:
            raise ValueError(
                "disjoint samples have the edges that were drawn, not all among their nodes; set "
                "subgraph_type='directional' or 'bidirectional'"
            )
        self.graph = directed(graph_of(data), direction)
        self.direction, self.seed = direction, seed
        self._calls = itertools.count()
        self._local = threading.local()

    @property
    def num_nodes(self) -> int:
        """Nodes of the whole graph."""
        return self.graph.num_rows

    def sample(self, seeds: Any, seed: int | None = None) -> SamplerOutput:
        """Sample around ``seeds``, in the calling thread.

        Args:
            seeds: Node indices [B], or a mask; a repeated node keeps both places.
            seed: Of this batch; ``None`` continues a counter from the sampler's seed.

        Returns:
            PyG's ``SamplerOutput``: ``node`` (seeds first, then by discovery), ``row`` (source)
            and ``col`` (target) of every edge by target, ``edge`` ids in the caller's order, nodes
            and edges per hop. Of equal length in every run with one seed.

        Raises:
            ValueError: A seed out of range.
        """
        chosen = check_seeds(seeds, self.num_nodes)
        seed = kernels.derive(self.seed, next(self._calls)) if seed is None else seed & _MASK
        graph, scratch = self._arrays(), self._take_scratch()
        found = kernels.sample_neighbors(
            *graph, chosen.numpy(), self.fanouts, self.replace, seed, scratch
        )
        edges = found.source, found.target, found.position
        if self.subgraph_type == SubgraphType.induced:
            edges = kernels.induced_subgraph(*graph, found.nodes, scratch)
        self._local.scratch = scratch
        out = self._output(found.nodes, *edges)
        out.batch = None if found.owners is None else torch.from_numpy(found.owners)
        out.num_sampled_nodes, out.num_sampled_edges = found.hop_nodes, found.hop_edges
        if self.subgraph_type == SubgraphType.bidirectional:
            out = out.to_bidirectional(keep_orig_edges=True)
        return out

    def induced(self, nodes: Any) -> SamplerOutput:
        """All edges among distinct ``nodes``, in CSR order."""
        chosen = check_seeds(nodes, self.num_nodes, "nodes").numpy()
        scratch = kernels.Scratch(self.num_nodes) if self.disjoint else self._take_scratch()
        edges = kernels.induced_subgraph(*self._arrays(), chosen, scratch)
        if not self.disjoint:
            self._local.scratch = scratch
        return self._output(chosen, *edges)

    def sample_from_nodes(
        self, index: NodeSamplerInput, seed: int | None = None, **kwargs: Any
    ) -> SamplerOutput:
        """PyG's entry point; ``metadata`` is (input ids, seed times)."""
        if index.time is not None:
            raise ValueError("temporal sampling is not available; leave input_time out")
        out = self.sample(index.node, seed)
        out.metadata = (index.input_id, None)
        return out

    def sample_from_edges(self, index: Any, neg_sampling: Any = None) -> SamplerOutput:
        """Not available: link prediction needs PyG's own sampler.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "NeighborSampler samples around nodes; sample around the end points of the edges with "
            "sample_from_nodes, or use PyG's LinkNeighborLoader"
        )

    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return self.graph.indptr.numpy(), self.graph.indices.numpy()

    def _take_scratch(self) -> kernels.Scratch:
        """This thread's scratch; a batch that fails half-way does not give it back."""
        scratch = getattr(self._local, "scratch", None)
        self._local.scratch = None
        return kernels.Scratch(self.num_nodes, self.disjoint) if scratch is None else scratch

    def _output(
        self, nodes: np.ndarray, source: np.ndarray, target: np.ndarray, position: np.ndarray
    ) -> SamplerOutput:
        perm, edge = self.graph.edge_perm, torch.from_numpy(position)
        if perm is not None:
            edge = perm[edge].to(torch.int64)
        return SamplerOutput(
            node=torch.from_numpy(nodes),
            row=torch.from_numpy(source),
            col=torch.from_numpy(target),
            edge=None if self.direction == "both" else edge,
        )

    def __getstate__(self) -> dict[str, Any]:
        kept = {key: value for key, value in vars(self).items() if key not in ("_local", "_calls")}
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _local=threading.local(), _calls=itertools.count())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.fanouts}, replace={self.replace})"


def check_fanouts(num_neighbors: Any) -> list[int]:
    """Fan-outs as Python integers of at least -1."""
    if isinstance(num_neighbors, dict):
        raise ValueError(
            "num_neighbors per edge type needs a heterogeneous sampler; give one list [k1, k2, ...]"
        )
    try:
        fanouts = [operator.index(number) for number in num_neighbors]
    except TypeError:
        raise TypeError(
            f"num_neighbors must be a list of integers, one per hop, got {num_neighbors!r}; give "
            "[10] for ten edges in one hop"
        ) from None
    if min(fanouts, default=0) < -1:
        raise ValueError(
            f"num_neighbors must be at least 0 per hop, or -1 for all edges, got {fanouts}"
        )
    return fanouts


def graph_of(data: Any) -> CSRGraph:
    """The graph of PyG ``Data``, of a ``(FeatureStore, GraphStore)`` pair, or of ``as_graph``."""
    if isinstance(data, tuple) and len(data) == 2 and hasattr(data[1], "get_all_edge_attrs"):
        return _graph_of_store(data[1])
    if isinstance(data, Data):
        if data.get("adj_t") is not None:
            return as_graph(data.adj_t, data.num_nodes)
        if data.edge_index is None:
            raise ValueError("data has no edge_index; set data.edge_index [2, E] or data.adj_t")
        return as_graph(data.edge_index, data.num_nodes)
    if type(data).__name__ == "HeteroData":
        raise ValueError("heterogeneous data cannot be sampled; convert it with to_homogeneous()")
    return as_graph(data)


def _graph_of_store(store: Any) -> CSRGraph:
    """A store of ours hands over its graph; of another one the CSC (by target) is read."""
    own = getattr(store, "graph", None)
    if isinstance(own, CSRGraph):
        return own
    attrs = store.get_all_edge_attrs()
    if len(attrs) != 1:
        raise ValueError(f"the graph store must hold one edge type, got {len(attrs)}")
    row, colptr, perm = store.csc()
    (only,) = colptr
    source = next(iter(row.values()))
    order = None if perm is None else next(iter(perm.values()))
    return CSRGraph(colptr[only], source, edge_perm=order)


def in_csr_order(out: SamplerOutput) -> bool:
    """Sort the edges of a sample in place into CSR order, ties by edge id; False if it cannot.

    Directional and induced samples list their edges by target already, so each row is short work.
    """
    if out.orig_row is not None or out.edge is None:
        return False
    kernels.sort_rows(out.row.numpy(), out.col.numpy(), out.edge.numpy())
    return True


def local_graph(out: SamplerOutput) -> CSRGraph:
    """The graph of a directional or induced sample over its own nodes; sorts its edges in place."""
    in_csr_order(out)
    size = len(out.node)
    counts = torch.bincount(out.col, minlength=size)
    indices = out.row.to(index_dtype(size))
    return CSRGraph._trusted(indptr_from_counts(counts), indices, size, None)


def hop_stars(out: SamplerOutput | Data) -> tuple[CSRGraph, Tensor]:
    """The graph in which every seed attends directly to all nodes that were found from it.

    Args:
        out: Of a sampler with ``disjoint=True``, or a batch of such a loader.

    Returns:
        ``(graph, hop)``: B rows (seeds), a column per sampled node, an edge for each of them in
        their order; and the hop ``[n]`` that found the node, 0 for the seeds. With
        :class:`graphattn.nn.HopBias`, attention over it is GOAT's local part.

    Raises:
        ValueError: The sample is not disjoint.
    """
    owner = out.batch
    if owner is None:
        raise ValueError("a node has no one seed here; sample with disjoint=True")
    place = torch.arange(len(owner), device=owner.device)
    first = torch.tensor(out.num_sampled_nodes).cumsum(0).to(owner.device)
    hop = torch.searchsorted(first, place, right=True)
    graph = CSRGraph.from_edge_index(torch.stack([place, owner]), (len(owner), int(first[0])))
    return graph, hop


def remember_graph(edge_index: Tensor, num_nodes: int) -> None:
    """Tell ``as_graph`` the graph of an ``edge_index`` in CSR order: no model sorts it again."""
    counts = torch.bincount(edge_index[1], minlength=num_nodes)
    indices = edge_index[0].to(index_dtype(num_nodes))
    graph = CSRGraph._trusted(indptr_from_counts(counts), indices, num_nodes, None)
    remember(edge_index, graph)
