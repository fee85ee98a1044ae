"""Sparsified: a model that learns which nodes, edges, heads and layers it can do without."""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from graphattn.graph import CSRGraph, as_graph
from graphattn.sparsify.depth import LayerSkips, drop_layers
from graphattn.sparsify.heads import HeadMasks
from graphattn.sparsify.select import (
    EdgeSelector,
    NodeSelector,
    check_ratio,
    inner_edges,
    of_kept_rows,
)
from graphattn.sparsify.support import check_supported, check_width
from graphattn.sparsify.weights import WeightMasks


class Compacted(NamedTuple):
    """A plain model, the graph it is to run on, and the nodes ``[N']`` whose rows that reads."""

    model: nn.Module
    graph: CSRGraph
    nodes: Tensor


class Sparsified(nn.Module):
    """A model with learned masks; :meth:`compact` gives the smaller model that they describe.

    ======================  =========  =====  =====  ====  =======
    model                   nodes      edges  heads  skip  weights
    ======================  =========  =====  =====  ====  =======
    GraphTransformer        yes        yes    yes    yes   yes
    IsomorphicTransformer   yes        yes    yes    yes   yes
    LaplacianTransformer    no         no     yes    yes   yes
    TANGNN                  with pool  yes    yes    yes   yes
    SINC                    yes        yes    no     yes   yes
    GCN, SAGE, GAT          yes        no     no     no    yes
    ======================  =========  =====  =====  ====  =======

    Not IsomorphicTransformer's edges where its layers are causal, or have a hard transform that
    passes no gradient; LaplacianTransformer without ``edge_types`` alone; TANGNN's heads in its
    form ``"attention"`` alone. Of other models: edges where ``forward`` takes ``bias`` [E], heads
    of the layers that :class:`HeadMasks` works with, and skip as in :class:`LayerSkips`. LargeGT is
    called with tokens: prune it by :class:`HeadMasks` and :class:`WeightMasks` themselves.

    Args:
        model: A model ``(x, graph, pe=None, batch=None) -> out``.
        channels: Width of the node features, for nodes and edges.
        nodes: Share of every graph's nodes that attention sees, in (0, 1].
        edges: Share of every row's edges that are kept, in (0, 1].
        heads: Share of every layer's heads that are kept, in (0, 1].
        skip: Probability of skipping a block in training, in [0, 1).
        weights: Share of the weights that are left in the end, in (0, 1].
        head_options, weight_options: Further arguments of :class:`HeadMasks`, :class:`WeightMasks`.

    Call :meth:`step` once per training step, between ``backward`` and the optimiser's step. With
    every share at 1 the output is the model's, bit for bit; in evaluation nothing is random. The
    state dict holds masks and schedules: a run goes on from it.

    Nodes that are dropped are out of the graph. A model that pools its nodes (``pool="mean"``) runs
    on the rows that are kept, and pools those. One with an output per node still needs a row for
    each: those that are dropped have no edges, and pass the residual path and what works row by
    row; :meth:`compact` leaves them out.

    Raises:
        ValueError: a number is out of range, ``channels`` is not the model's width, or the model
            cannot be pruned in the way asked for; the message lists what it supports.

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
        shares = {"nodes": nodes, "edges": edges, "heads": heads, "weights": weights}
        for name, share in shares.items():
            check_ratio(name, share)
        check_width(model, channels)
        wanted = [name for name, share in shares.items() if share < 1.0]
        check_supported(model, wanted + (["skip"] if skip != 0.0 else []))
        self.model = model
        self.nodes, self.edges = NodeSelector(channels, nodes), EdgeSelector(channels, edges)
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
        x, graph, bias, keep = self._selected(x, graph, batch)
        if keep is not None and getattr(self.model, "pool", None) is not None:
            x, graph = x[keep], of_kept_rows(graph, keep)
            pe, batch = (None if part is None else part[keep] for part in (pe, batch))
        if self.skips is not None:
            self.skips.batch = batch
        options = {} if bias is None else {"bias": bias}
        out: Tensor = self.model(x, graph, pe=pe, batch=batch, **options)
        return out

    def _selected(
        self, x: Tensor, graph: CSRGraph, batch: Tensor | None
    ) -> tuple[Tensor, CSRGraph, Tensor | None, Tensor | None]:
        """x, the edges that are left, their bias, and which nodes are kept; None: all of them.

        Edges are chosen before rows are taken out, so that evaluation and compaction choose alike.
        """
        given, keep = x, None
        if self.nodes.ratio < 1.0:
            keep, soft = self.nodes.keep(x, batch)
            x, graph = self.nodes.scaled(x, keep, soft), graph.filter(inner_edges(graph, keep))
        graph, bias = self.edges(given, graph)
        return x, graph, bias, keep

    def step(self) -> None:
        """Move the schedules of heads and weights on by one."""
        for schedule in (self.heads, self.weights):
            if schedule is not None:
                schedule.step()

    @torch.no_grad()
    def compact(
        self, x: Tensor, graph: Any, batch: Tensor | None = None, layers: int = 0
    ) -> Compacted:
        """The plain, smaller model and graph that evaluation on ``x`` and ``graph`` uses.

        Args:
            x: Node features ``[N, F]``.
            graph: Anything that :func:`graphattn.as_graph` takes.
            batch: Graph number of each node ``[N]``.
            layers: Residual blocks to drop on top (see :func:`drop_layers`).

        Returns:
            ``(model, graph, nodes)``: a copy of the model without masked heads, hooks and masks of
            weights; the graph of the edges that are kept, among the nodes that are kept alone; and
            their numbers [N'], ascending. ``model(x[nodes], graph, batch=batch[nodes])`` is what
            evaluation gives, for every graph with a pool and else for the nodes that are kept: all
            of its rows are fewer, those of the feed-forward parts too. This model stays as it is.
        """
        mode = self.training
        self.eval()
        _, smaller, _, keep = self._selected(x, as_graph(graph, x.shape[0]), batch)
        self.train(mode)
        nodes = torch.arange(x.shape[0], device=x.device)
        if keep is not None:
            nodes, smaller = nodes[keep], of_kept_rows(smaller, keep)
        twin = copy.deepcopy(self)
        if twin.skips is not None:
            twin.skips.remove()
        if twin.weights is not None:
            twin.weights.compact()
        if twin.heads is not None:
            twin.heads.compact()
        if layers:
            drop_layers(twin.model, layers)
        return Compacted(twin.model, smaller, nodes)
