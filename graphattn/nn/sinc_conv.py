"""SINCConv: messages that know the whole neighbourhood (SINC-GCN), and SIR-GCN without it."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphattn.graph import CSRGraph, as_graph
from graphattn.graph.kept import once_per_graph, per_node
from graphattn.kernels.reference.message import ACTIVATIONS
from graphattn.nn.blocks import Linear, check_nodes, reset
from graphattn.ops import aggregate, message_aggregate
from graphattn.ops.checks import check_dropout, check_edge_tensor

REDUCTIONS = ("sum", "mean", "sym", "max")


class SINCConv(nn.Module):
    r"""Reduce :math:`\varphi` of the node's, the neighbour's and the neighbourhood's part.

    .. math::
        c_u = \bigotimes_{w \in N(u)} h_w, \qquad
        h'_u = W_R \bigoplus_{v \in N(u)} \varphi(W_Q h_u + b_Q + W_N c_u + W_K h_v) + b_R

    Both reductions are ``"sum"``, ``"mean"``, ``"max"`` or ``"sym"``, a sum weighted by
    :math:`(\deg_{out}(v) \deg_{in}(u))^{-1/2}`. With ``"max"`` the outer map :math:`W_R x + b_R`
    stays inside the maximum and is computed for every edge. A node without neighbours has
    :math:`h'_u = b_R` (0 for ``"max"``).

    Args:
        in_channels: Width of ``h``.
        hidden_channels: Width of the messages.
        out_channels: Width of the output.
        activation: phi: a name that :func:`graphattn.message_aggregate` knows.
        slope: Of ``"leaky_relu"``.
        aggr: The outer reduction of messages.
        context: The inner reduction of features; ``None`` is SIR-GCN, without :math:`W_N`.
        dropout: Of each of the three projections, in training.
        impl: Implementation of the kernels (see :func:`graphattn.attention`).

    Memory O(N hidden + E); with ``aggr="max"`` also O(E hidden) and as much work per edge as a
    linear map. Papers: Lim, 2025, https://arxiv.org/abs/2511.11046 (SINC-GCN) and 2024,
    https://arxiv.org/abs/2403.12529 (SIR-GCN).

    Example:
        >>> conv = SINCConv(16, 8, 4)
        >>> conv(torch.randn(3, 16), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        activation: str = "leaky_relu",
        slope: float = 0.2,
        aggr: str = "mean",
        context: str | None = "sym",
        dropout: float = 0.0,
        impl: str = "auto",
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("aggr", aggr, REDUCTIONS),
            ("context", context, (*REDUCTIONS, None)),
            ("activation", activation, tuple(ACTIVATIONS)),
        ):
            if value not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(map(str, known))}, got {value!r}"
                )
        check_dropout(dropout)
        self.activation, self.slope = activation, slope
        self.aggr, self.context, self.dropout, self.impl = aggr, context, dropout, impl
        self.lin_query = Linear(in_channels, hidden_channels)
        self.lin_key = Linear(in_channels, hidden_channels, bias=False)
        self.lin_context = None
        if context is not None:
            self.lin_context = Linear(in_channels, hidden_channels, bias=False)
        self.lin_out = Linear(hidden_channels, out_channels)

    def reset_parameters(self) -> None:
        """Draw new initial values for every part."""
        reset(self)

    def forward(self, x: Tensor, edge_index: Any, edge_weight: Tensor | None = None) -> Tensor:
        """Run the layer.

        Args:
            x: Node features ``[N, in_channels]``.
            edge_index: Anything that :func:`graphattn.as_graph` takes; no self-loops are added.
            edge_weight: Factor of every edge's message and of its part of the neighbourhood,
                ``[E]`` in the caller's order; degrees do not change with it.

        Returns:
            ``[N, out_channels]``.
        """
        check_nodes(x, self.lin_query.in_features)
        graph = as_graph(edge_index, x.shape[0])
        if edge_weight is not None:
            check_edge_tensor("edge_weight", edge_weight, graph, (graph.num_edges,))
        own = F.dropout(self.lin_query(x), self.dropout, self.training)
        near = F.dropout(self.lin_key(x), self.dropout, self.training)
        if self.lin_context is not None:
            found = self.lin_context(self._neighbourhood(x, graph, edge_weight))
            own = own + F.dropout(found, self.dropout, self.training)
        if self.aggr == "max":
            return self._largest(own, near, graph, edge_weight)
        return cast(Tensor, self.lin_out(self._reduce(own, near, graph, edge_weight)))

    def _neighbourhood(self, x: Tensor, graph: CSRGraph, edge_weight: Tensor | None) -> Tensor:
        how = _weighted_sum(str(self.context), graph, edge_weight, x.dtype)
        return cast(Tensor, aggregate(x, graph, heads=False, impl=self.impl, **how))

    def _reduce(
        self, own: Tensor, near: Tensor, graph: CSRGraph, edge_weight: Tensor | None
    ) -> Tensor:
        options: dict[str, Any] = {"activation": self.activation, "slope": self.slope}
        options |= _weighted_sum(self.aggr, graph, edge_weight, own.dtype)
        found = message_aggregate(own, near, graph, heads=False, impl=self.impl, **options)
        return cast(Tensor, found)

    def _largest(
        self, own: Tensor, near: Tensor, graph: CSRGraph, edge_weight: Tensor | None
    ) -> Tensor:
        """Maximum of W_R phi + b_R, edge by edge."""
        position = torch.arange(graph.num_edges, device=own.device)
        apart = CSRGraph._trusted(graph.indptr, position, graph.num_edges, None)
        before = own[graph.row_index()] + near[graph.indices]
        message = self.lin_out(ACTIVATIONS[self.activation](before, self.slope))
        if edge_weight is not None:
            order = graph.edge_perm
            edge_weight = edge_weight if order is None else edge_weight[order]
            message = edge_weight[:, None].to(message.dtype) * message
        return aggregate(message, apart, reduce="max", heads=False, impl=self.impl)

    def __repr__(self) -> str:
        sizes = f"{self.lin_query.in_features}, {self.lin_query.out_features}"
        options = f"aggr={self.aggr!r}, context={self.context!r}"
        return f"{type(self).__name__}({sizes}, {self.lin_out.out_features}, {options})"


def _weighted_sum(
    how: str, graph: CSRGraph, edge_weight: Tensor | None, dtype: torch.dtype
) -> dict[str, Any]:
    """A reduction of ``REDUCTIONS`` as an operator's ``reduce`` and ``weight``."""
    if how != "sym":
        return {"reduce": how, "weight": edge_weight}
    root = once_per_graph(graph, "root degrees", dtype, _root_weights)
    return {"reduce": "sum", "weight": root if edge_weight is None else root * edge_weight}


def _root_weights(graph: CSRGraph, dtype: torch.dtype) -> Tensor:
    """(deg_out(v) deg_in(u))^-1/2 of every edge, [E], degrees at least 1.

    A number per edge: scaling the features before and after costs four arrays of their size.
    """
    source, target = per_node(graph, "root degrees per node", dtype, _root_degrees).unbind(1)
    weight = source.index_select(0, graph.indices) * target.repeat_interleave(graph.degree())
    if graph.edge_perm is None:
        return weight
    return torch.empty_like(weight).index_copy(0, graph.edge_perm, weight)


def _root_degrees(graph: CSRGraph, dtype: torch.dtype) -> Tensor:
    """(deg_out, deg_in)^-1/2 of every node, [N, 2], degrees at least 1."""
    if torch.compiler.is_compiling():  # which cannot know the size of a bincount
        leaving = graph.t().degree()
    else:  # of a mapped graph, the transpose would be in memory
        leaving = torch.bincount(graph.indices, minlength=graph.num_cols)
    sides = torch.stack([leaving, graph.degree()], 1)
    return sides.clamp(min=1).to(dtype).rsqrt()
