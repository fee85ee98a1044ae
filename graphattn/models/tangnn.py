"""TANGNN: sampled neighbours beside the globally most relevant nodes."""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphattn.graph import CSRGraph, as_graph
from graphattn.models.inputs import check_pe, check_pool, edge_weights
from graphattn.nn.blocks import Linear, make_norm, mean_pool, reset
from graphattn.nn.top_m_attention import TopMAttention
from graphattn.ops import aggregate, top_m


class TANGNN(nn.Module):
    r"""Layers :math:`h_v = W [n_v \| z_v]`: GraphSAGE over neighbours, attention to the top m.

    .. math::
        n = \mathrm{relu}(W_s x + W_n\, \mathrm{mean}_{j \in N_f(v)} x_j), \qquad
        z = \mathrm{TopM}(x)

    In training :math:`N_f(v)` are at most f neighbours drawn anew in every step (from torch's
    generator); in evaluation all of them, so that it is deterministic. On mini-batches of
    :class:`graphattn.sampling.NeighborSampler` the neighbours are those that were sampled, and the
    global part chooses among the nodes of the batch; evaluation chooses among all nodes. This is
    the idea of the paper, not its code, whose global part never reaches the loss.

    Args:
        in_channels: Width of the node features.
        hidden_channels: Width of the network and of each part.
        out_channels: Width of the output.
        num_layers: Number of layers.
        heads: Heads of the global attention; divide ``hidden_channels``.
        m: Globally chosen nodes.
        fanouts: Neighbours drawn in each layer, the last number for all later ones; None for all.
        form, gate: Of :class:`graphattn.nn.TopMAttention`.
        norm: ``"layer"``, ``"batch"`` or ``"none"``.
        dropout: After each layer.
        residual: Whether layers add their input.
        pe_dim: Width of a positional encoding that is concatenated to ``x``; 0 for none.
        pool: ``"mean"`` gives one output per graph of ``batch``, whose nodes choose among
            themselves; ``None`` one per node.
        impl: Implementation of the kernels.

    Memory O(L N D + E). Paper: E et al., 2024, https://arxiv.org/abs/2411.15458.
    """

    self_loops = False

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        heads: int = 1,
        *,
        m: int = 20,
        fanouts: Sequence[int] | None = (5, 10),
        form: str = "attention",
        gate: str = "sigmoid",
        norm: str = "layer",
        dropout: float = 0.3,
        residual: bool = True,
        pe_dim: int = 0,
        pool: str | None = None,
        impl: str = "auto",
    ) -> None:
        super().__init__()
        check_pool(pool)
        if fanouts is not None and (not fanouts or min(fanouts) < 1):
            raise ValueError(f"fanouts must be numbers of at least 1, or None, got {fanouts}")
        self.in_channels = in_channels
        self.fanouts = None if fanouts is None else tuple(fanouts)
        self.dropout, self.residual, self.pe_dim, self.pool = dropout, residual, pe_dim, pool
        self.lin_in = Linear(in_channels + pe_dim, hidden_channels)
        self.layers = nn.ModuleList(
            _Layer(hidden_channels, heads, m, form, gate, dropout, norm, impl)
            for _ in range(num_layers)
        )
        self.head = nn.Sequential(
            Linear(hidden_channels, hidden_channels),
            nn.ReLU(),
            nn.Dropout(dropout),
            Linear(hidden_channels, out_channels),
        )

    def reset_parameters(self) -> None:
        """Draw new initial values for every part."""
        reset(self)

    def forward(
        self,
        x: Tensor,
        graph: Any,
        pe: Tensor | None = None,
        batch: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """x ``[N, in_channels]`` -> ``[N, out_channels]``, or one row per graph with a pool.

        ``bias``: logarithms of the edges' weights in the local part, ``[E]`` in the caller's order.
        """
        check_pe(pe, self.pe_dim)
        graph = as_graph(graph, x.shape[0])
        h = self.lin_in(x if pe is None else torch.cat([x, pe.to(x.dtype)], dim=1))
        weight = edge_weights(bias, graph)
        for depth, layer in enumerate(self.layers):
            near, ids = self._drawn(graph, depth)
            factor = weight if weight is None or ids is None else weight[ids]
            step = layer(h, near, factor, batch if self.pool else None)
            step = F.dropout(step, self.dropout, self.training)
            h = h + step if self.residual else step
        return cast(Tensor, self.head(mean_pool(h, batch) if self.pool == "mean" else h))

    def _drawn(self, graph: CSRGraph, depth: int) -> tuple[CSRGraph, Tensor | None]:
        """At most a layer's fan-out of every node's neighbours: the top of random scores.

        And the ids of their edges; None where all are taken.
        """
        if self.fanouts is None or not self.training:
            return graph, None
        fanout = self.fanouts[min(depth, len(self.fanouts) - 1)]
        return top_m(torch.rand(graph.num_edges, device=graph.device), graph, fanout)


class _Layer(nn.Module):
    def __init__(
        self,
        channels: int,
        heads: int,
        m: int,
        form: str,
        gate: str,
        dropout: float,
        norm: str,
        impl: str,
    ) -> None:
        super().__init__()
        self.impl = impl
        self.norm = make_norm(norm, channels)
        self.lin_self = Linear(channels, channels)
        self.lin_near = Linear(channels, channels, bias=False)
        self.lin_mix = Linear(2 * channels, channels)
        self.top = TopMAttention(channels, heads, m, form=form, gate=gate, dropout=dropout)

    def reset_parameters(self) -> None:
        reset(self)

    def forward(
        self, x: Tensor, graph: CSRGraph, weight: Tensor | None, batch: Tensor | None
    ) -> Tensor:
        """x [N, D] -> W [n || z] [N, D]."""
        x = self.norm(x)
        near = aggregate(x, graph, weight, reduce="mean", heads=False, impl=self.impl)
        local = F.relu(self.lin_self(x) + self.lin_near(near))
        return cast(Tensor, self.lin_mix(torch.cat([local, self.top(x, batch)], 1)))
