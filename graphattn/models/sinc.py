"""SINC: a stack of SINC (or SIR) convolutions with normalisation, dropout and residuals."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphattn.graph import CSRGraph, as_graph
from graphattn.models.inputs import check_pe, check_pool, edge_weights
from graphattn.nn.blocks import Linear, make_norm, mean_pool, reset
from graphattn.nn.sinc_conv import SINCConv


class SINC(nn.Module):
    r"""Linear, then layers ``x + drop(leakyrelu(Norm(SINCConv(x))))``, then Linear.

    The defaults at width 75 and 4 layers are the published network for ogbn-arxiv, 103,915
    parameters, for an undirected graph with self-loops.

    Args:
        in_channels: Width of the node features.
        hidden_channels: Width of the network and of its messages.
        out_channels: Width of the output.
        num_layers: Number of convolutions.
        heads: Not used; present so that all models are built alike.
        aggr, context: Reductions of :class:`graphattn.nn.SINCConv`; ``context=None`` is SIR-GCN.
        slope: Of both leaky ReLUs.
        norm: ``"batch"``, ``"layer"`` or ``"none"``.
        dropout: After each layer.
        inner_dropout: On the convolutions' projections.
        residual: Whether layers add their input.
        pe_dim: Width of a positional encoding that is concatenated to ``x``; 0 for none.
        pool: ``"mean"`` gives one output per graph of ``batch``; ``None`` one per node.
        impl: Implementation of the kernels.

    Memory O(L N D + E). Paper: Lim, 2025, https://arxiv.org/abs/2511.11046.
    """

    self_loops = True

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        heads: int = 1,
        *,
        aggr: str = "mean",
        context: str | None = "sym",
        slope: float = 0.2,
        norm: str = "batch",
        dropout: float = 0.3,
        inner_dropout: float = 0.1,
        residual: bool = True,
        pe_dim: int = 0,
        pool: str | None = None,
        impl: str = "auto",
    ) -> None:
        super().__init__()
        check_pool(pool)
        self.slope, self.dropout, self.residual = slope, dropout, residual
        self.in_channels, self.pe_dim, self.pool = in_channels, pe_dim, pool
        width = hidden_channels
        self.lin_in = Linear(in_channels + pe_dim, width)
        options: dict[str, Any] = {"aggr": aggr, "context": context, "slope": slope, "impl": impl}
        self.convs = nn.ModuleList(
            SINCConv(width, width, width, dropout=inner_dropout, **options)
            for _ in range(num_layers)
        )
        self.norms = nn.ModuleList(make_norm(norm, width) for _ in range(num_layers))
        self.lin_out = Linear(width, out_channels)

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

        ``bias``: logarithms of the edges' weights in every layer, ``[E]`` in the caller's order.
        """
        graph = as_graph(graph, x.shape[0])
        h, weight = self.encode(x, pe), edge_weights(bias, graph)
        for depth in range(len(self.convs)):
            h = self._layer(depth, h, graph, weight)
        return self.decode(mean_pool(h, batch) if self.pool == "mean" else h)

    def encode(self, x: Tensor, pe: Tensor | None = None) -> Tensor:
        """The input of the first block [N, D], row by row: see :func:`layerwise`."""
        check_pe(pe, self.pe_dim)
        return cast(Tensor, self.lin_in(x if pe is None else torch.cat([x, pe.to(x.dtype)], dim=1)))

    @property
    def blocks(self) -> list[Callable[[Tensor, CSRGraph], Tensor]]:
        """The layers ``(h, graph) -> h``; their degrees are those of the whole graph."""
        return [partial(self._layer, depth) for depth in range(len(self.convs))]

    def decode(self, h: Tensor) -> Tensor:
        """Outputs from the last block's, row by row."""
        return cast(Tensor, self.lin_out(h))

    def _layer(
        self, depth: int, h: Tensor, graph: CSRGraph, weight: Tensor | None = None
    ) -> Tensor:
        step = F.leaky_relu(self.norms[depth](self.convs[depth](h, graph, weight)), self.slope)
        step = F.dropout(step, self.dropout, self.training)
        return h + step if self.residual else step
