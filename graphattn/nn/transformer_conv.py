"""TransformerConv: PyG's layer of that name on fused attention."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from graphattn.graph import CSRGraph, as_graph
from graphattn.nn.blocks import JoinHeads, LazyLinear, Linear, check_heads, check_nodes, linear
from graphattn.ops import attention, attention_weights

_PYG_OPTIONS: dict[str, tuple[Any, ...]] = {
    "aggr": ("add", "sum"),
    "flow": ("source_to_target",),
    "node_dim": (0,),
    "decomposed_layers": (1,),
}


class TransformerConv(nn.Module):
    r"""Attend over neighbours as PyG's ``TransformerConv``: swap the import, keep the weights.

    .. math::
        x'_i = W_1 x_i + \sum_{j \in N(i)} \alpha_{ij} (W_2 x_j + W_6 e_{ij}), \qquad
        \alpha_{ij} = \mathrm{softmax}_j \frac{(W_3 x_i)^\top (W_4 x_j + W_6 e_{ij})}{\sqrt{d}}

    Arguments, parameter names, initial values and results are those of PyG 2.8; its state dict
    loads here and the other way round. No self-loops are added. A node without neighbours gets 0
    from the sum.

    Args:
        in_channels: Width of ``x``, or ``(source width, target width)`` for bipartite input;
            ``-1`` reads it from the first input.
        out_channels: Width ``d`` of one head.
        heads: Number of heads ``H``.
        concat: Concatenate the heads (output width ``H * d``); else average them (``d``).
        beta: Mix skip path and message by a learned gate,
            ``sigmoid(w5 [W1 x_i, m_i, W1 x_i - m_i])``; off without ``root_weight``.
        dropout: Probability of dropping an attention weight in training, in [0, 1).
        edge_dim: Width of ``edge_attr``; ``None`` means no edge features, ``-1`` is lazy.
        bias: Whether the node projections have a bias.
        root_weight: Whether to add the skip path ``W1 x_i``.
        top_m: Keep the ``top_m`` largest logits of each row and head; ``None`` keeps all, as PyG.
        impl: Implementation of the attention (see :func:`graphattn.attention`).
        **kwargs: PyG's ``aggr``, ``flow`` and ``node_dim``, at the values this layer works with.

    Memory O(N H d + E F): no per-edge keys, values or weights are kept, unless the weights are
    asked back. Paper: Shi et al., 2021, https://arxiv.org/abs/2009.03509.

    Example:
        >>> conv = TransformerConv(16, 8, heads=2)
        >>> conv(torch.randn(3, 16), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([3, 16])
    """

    def __init__(
        self,
        in_channels: int | tuple[int, int],
        out_channels: int,
        heads: int = 1,
        concat: bool = True,
        beta: bool = False,
        dropout: float = 0.0,
        edge_dim: int | None = None,
        bias: bool = True,
        root_weight: bool = True,
        *,
        top_m: int | None = None,
        impl: str = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__()
        check_pyg_options(type(self).__name__, kwargs)
        check_heads(heads * out_channels, heads)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.heads = heads
        self.concat = concat
        self.beta = beta and root_weight
        self.dropout = dropout
        self.edge_dim = edge_dim
        self.root_weight = root_weight
        self.top_m = top_m
        self.impl = impl

        source, target = (in_channels,) * 2 if isinstance(in_channels, int) else in_channels
        wide = heads * out_channels
        skip = wide if concat else out_channels
        self.lin_key = linear(source, wide, bias)
        self.lin_query = linear(target, wide, bias)
        self.lin_value = linear(source, wide, bias)
        self.lin_edge = None if edge_dim is None else linear(edge_dim, wide, bias=False)
        self.lin_skip = linear(target, skip, bias)
        self.join = JoinHeads(heads, concat)
        self.lin_beta = Linear(3 * skip, 1, bias=False) if self.beta else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values, in PyG's order: one seed gives both layers the same weights."""
        for part in (self.lin_key, self.lin_query, self.lin_value, self.lin_edge):
            if part is not None:
                part.reset_parameters()
        self.lin_skip.reset_parameters()
        if self.lin_beta is not None:
            self.lin_beta.reset_parameters()

    def forward(
        self,
        x: Tensor | tuple[Tensor, Tensor],
        edge_index: Any,
        edge_attr: Tensor | None = None,
        return_attention_weights: bool | None = None,
        *,
        size: tuple[int, int] | None = None,
    ) -> Any:
        """Run the layer.

        Args:
            x: Node features ``[N, F]``, or ``(x_source [Ns, Fs], x_target [Nt, Ft])``.
            edge_index: ``edge_index`` [2, E] (row 0 source, row 1 target), ``EdgeIndex``, sparse
                ``adj_t``, ``SparseTensor`` or :class:`CSRGraph` (then nothing is converted).
            edge_attr: Edge features ``[E, edge_dim]`` in the caller's edge order (row-major for
                sparse input).
            return_attention_weights: Any bool, ``False`` too as in PyG, asks the weights back:
                a slower path that computes them apart, unfused, before dropout.
            size: ``(Ns, Nt)``, checked against ``x``.

        Returns:
            ``[Nt, H * d]`` (``[Nt, d]`` without ``concat``), or with weights
            ``(out, (edge_index, alpha [E, H]))``; a ``SparseTensor`` comes back holding ``alpha``.

        Raises:
            TypeError: ``x`` is neither a tensor nor two.
            ValueError: ``x``, ``edge_attr`` or ``size`` does not fit the graph or the layer.
        """
        x_source, x_target = source_and_target(x)
        graph = graph_of(edge_index, (x_source.shape[0], x_target.shape[0]), size)
        head_shape = (self.heads, self.out_channels)
        query = self.lin_query(x_target).unflatten(-1, head_shape)
        key = self.lin_key(x_source).unflatten(-1, head_shape)
        value = self.lin_value(x_source).unflatten(-1, head_shape)
        edges = self._edge_options(edge_attr)
        dropout_p = self.dropout if self.training else 0.0
        options = edges | {"dropout_p": dropout_p, "top_m": self.top_m, "impl": self.impl}
        message = attention(query, key, value, graph, **options)
        out = self._combine(message, x_target)
        if return_attention_weights is None:
            return out
        alpha = attention_weights(query, key, graph, **edges)
        if not isinstance(edge_index, Tensor) and hasattr(edge_index, "set_value"):
            return out, edge_index.set_value(alpha, layout="coo")
        return out, (edge_index, alpha)

    def _edge_options(self, edge_attr: Tensor | None) -> dict[str, Any]:
        if (self.lin_edge is None) != (edge_attr is None):
            raise ValueError(
                f"edge_attr and edge_dim go together: the layer has edge_dim={self.edge_dim} and "
                f"got {'no edge_attr' if edge_attr is None else 'edge_attr'}; "
                "build it with edge_dim=edge_attr.shape[1], or drop the other"
            )
        if self.lin_edge is None or edge_attr is None:
            return {}
        if isinstance(self.lin_edge, LazyLinear):
            self.lin_edge(edge_attr[:0])  # the weight is read below, past the lazy module's hook
        weight = self.lin_edge.weight.view(self.heads, self.out_channels, -1)
        return {"edge_attr": edge_attr, "edge_proj": weight}

    def _combine(self, message: Tensor, x_target: Tensor) -> Tensor:
        """Join the heads and add the skip path; message [Nt, H, d]."""
        out: Tensor = self.join(message)
        if not self.root_weight:
            return out
        skip: Tensor = self.lin_skip(x_target)
        if self.lin_beta is None:
            return out + skip
        beta = self.lin_beta(torch.cat([out, skip, out - skip], dim=-1)).sigmoid()
        return cast(Tensor, beta * skip + (1 - beta) * out)

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}({self.in_channels}, {self.out_channels}, heads={self.heads})"


def source_and_target(x: Any) -> tuple[Tensor, Tensor]:
    """Node features of sources and of targets: one tensor stands for both."""
    if isinstance(x, Tensor):
        check_nodes(x)
        return x, x
    parts = list(x) if isinstance(x, tuple | list) else []
    if len(parts) != 2 or not all(isinstance(part, Tensor) for part in parts):
        came = ", ".join(type(part).__name__ for part in parts)
        raise TypeError(
            "x must be node features [N, F] or the pair (x_source [Ns, Fs], x_target [Nt, Ft]), "
            f"got {type(x).__name__}{f' of ({came})' if parts else ''}; "
            "the skip path and the queries read x_target: pass (x, x) where both are the same"
        )
    for part in parts:
        check_nodes(part)
    return parts[0], parts[1]


def graph_of(edge_index: Any, rows: tuple[int, int], size: tuple[int, int] | None) -> CSRGraph:
    """The graph among ``rows`` = (sources, targets), which PyG's ``size`` must agree with."""
    if size is not None and tuple(size) != rows:
        raise ValueError(
            f"size must be (sources, targets) = {rows} as the rows of x, got {tuple(size)}; "
            "leave it out, or pass the x that belongs to this graph"
        )
    return as_graph(edge_index, rows)


def check_pyg_options(layer: str, options: dict[str, Any]) -> None:
    """Refuse MessagePassing options whose effect the fused layer does not have."""
    for name, value in options.items():
        if name not in _PYG_OPTIONS:
            raise TypeError(
                f"{layer} got an unknown argument {name!r}; of PyG's MessagePassing it "
                f"takes {', '.join(_PYG_OPTIONS)}"
            )
        if value not in _PYG_OPTIONS[name]:
            remedy = "flip the edges: edge_index.flip(0)" if name == "flow" else "leave it out"
            raise ValueError(
                f"{layer} supports {name}={_PYG_OPTIONS[name][0]!r} only, got {value!r}; {remedy}"
            )
