"""ClusterLoader: batches of whole parts of a graph, with all edges inside."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_geometric.sampler import BaseSampler, NodeSamplerInput, SamplerOutput

from graphattn.graph.checks import check_places
from graphattn.graph.partition import partition
from graphattn.sampling.checks import check_seeds
from graphattn.sampling.loader import NodeLoader
from graphattn.sampling.neighbor import NeighborSampler, graph_of


class ClusterSampler(BaseSampler):  # type: ignore[misc]
    """The nodes of some parts and the edges among them; a "seed" is the number of a part."""

    def __init__(self, data: Any, part: Tensor) -> None:
        self.inner = NeighborSampler(data, [])
        if part.shape != (self.inner.num_nodes,):
            raise ValueError(
                f"part must hold one number per node [{self.inner.num_nodes}], got "
                f"{list(part.shape)}"
            )
        remedy = "give the part of every node, counted from 0"
        check_places(part, max(self.inner.num_nodes, 1), "part", remedy)
        self.order = torch.argsort(part, stable=True)
        self.bounds = torch.searchsorted(part[self.order], torch.arange(int(part.max()) + 2))

    @property
    def num_parts(self) -> int:
        """Parts, empty ones included."""
        return len(self.bounds) - 1

    def sample_from_nodes(self, index: NodeSamplerInput, **kwargs: Any) -> SamplerOutput:
        """The union of the parts ``index.node``, its nodes part by part."""
        parts = check_seeds(index.node, self.num_parts, "parts").tolist()
        nodes = [self.order[self.bounds[p] : self.bounds[p + 1]] for p in parts]
        out = self.inner.induced(torch.cat(nodes))
        out.metadata = (index.input_id, None)
        return out

    def sample_from_edges(self, index: Any, neg_sampling: Any = None) -> SamplerOutput:
        """Not available; see :class:`NeighborSampler`."""
        return self.inner.sample_from_edges(index, neg_sampling)


class ClusterLoader(NodeLoader):
    """Cluster-GCN's batches: the subgraphs that unions of ``batch_size`` parts induce.

    Neighbours outside the batch are missing, so a batch's result is not the full graph's; what is
    won is that no node is read twice per pass.

    Args:
        data: PyG ``Data`` or ``(FeatureStore, GraphStore)``.
        num_parts: Number of parts, made by :func:`graphattn.graph.partition.partition`; or a
            tensor ``[N]`` with the part of every node (``part.npy`` of ``graphattn partition``).
        method: ``"auto"``, ``"bfs"`` or ``"metis"``.
        **kwargs: As :class:`NodeLoader`; ``batch_size`` counts parts.

    Raises:
        TypeError: Parts that are not integers.
        ValueError: Parts below 0 or as many as nodes; ``num_parts`` below 1 or beyond the nodes.

    Batches have ``n_id`` and ``e_id``; ``input_id`` are the parts. Paper: Chiang et al., 2019,
    https://arxiv.org/abs/1905.07953.
    """

    def __init__(
        self, data: Any, num_parts: int | Tensor, method: str = "auto", **kwargs: Any
    ) -> None:
        part = num_parts
        if not isinstance(part, Tensor):
            part = partition(graph_of(data), part, method)
        sampler = ClusterSampler(data, part)
        super().__init__(data, sampler, torch.arange(sampler.num_parts), **kwargs)
