"""GraphTransformerLayer: the layer of Dwivedi and Bresson, with and without edge features."""

from typing import Any, cast

from torch import Tensor, nn

from graphattn.graph import as_graph
from graphattn.nn.blocks import Linear, check_heads, check_nodes, make_norm, reset
from graphattn.ops import attention

CLAMP = 5.0
EDGE_EPS = 1e-6


class GraphTransformerLayer(nn.Module):
    r"""Attend over neighbours with clamped logits, then a feed-forward part; both post-norm.

    .. math::
        s_{ij} = \mathrm{clamp}(\langle q_i, k_j \odot W_E e_{ij} \rangle / \sqrt{d}, \pm 5),
        \quad o_i = \frac{\sum_j e^{s_{ij}} v_j}{\varepsilon + \sum_j e^{s_{ij}}}

    .. math::
        h'_i = \mathrm{Norm}(h_i + W_O\, o_i + b), \quad
        h''_i = \mathrm{Norm}(h'_i + W_2\, \mathrm{relu}(W_1 h'_i + b_1) + b_2)

    With ``edge_dim`` the edges have the same two steps of their own, fed by the vector
    :math:`\hat e_{ij} = q_i \odot k_j \odot W_E e_{ij} / \sqrt{d}` taken before sum and clamp, and
    :math:`\varepsilon = 10^{-6}`; without it there is no gate and :math:`\varepsilon = 0`.
    Logits outside [-5, 5] have gradient exactly 0. A node without neighbours receives ``o_i = 0``
    (the published node variant divides 0 by 0). No self-loops are added, and no attention dropout
    exists.

    Args:
        channels: Width ``D`` of the nodes.
        heads: Number of heads; divides ``channels``.
        edge_dim: Width of the edge features; ``None`` selects the variant without edges.
        dropout: Applied to the heads' output before ``W_O`` and inside the feed-forward part.
        layer_norm, batch_norm: The normalisations, LayerNorm first where both are set.
        residual: Whether each step adds its input.
        top_m: Keep the ``top_m`` largest logits of each row and head; ``None`` keeps all.
        update_edges: Whether the edges are updated; the last layer of a network can do without.
        impl: Implementation of the attention (see :func:`graphattn.attention`).

    Memory O(N D + E), and O(E D) for the edge vectors of the edge variant.
    Paper: Dwivedi and Bresson, 2020, https://arxiv.org/abs/2012.09699.

    Example:
        >>> layer = GraphTransformerLayer(16, heads=4)
        >>> layer(torch.randn(3, 16), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([3, 16])
    """

    def __init__(
        self,
        channels: int,
        heads: int = 1,
        *,
        edge_dim: int | None = None,
        dropout: float = 0.0,
        layer_norm: bool = False,
        batch_norm: bool = True,
        residual: bool = True,
        top_m: int | None = None,
        update_edges: bool = True,
        impl: str = "auto",
    ) -> None:
        super().__init__()
        check_heads(channels, heads)
        self.channels = channels
        self.heads = heads
        self.edge_dim = edge_dim
        self.top_m = top_m
        self.impl = impl
        norms = [name for name, on in (("layer", layer_norm), ("batch", batch_norm)) if on]
        self.lin_query = Linear(channels, channels, bias=False)
        self.lin_key = Linear(channels, channels, bias=False)
        self.lin_value = Linear(channels, channels, bias=False)
        self.node_update = _Update(channels, channels, norms, dropout, residual)
        self.lin_edge = None if edge_dim is None else Linear(edge_dim, channels, bias=False)
        self.edge_update = None
        if edge_dim is not None and update_edges:
            self.edge_update = _Update(channels, edge_dim, norms, dropout, residual)

    def reset_parameters(self) -> None:
        """Draw new initial values for every part."""
        reset(self)

    def forward(
        self,
        x: Tensor,
        edge_index: Any,
        edge_attr: Tensor | None = None,
        *,
        need_edges: bool = True,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Run the layer.

        Args:
            x: Node features ``[N, D]``.
            edge_index: Anything that :func:`graphattn.as_graph` takes.
            edge_attr: Edge features ``[E, edge_dim]`` in the caller's edge order.
            need_edges: ``False`` skips the edge update where nobody reads it.

        Returns:
            ``x`` [N, D]; with ``edge_dim`` the pair ``(x, edge_attr)``, whose second entry is the
            input where the edges are not updated.

        Raises:
            TypeError: ``x`` or ``edge_attr`` is not a tensor.
            ValueError: ``x`` or ``edge_attr`` has another shape, or only one of ``edge_attr`` and
                ``edge_dim`` is given.
        """
        check_nodes(x)
        graph = as_graph(edge_index, x.shape[0])
        split = (self.heads, -1)
        query, key, value = (
            lin(x).unflatten(-1, split) for lin in (self.lin_query, self.lin_key, self.lin_value)
        )
        if self.lin_edge is None:
            _refuse_edges(edge_attr)
            out = attention(query, key, value, graph, clamp=CLAMP, top_m=self.top_m, impl=self.impl)
            return cast(Tensor, self.node_update(x, out))
        edge_attr = _check_edges(edge_attr, graph.num_edges, self.lin_edge.in_features)
        update = self.edge_update if need_edges else None
        found = attention(
            query,
            key,
            value,
            graph,
            gate=self.lin_edge(edge_attr).unflatten(-1, split),
            clamp=CLAMP,
            eps=EDGE_EPS,
            top_m=self.top_m,
            return_gated=update is not None,
            impl=self.impl,
        )
        if update is None:
            return self.node_update(x, found), edge_attr
        out, gated = found
        return self.node_update(x, out), update(edge_attr, gated)

    def __repr__(self) -> str:
        edges = "" if self.edge_dim is None else f", edge_dim={self.edge_dim}"
        return f"{type(self).__name__}({self.channels}, heads={self.heads}{edges})"


def _refuse_edges(edge_attr: Tensor | None) -> None:
    if edge_attr is not None:
        raise ValueError(
            "edge_attr was given to a layer without edge features; "
            "build it with edge_dim=edge_attr.shape[1]"
        )


def _check_edges(edge_attr: Tensor | None, count: int, width: int) -> Tensor:
    if edge_attr is None:
        raise ValueError(f"edge_attr [E, {width}] is needed: the layer has edge_dim={width}")
    if not isinstance(edge_attr, Tensor):
        raise TypeError(f"edge_attr must be a tensor, got {type(edge_attr).__name__}")
    if tuple(edge_attr.shape) == (count, width):
        return edge_attr
    remedy = "pass the features of this graph's edges, those of added self-loops too"
    if edge_attr.dim() == 1:
        remedy = "a single feature per edge is edge_attr.unsqueeze(1)"
    elif edge_attr.shape[-1] != width:
        remedy = f"build the layer with edge_dim={edge_attr.shape[-1]}"
    raise ValueError(
        f"edge_attr must have shape {[count, width]} (one row per edge, in the caller's edge "
        f"order), got {list(edge_attr.shape)}; {remedy}"
    )


class _Update(nn.Module):
    """Output projection and feed-forward part, each with dropout, residual and post-norm."""

    def __init__(
        self, in_channels: int, channels: int, norms: list[str], dropout: float, residual: bool
    ) -> None:
        super().__init__()
        self.residual = residual
        self.dropout = nn.Dropout(dropout)
        self.lin_out = Linear(in_channels, channels)
        self.norm1 = nn.Sequential(*(make_norm(kind, channels) for kind in norms))
        self.feed_forward = nn.Sequential(
            Linear(channels, 2 * channels),
            nn.ReLU(),
            nn.Dropout(dropout),
            Linear(2 * channels, channels),
        )
        self.norm2 = nn.Sequential(*(make_norm(kind, channels) for kind in norms))

    def reset_parameters(self) -> None:
        reset(self)

    def forward(self, x: Tensor, message: Tensor) -> Tensor:
        """x [M, channels], message [M, H, d] with H * d = in_channels -> [M, channels]."""
        step = self.lin_out(self.dropout(message.flatten(1)))
        x = self.norm1(x + step if self.residual else step)
        step = self.feed_forward(x)
        return cast(Tensor, self.norm2(x + step if self.residual else step))
