"""IsomorphicTransformer: a graph transformer whose layers are GIN or PNA attention."""

from typing import Any

from torch import nn

from graphattn.models.graph_transformer import GraphTransformer
from graphattn.nn.gin_attention import GINAttention
from graphattn.nn.pna_attention import PNAAttention

LAYERS: dict[str, type[nn.Module]] = {"gin": GINAttention, "pna": PNAAttention}


class IsomorphicTransformer(GraphTransformer):
    """Blocks ``x + GINAttention(Norm(x))`` (or PNA), ``x + FFN(Norm(x))``, on graphs with loops.

    Args:
        in_channels: Width of the node features.
        hidden_channels: Width ``D`` of the network.
        out_channels: Width of the output.
        num_layers: Number of blocks.
        heads: Attention heads; divide ``hidden_channels``.
        layer: ``"gin"`` or ``"pna"``.
        layer_options: Further arguments of :class:`graphattn.nn.GINAttention` or
            :class:`graphattn.nn.PNAAttention`, such as ``transform``.
        impl: Implementation of the kernels.
        **options: ``norm``, ``dropout``, ``residual``, ``pe_dim`` and ``pool`` of
            :class:`GraphTransformer`.

    Paper: Buehler, 2025, https://arxiv.org/abs/2501.02393.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        heads: int = 8,
        *,
        layer: str = "gin",
        layer_options: dict[str, Any] | None = None,
        impl: str = "auto",
        **options: Any,
    ) -> None:
        if layer not in LAYERS:
            raise ValueError(f"layer must be one of {', '.join(LAYERS)}, got {layer!r}")

        def make(depth: int) -> nn.Module:
            given = {"layer": depth + 1, "impl": impl} | (layer_options or {})
            return LAYERS[layer](hidden_channels, heads, **given)

        size = (in_channels, hidden_channels, out_channels, num_layers, heads)
        super().__init__(*size, make_layer=make, impl=impl, **options)
