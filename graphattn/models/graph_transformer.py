"""GraphTransformer: the pre-norm one-hop transformer of the heterophilous benchmark."""

import inspect
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from graphattn.graph import CSRGraph, as_graph
from graphattn.models.inputs import check_pe, check_pool
from graphattn.models.laplacian_transformer import LaplacianTransformer
from graphattn.nn.blocks import Linear, check_heads, make_norm, mean_pool, reset
from graphattn.ops import attention

VARIANTS = ("gt", "gt-sep")


class GraphTransformer(nn.Module):
    r"""Stack of blocks ``x + Attn(Norm(x))``, ``x + FFN(Norm(x))`` on a sparse graph.

    .. math::
        h_0 = \mathrm{gelu}(\mathrm{drop}(W x)) + W_p\, pe, \qquad y = W_y \mathrm{Norm}(h_L)

    Variant ``"gt"`` sends the attention's message through its output projection and expects a
    graph with self-loops; ``"gt-sep"`` projects ``[normed input || message]``, so ego and
    neighbours stay apart, and expects none. The model adds no loops: read :attr:`self_loops`.

    Args:
        in_channels: Width of the node features.
        hidden_channels: Width ``D`` of the network.
        out_channels: Width of the output (classes, or 1 for a binary task).
        num_layers: Number of blocks.
        heads: Attention heads; divide ``hidden_channels``.
        variant: ``"gt"`` or ``"gt-sep"``.
        norm: ``"layer"`` (published), ``"batch"`` (over nodes) or ``"none"``.
        dropout: After the input, the output projection and both linear maps of the FFN.
        residual: Whether blocks add their input.
        pe_dim: Width of a positional encoding that is projected and added to ``h_0``; 0 for none.
        pool: ``"mean"`` gives one output per graph of ``batch``; ``None`` one per node.
        top_m: Keep each row's and head's ``top_m`` largest logits; ``None`` keeps all.
        make_layer: From the depth of a block to a layer ``(x, graph) -> x`` that takes the place
            of its attention, with a keyword ``bias`` if it can; ``None`` for the attention.
        impl: Implementation of the attention (see :func:`graphattn.attention`).

    Memory O(L N D + E). Paper: Platonov et al., 2023, https://arxiv.org/abs/2302.11640 (GT and
    GT-sep rows; published width 512, 8 heads, depth 1 to 5).

    Example:
        >>> model = GraphTransformer(7, 64, 1, num_layers=2, norm="batch")
        >>> model(torch.randn(3, 7), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([3, 1])
    """

    zinc = LaplacianTransformer.zinc
    pattern = LaplacianTransformer.pattern
    cluster = LaplacianTransformer.cluster

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        heads: int = 8,
        *,
        variant: str = "gt",
        norm: str = "layer",
        dropout: float = 0.2,
        residual: bool = True,
        pe_dim: int = 0,
        pool: str | None = None,
        top_m: int | None = None,
        make_layer: Callable[[int], nn.Module] | None = None,
        impl: str = "auto",
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
        check_pool(pool)
        self.variant = variant
        self.in_channels = in_channels
        self.pe_dim = pe_dim
        self.pool = pool
        self.input = nn.Sequential(
            Linear(in_channels, hidden_channels), nn.Dropout(dropout), nn.GELU()
        )
        self.lin_pe = Linear(pe_dim, hidden_channels) if pe_dim else None
        self.blocks = nn.ModuleList(
            PreNormBlock(
                hidden_channels,
                heads,
                separate=variant == "gt-sep",
                norm=norm,
                dropout=dropout,
                residual=residual,
                top_m=top_m,
                layer=None if make_layer is None else make_layer(depth),
                impl=impl,
            )
            for depth in range(num_layers)
        )
        self.norm = make_norm(norm, hidden_channels)
        self.lin_out = Linear(hidden_channels, out_channels)

    @property
    def self_loops(self) -> bool:
        """Whether the graph should have self-loops: True for "gt", False for "gt-sep"."""
        return self.variant == "gt"

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
        """Run the network.

        Args:
            x: Node features ``[N, in_channels]``.
            graph: Anything that :func:`graphattn.as_graph` takes.
            pe: Positional encoding ``[N, pe_dim]``.
            batch: Graph number of each node ``[N]``, read with ``pool="mean"`` only.
            bias: Added to the logits of every block, ``[E]`` or ``[E, heads]``; layers
                of ``make_layer`` must take it.

        Returns:
            ``[N, out_channels]``, or ``[graphs, out_channels]`` with ``pool="mean"``.
        """
        graph = as_graph(graph, x.shape[0])
        h = self.encode(x, pe)
        for block in self.blocks:
            h = block(h, graph, bias)
        h = self.norm(h)
        return cast(Tensor, self.lin_out(mean_pool(h, batch) if self.pool == "mean" else h))

    def encode(self, x: Tensor, pe: Tensor | None = None) -> Tensor:
        """The input of the first block [N, D], row by row: see :func:`layerwise`."""
        check_pe(pe, self.pe_dim)
        h = self.input(x)
        return cast(Tensor, h if self.lin_pe is None else h + self.lin_pe(pe))

    def decode(self, h: Tensor) -> Tensor:
        """Outputs per node from the last block's, row by row."""
        return cast(Tensor, self.lin_out(self.norm(h)))


class PreNormBlock(nn.Module):
    """Pre-norm attention and feed-forward part, each with dropout and residual."""

    def __init__(
        self,
        channels: int,
        heads: int,
        *,
        separate: bool,
        norm: str,
        dropout: float,
        residual: bool,
        top_m: int | None = None,
        layer: nn.Module | None = None,
        impl: str,
    ) -> None:
        super().__init__()
        check_heads(channels, heads)
        self.heads = heads
        self.separate = separate
        self.residual = residual
        self.top_m = top_m
        self.impl = impl
        self.norm1 = make_norm(norm, channels)
        self.layer = layer
        self.takes_bias = layer is None or "bias" in inspect.signature(layer.forward).parameters
        if layer is None:
            self.lin_query = Linear(channels, channels)
            self.lin_key = Linear(channels, channels)
            self.lin_value = Linear(channels, channels)
            self.lin_out = Linear(channels * (2 if separate else 1), channels)
        self.dropout = nn.Dropout(dropout)
        self.norm2 = make_norm(norm, channels)
        self.feed_forward = nn.Sequential(
            Linear(channels, channels),
            nn.Dropout(dropout),
            nn.GELU(),
            Linear(channels, channels),
            nn.Dropout(dropout),
        )

    def reset_parameters(self) -> None:
        """Draw new initial values for every part."""
        reset(self)

    def forward(self, x: Tensor, graph: CSRGraph, bias: Tensor | None = None) -> Tensor:
        """x [N, D] -> [N, D]."""
        step = self._attend(self.norm1(x), graph, bias)
        x = x + step if self.residual else step
        step = self.feed_forward(self.norm2(x))
        return cast(Tensor, x + step if self.residual else step)

    def _attend(self, x: Tensor, graph: CSRGraph, bias: Tensor | None) -> Tensor:
        if self.layer is not None:
            if not (bias is None or self.takes_bias):
                raise ValueError(f"{type(self.layer).__name__} takes no edge bias; leave it out")
            options = {} if bias is None else {"bias": bias}
            return cast(Tensor, self.dropout(self.layer(x, graph, **options)))
        query, key, value = (
            lin(x).unflatten(-1, (self.heads, -1))
            for lin in (self.lin_query, self.lin_key, self.lin_value)
        )
        message = attention(
            query, key, value, graph, bias=bias, top_m=self.top_m, impl=self.impl
        ).flatten(1)
        if self.separate:
            message = torch.cat([x, message], dim=1)
        return cast(Tensor, self.dropout(self.lin_out(message)))
