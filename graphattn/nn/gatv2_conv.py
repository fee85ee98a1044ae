"""GATv2Conv: PyG's layer of that name on fused additive attention."""

from typing import Any

import torch
from torch import Tensor, nn

from graphattn.graph import CSRGraph
from graphattn.nn.blocks import JoinHeads, LazyLinear, Linear, check_heads
from graphattn.nn.self_loops import loop_features, with_self_loops
from graphattn.nn.transformer_conv import check_pyg_options, graph_of, source_and_target
from graphattn.ops import additive_attention, additive_scores, edge_softmax


class GATv2Conv(nn.Module):
    r"""Attend over neighbours as PyG's ``GATv2Conv``: swap the import, keep the weights.

    .. math::
        x'_i = \sum_{j \in N(i) \cup \{i\}} \alpha_{ij} \Theta_s x_j, \qquad
        \alpha_{ij} = \mathrm{softmax}_j\; a^\top
        \mathrm{leakyrelu}(\Theta_s x_j + \Theta_t x_i + \Theta_e e_{ij})

    Arguments, parameter names, initial values and results are those of PyG 2.8; its state dict
    loads here and the other way round. A node without neighbours gets 0 from the sum.

    Args:
        in_channels: Width of ``x``, or ``(source width, target width)`` for bipartite input;
            ``-1`` reads it from the first input.
        out_channels: Width of one head.
        heads: Number of heads.
        concat: Concatenate the heads; else average them.
        negative_slope: Slope of the leaky ReLU.
        dropout: Probability of dropping an attention weight in training, in [0, 1).
        add_self_loops: Replace the self-loops by exactly one per node (PyG's default).
        edge_dim: Width of ``edge_attr``; ``None`` means no edge features, ``-1`` is lazy.
        fill_value: Edge features of the added loops: a number, a tensor, or a reduction of the
            node's in-edges by name.
        bias: Whether to add a bias (in the projections too, as in PyG).
        share_weights: Whether sources and targets share one projection.
        residual: Whether to add a learned skip path.
        impl: Implementation of the attention (see :func:`graphattn.attention`).
        **kwargs: PyG's ``aggr``, ``flow`` and ``node_dim``, at the values this layer works with.

    Memory O(N H D + E F); with edge features, and on the GPU, the scores [E, H] live as long as a
    call.
    Paper: Brody et al., 2022, https://arxiv.org/abs/2105.14491.

    Example:
        >>> conv = GATv2Conv(16, 8, heads=2)
        >>> conv(torch.randn(3, 16), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([3, 16])
    """

    def __init__(
        self,
        in_channels: int | tuple[int, int],
        out_channels: int,
        heads: int = 1,
        concat: bool = True,
        negative_slope: float = 0.2,
        dropout: float = 0.0,
        add_self_loops: bool = True,
        edge_dim: int | None = None,
        fill_value: float | Tensor | str = "mean",
        bias: bool = True,
        share_weights: bool = False,
        residual: bool = False,
        *,
        impl: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__()
        check_pyg_options(type(self).__name__, kwargs)
        check_heads(heads * out_channels, heads)
        self.in_channels, self.out_channels, self.heads = in_channels, out_channels, heads
        self.concat, self.negative_slope, self.dropout = concat, negative_slope, dropout
        self.add_self_loops, self.edge_dim, self.fill_value = add_self_loops, edge_dim, fill_value
        self.share_weights, self.impl = share_weights, impl
        source, target = (in_channels,) * 2 if isinstance(in_channels, int) else in_channels
        wide, total = heads * out_channels, out_channels * (heads if concat else 1)
        self.lin_l = _glorot_linear(source, wide, bias)
        self.lin_r = self.lin_l if share_weights else _glorot_linear(target, wide, bias)
        self.join = JoinHeads(heads, concat)
        self.att = nn.Parameter(torch.empty(1, heads, out_channels))
        self.lin_edge = None if edge_dim is None else _glorot_linear(edge_dim, wide, False)
        self.res = _glorot_linear(target, total, False) if residual else None
        self.bias = nn.Parameter(torch.empty(total)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values, in PyG's order: one seed gives both layers the same weights."""
        for part in (self.lin_l, self.lin_r, self.lin_edge, self.res):
            if part is not None:
                part.reset_parameters()
        _glorot(self.att)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(
        self,
        x: Tensor | tuple[Tensor, Tensor],
        edge_index: Any,
        edge_attr: Tensor | None = None,
        return_attention_weights: bool | None = None,
    ) -> Any:
        """Run the layer.

        Args:
            x: Node features ``[N, F]``, or ``(x_source [Ns, Fs], x_target [Nt, Ft])``.
            edge_index: Anything that :func:`graphattn.as_graph` takes.
            edge_attr: Edge features ``[E, edge_dim]`` or ``[E]`` in the caller's edge order.
            return_attention_weights: True asks the weights back, before dropout: a slower path
                that computes them apart.

        Returns:
            ``[Nt, H * D]`` (``[Nt, D]`` without ``concat``), or with weights
            ``(out, (edge_index [2, E'], alpha [E', H]))`` of the graph with its self-loops.

        Raises:
            TypeError: ``x`` is neither a tensor nor two.
            ValueError: ``x`` or ``edge_attr`` does not fit the graph or the layer.
        """
        x_source, x_target = source_and_target(x)
        graph = graph_of(edge_index, (x_source.shape[0], x_target.shape[0]), None)
        graph, edges = self._edges(graph, edge_attr)
        split = (self.heads, self.out_channels)
        key = self.lin_l(x_source).unflatten(-1, split)
        shared = self.share_weights and x_source is x_target
        query = key if shared else self.lin_r(x_target).unflatten(-1, split)
        options = {"slope": self.negative_slope, "impl": self.impl, **edges}
        dropout_p = self.dropout if self.training else 0.0
        att = self.att[0]
        out = additive_attention(query, key, key, att, graph, dropout_p=dropout_p, **options)
        out = self.join(out)
        if self.res is not None:
            out = out + self.res(x_target)
        if self.bias is not None:
            out = out + self.bias
        if not return_attention_weights:
            return out
        scores = additive_scores(query, key, att, graph, **options)
        alpha = edge_softmax(scores, graph, heads=True, impl=self.impl)
        return out, (graph.edge_index(), alpha)

    def _edges(self, graph: CSRGraph, edge_attr: Tensor | None) -> tuple[CSRGraph, dict[str, Any]]:
        """The graph that is attended over, and the keywords of its edge features."""
        if edge_attr is not None and self.lin_edge is None:
            raise ValueError(
                "edge_attr was given to a layer without edge features; "
                "build it with edge_dim=edge_attr.shape[1]"
            )
        looped, kept = with_self_loops(graph) if self.add_self_loops else (graph, None)
        if edge_attr is None or self.lin_edge is None:
            return looped, {}
        if edge_attr.dim() == 1:
            edge_attr = edge_attr.unsqueeze(1)
        if edge_attr.shape[0] != graph.num_edges:
            raise ValueError(
                f"edge_attr must have one row per edge, [{graph.num_edges}, F], "
                f"got {list(edge_attr.shape)}"
            )
        if kept is not None:
            edge_attr = loop_features(edge_attr, kept, looped, self.fill_value)
        if isinstance(self.lin_edge, LazyLinear):
            self.lin_edge(edge_attr[:0])  # the weight is read below, past the lazy module's hook
        weight = self.lin_edge.weight.view(self.heads, self.out_channels, -1)
        return looped, {"edge_attr": edge_attr, "edge_proj": weight}

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}({self.in_channels}, {self.out_channels}, heads={self.heads})"


def _glorot(weight: Tensor) -> None:
    """PyG's: uniform within sqrt(6 / (sum of the last two sizes))."""
    bound = (6.0 / max(weight.shape[-2] + weight.shape[-1], 1)) ** 0.5
    nn.init.uniform_(weight, -bound, bound)


def _reset(layer: nn.Linear) -> None:
    _glorot(layer.weight)
    if layer.bias is not None:
        bound = layer.in_features**-0.5 if layer.in_features > 0 else 0.0
        nn.init.uniform_(layer.bias, -bound, bound)


class _GlorotLinear(Linear):
    """``nn.Linear`` with the initial values of PyG's under ``weight_initializer="glorot"``."""

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        _reset(self)


class _LazyGlorotLinear(LazyLinear):
    cls_to_become = _GlorotLinear

    def reset_parameters(self) -> None:
        """Draw new initial values, once the width is known."""
        if not self.has_uninitialized_params():
            _reset(self)


def _glorot_linear(in_features: int, out_features: int, bias: bool) -> nn.Linear:
    if in_features == -1:
        return _LazyGlorotLinear(out_features, bias)
    return _GlorotLinear(in_features, out_features, bias)
