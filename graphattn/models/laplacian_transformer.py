"""LaplacianTransformer: the networks that Dwivedi and Bresson published for ZINC and SBM graphs."""

from typing import Any, cast

from torch import Tensor, nn

from graphattn.graph import as_graph
from graphattn.models.inputs import check_pe, check_pool
from graphattn.nn.blocks import Linear, mean_pool, reset
from graphattn.nn.graph_transformer_layer import GraphTransformerLayer


class LaplacianTransformer(nn.Module):
    r"""Embedding, ten Dwivedi-Bresson layers, MLP readout ``D -> D/2 -> D/4 -> out``.

    .. math::
        h_0 = \mathrm{Emb}(x) + W_p\, pe + b_p, \quad e_0 = \mathrm{Emb}(edge\_attr)

    Args:
        node_types: Number of values of the integer node feature.
        hidden_channels: Width ``D``.
        out_channels: Width of the output.
        num_layers: Number of :class:`GraphTransformerLayer`.
        heads: Attention heads; divide ``hidden_channels``.
        edge_types: Number of values of the integer edge feature; ``None`` drops the edge path.
        pe_dim: Number of Laplacian eigenvectors; 0 for none.
        dropout: Inside the layers (published: 0).
        input_dropout: On the input: before the encoding is added where edges have types (ZINC),
            after it elsewhere (SBM), as published.
        layer_norm, batch_norm: Normalisations of the layers (published best: batch only).
        residual: Whether the layers add their input.
        pool: ``"mean"`` gives one output per graph of ``batch``; ``None`` one per node.
        impl: Implementation of the attention (see :func:`graphattn.attention`).

    The last layer has an edge path whose output nobody reads: its parameters are counted in the
    published 588,929 but not run, and get no gradient.

    Paper: Dwivedi and Bresson, 2020, https://arxiv.org/abs/2012.09699.
    """

    self_loops = False

    def __init__(
        self,
        node_types: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int = 10,
        heads: int = 8,
        *,
        edge_types: int | None = None,
        pe_dim: int = 0,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        layer_norm: bool = False,
        batch_norm: bool = True,
        residual: bool = True,
        pool: str | None = None,
        impl: str = "auto",
    ) -> None:
        super().__init__()
        check_pool(pool)
        width = hidden_channels
        self.pe_dim = pe_dim
        self.pool = pool
        self.node_embedding = nn.Embedding(node_types, width)
        self.edge_embedding = None if edge_types is None else nn.Embedding(edge_types, width)
        self.lin_pe = Linear(pe_dim, width) if pe_dim else None
        self.input_dropout = nn.Dropout(input_dropout)
        self.layers = nn.ModuleList(
            GraphTransformerLayer(
                width,
                heads,
                edge_dim=None if edge_types is None else width,
                dropout=dropout,
                layer_norm=layer_norm,
                batch_norm=batch_norm,
                residual=residual,
                impl=impl,
            )
            for _ in range(num_layers)
        )
        self.readout = nn.Sequential(
            Linear(width, width // 2),
            nn.ReLU(),
            Linear(width // 2, width // 4),
            nn.ReLU(),
            Linear(width // 4, out_channels),
        )

    @classmethod
    def zinc(cls, **options: Any) -> "LaplacianTransformer":
        """ZINC: graph regression with 28 atom and 4 bond types, k = 8; 588,929 parameters.

        ``options`` override the published arguments of this class.
        """
        published: dict[str, Any] = {"edge_types": 4, "pe_dim": 8, "pool": "mean"}
        return cls(28, 64, 1, **(published | options))

    @classmethod
    def pattern(cls, **options: Any) -> "LaplacianTransformer":
        """PATTERN: two node classes, 3 node types, k = 2; 522,982 parameters."""
        return cls(3, 80, 2, **({"pe_dim": 2} | options))

    @classmethod
    def cluster(cls, **options: Any) -> "LaplacianTransformer":
        """CLUSTER: six node classes, 7 node types, k = 10; 524,026 parameters."""
        return cls(7, 80, 6, **({"pe_dim": 10} | options))

    def reset_parameters(self) -> None:
        """Draw new initial values for every part."""
        reset(self)

    def forward(
        self,
        x: Tensor,
        graph: Any,
        pe: Tensor | None = None,
        batch: Tensor | None = None,
        edge_attr: Tensor | None = None,
    ) -> Tensor:
        """Run the network.

        Args:
            x: Integer node types ``[N]`` or ``[N, 1]``.
            graph: Anything that :func:`graphattn.as_graph` takes.
            pe: Laplacian eigenvectors ``[N, pe_dim]`` (signs flipped by the caller in training).
            batch: Graph number of each node ``[N]``; ``None`` means one graph.
            edge_attr: Integer edge types ``[E]`` or ``[E, 1]`` in the caller's edge order.

        Returns:
            ``[graphs, out_channels]`` with ``pool="mean"``, else ``[N, out_channels]``.
        """
        graph = as_graph(graph, x.shape[0])
        h = self._embed(x, pe)
        if self.edge_embedding is None:
            for layer in self.layers:
                h = layer(h, graph)
        else:
            edges = self.edge_embedding(_types("edge_attr", edge_attr))
            last = len(self.layers) - 1
            for depth, layer in enumerate(self.layers):
                h, edges = layer(h, graph, edges, need_edges=depth < last)
        return cast(Tensor, self.readout(mean_pool(h, batch) if self.pool == "mean" else h))

    def _embed(self, x: Tensor, pe: Tensor | None) -> Tensor:
        check_pe(pe, self.pe_dim)
        h = self.node_embedding(_types("x", x))
        if self.lin_pe is None or pe is None:
            return cast(Tensor, self.input_dropout(h))
        if self.edge_embedding is None:
            return cast(Tensor, self.input_dropout(h + self.lin_pe(pe.to(h.dtype))))
        return cast(Tensor, self.input_dropout(h) + self.lin_pe(pe.to(h.dtype)))


def _types(name: str, feature: Tensor | None) -> Tensor:
    """The integer feature as a vector."""
    if feature is None or feature.is_floating_point():
        came = "none" if feature is None else str(feature.dtype)
        raise TypeError(f"{name} must hold integer types [n] or [n, 1], got {came}")
    return feature.squeeze(-1) if feature.dim() == 2 else feature
