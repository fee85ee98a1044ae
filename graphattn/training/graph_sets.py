"""Sets of graphs that carry the labels: one disjoint union, batches of whole graphs.

A set of graphs is turned into the record that all of training reads (``as_union``): features and
edges of all graphs one after the other, labels and splits by graph. What differs from one large
graph is then how a batch is cut out, which is ``GraphInputs``, and that the model pools.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from graphattn.graph.csr import CSRGraph
from graphattn.training.batches import BatchedInputs
from graphattn.training.config import SamplingConfig
from graphattn.training.inputs import Forward, Inputs

if TYPE_CHECKING:
    from graphattn.datasets.base import GraphDataset, NodeDataset


def as_union(dataset: GraphDataset) -> NodeDataset:
    """The set as one graph without edges between its parts.

    ``data.graph_ptr`` [G + 1] says where each graph's nodes begin; ``data.y`` and the splits are
    those of graphs. Categories (integer features, as OGB's atoms) become one column per value of
    each, uint8: a linear map of these is the sum of one embedding per category.

    Raises:
        ValueError: If there are no graphs, one has no nodes, or they have no node features.
    """
    from torch_geometric.data import Batch, Data

    from graphattn.datasets.base import NodeDataset

    if not len(dataset.graphs):
        raise ValueError(f"{dataset.name} holds no graphs")
    empty = [n for n, graph in enumerate(dataset.graphs) if graph.num_nodes == 0]
    if empty:
        raise ValueError(
            f"{dataset.name}: expected graphs with nodes, got none in graph {empty[0]} "
            f"({len(empty)} in all); leave them out of the set"
        )
    every = Batch.from_data_list(list(dataset.graphs))
    if every.x is None:
        raise ValueError(
            f"{dataset.name} has no node features; for sets of the TU collection pass "
            "--data.options.features degree"
        )
    labels = every.y.view(len(dataset.graphs), -1)
    labels = labels.squeeze(1) if labels.shape[1] == 1 else labels
    x = every.x if every.x.is_floating_point() else one_hot(every.x)
    data = Data(x=x, edge_index=every.edge_index, y=labels, graph_ptr=every.ptr)
    data.num_nodes = int(every.num_nodes)
    shared = [name for name in NodeDataset.__dataclass_fields__ if name != "data"]
    return NodeDataset(data=data, **{name: getattr(dataset, name) for name in shared})


def one_hot(categories: Tensor) -> Tensor:
    """Categories [N, F] as uint8 [N, sum of the numbers of values]."""
    sizes = (categories.max(0).values + 1).tolist()
    parts = [
        torch.nn.functional.one_hot(column.long(), size).to(torch.uint8)
        for column, size in zip(categories.unbind(1), sizes, strict=True)
    ]
    return torch.cat(parts, 1)


@dataclass
class GraphInputs(BatchedInputs):
    """Batches of whole graphs for any model of ``(x, graph, pe, batch)``; seeds are graphs.

    Attributes:
        ptr: Where the nodes of each graph begin, [G + 1].
    """

    ptr: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.int64))

    def arguments(self, nodes: Tensor, epoch: int, number: int) -> tuple[Any, ...]:
        """Features, graph, encoding and graph number of the nodes of the graphs ``nodes``."""
        graph, rows, batch = cut_out(self.graph, self.ptr, nodes)
        return self.x[rows].float(), graph, self._pe_of(rows), batch

    def outputs(self, forward: Forward, model: nn.Module, nodes: Tensor | None = None) -> Tensor:
        """Outputs of graphs (all without), in batches shared out over the ranks."""
        every = torch.arange(len(self.ptr) - 1)
        return self.in_batches(forward, every if nodes is None else nodes)


def graph_batches(
    inputs: Inputs, graph: CSRGraph, ptr: Tensor, config: SamplingConfig, seed: int
) -> GraphInputs:
    """The inputs of a union as batches of graphs; without a batch size, all at once."""
    config = replace(config, batch_size=config.batch_size or len(ptr) - 1)
    return GraphInputs(inputs.x, graph, inputs.pe, inputs.flip, config, seed, ptr=ptr)


def cut_out(graph: CSRGraph, ptr: Tensor, chosen: Tensor) -> tuple[CSRGraph, Tensor, Tensor]:
    """The graphs ``chosen`` of a union: their union, its nodes' rows, and their graph numbers."""
    first, sizes = ptr[chosen], ptr[chosen + 1] - ptr[chosen]
    rows = _ranges(first, sizes)
    batch = torch.arange(len(chosen)).repeat_interleave(sizes)
    begin, end = graph.indptr[first], graph.indptr[first + sizes]
    # A graph's nodes move from where they begin in the whole to where they begin here.
    moved = (first - (sizes.cumsum(0) - sizes)).repeat_interleave(end - begin)
    indices = graph.indices[_ranges(begin, end - begin)] - moved.to(graph.indices.dtype)
    indptr = torch.cat([ptr.new_zeros(1), graph.degree()[rows].cumsum(0)])
    return CSRGraph._trusted(indptr, indices, len(rows), None), rows, batch


def _ranges(first: Tensor, counts: Tensor) -> Tensor:
    """first_0, first_0 + 1, ... (counts_0 numbers), first_1, ..."""
    shift = first - (counts.cumsum(0) - counts)
    return torch.arange(int(counts.sum())) + shift.repeat_interleave(counts)
