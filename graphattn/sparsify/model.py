"""Sparsified: a model that learns which nodes, edges, heads and layers it can do without."""

import copy
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from graphattn.graph import CSRGraph, as_graph
from graphattn.sparsify.depth import LayerSkips, drop_layers
from graphattn.sparsify.heads import HeadMasks
from graphattn.sparsify.select import EdgeSelector, NodeSelector
from graphattn.sparsify.weights import WeightMasks


class Sparsified(nn.Module):
    """A model with learned masks; :meth:`compact` gives the smaller model that they describe.

    Args:
        model: A model ``(x, graph, pe=None, batch=None) -> out``; learned edges need one that takes
            ``bias`` too (GraphTransformer).
        channels: Width of the node features, for nodes and edges.
        nodes: Share of every graph's nodes that attention sees, in (0, 1].
        edges: Share of every row's edges that are kept, in (0, 1].
        heads: Share of every layer's heads that are kept, in (0, 1].
        skip: Probability of skipping a block in training, in [0, 1).
        weights: Share of the weights that are left in the end, in (0, 1].
        head_options, weight_options: Further arguments of :class:`HeadMasks`, :class:`WeightMasks`.

    Call :meth:`step` once per training step, between ``backward`` and the optimiser's step. With
    every share at 1 the output is the model's, bit for bit; in evaluation nothing is random.
    Paper: Liu et al., 2023, https://arxiv.org/abs/2312.05479 (GTSP).
    """

    def __init__(
        self,
        model: nn.Module,
        channels: int,
        *,
        nodes: float = 1.0,
        edges: float = 1.0,
        heads: float = 1.0,
        skip: float = 0.0,
        weights: float = 1.0,
        head_options: dict[str, Any] | None = None,
        weight_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.nodes, self.edges = NodeSelector(channels, nodes), EdgeSelector(channels, edges)
        if edges < 1.0 and "bias" not in inspect.signature(model.forward).parameters:
            raise ValueError(
                f"{type(model).__name__} takes no edge bias, so that no gradient would reach the "
                "choice of edges; GraphTransformer does, and nodes, heads and weights need none"
            )
        self.heads = None if heads == 1.0 else HeadMasks(model, heads, **(head_options or {}))
        self.skips = None if skip == 0.0 else LayerSkips(model, skip)
        self.weights = None
        if weights < 1.0:
            self.weights = WeightMasks(model, weights, **(weight_options or {}))

    def forward(
        self, x: Tensor, graph: Any, pe: Tensor | None = None, batch: Tensor | None = None
    ) -> Tensor:
        """As the model, on the nodes, edges and heads that are kept."""
        graph = as_graph(graph, x.shape[0])
        if self.skips is not None:
            self.skips.batch = batch
        x, graph, bias = self._selected(x, graph, batch)
        options = {} if bias is None else {"bias": bias}
        out: Tensor = self.model(x, graph, pe=pe, batch=batch, **options)
        return out

    def _selected(
        self, x: Tensor, graph: CSRGraph, batch: Tensor | None
    ) -> tuple[Tensor, CSRGraph, Tensor | None]:
        given = x
        x, graph, _ = self.nodes(x, graph, batch)
        graph, bias = self.edges(given, graph)
        return x, graph, bias

    def step(self) -> None:
        """Move the schedules of heads and weights on by one."""
        for schedule in (self.heads, self.weights):
            if schedule is not None:
                schedule.step()

    @torch.no_grad()
    def compact(
        self, x: Tensor, graph: Any, batch: Tensor | None = None, layers: int = 0
    ) -> tuple[nn.Module, CSRGraph]:
        """The plain, smaller model and graph that evaluation on ``x`` and ``graph`` uses.

        Args:
            x: Node features ``[N, F]``.
            graph: Anything that :func:`graphattn.as_graph` takes.
            batch: Graph number of each node ``[N]``.
            layers: Residual blocks to drop on top (see :func:`drop_layers`).

        Returns:
            A copy of the model without masked heads, hooks and masks of weights, and the graph of
            the edges that are kept, in the mode (training or evaluation) of this model, which
            stays as it is.
        """
        mode = self.training
        self.eval()
        _, smaller, _ = self._selected(x, as_graph(graph, x.shape[0]), batch)
        self.train(mode)
        if self.weights is not None:
            self.weights.settle()
        twin = copy.deepcopy(self)
        if twin.skips is not None:
            twin.skips.remove()
        if twin.weights is not None:
            twin.weights.compact()
        if twin.heads is not None:
            twin.heads.compact()
        if layers:
            drop_layers(twin.model, layers)
        return twin.model, smaller
