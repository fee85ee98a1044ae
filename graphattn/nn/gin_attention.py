"""GINAttention: attention whose weighted neighbourhood goes through a GIN's update."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphattn.nn.blocks import JoinHeads, Linear, reset
from graphattn.nn.head_weights import HeadMLP, HeadWeights, recomputed
from graphattn.ops import aggregate, attention


class GINAttention(nn.Module):
    r"""Sum the raw neighbours with attention's weights, then an MLP per head.

    .. math::
        Y^h_i = \mathrm{MLP}_h\Big(\epsilon_h x^h_i + \sum_j \tilde A^h_{ij} x^h_j\Big)

    :math:`x^h` is the h-th slice of the input, without a value projection; :math:`\tilde A` as in
    :class:`HeadWeights`. ``MLP_h`` is Linear, dropout, RMSNorm, SiLU, Linear. A node without
    neighbours keeps ``MLP_h(eps x)``.

    Args:
        channels: Width ``D`` of input and output.
        heads: Number of heads; divides ``channels``.
        transform: Kind of :class:`AdjacencyTransform`, or one.
        eps: Start of :math:`\epsilon_h`; 0 is published, 1 the textbook's.
        mlp_ratio: Hidden width of ``MLP_h`` over the head width; 0 leaves the MLP out.
        mlp_dropout: Inside ``MLP_h``.
        out_proj: Whether a linear map mixes the heads at the end.
        head_norm: With ``differential``: RMSNorm of every head's sum, times one minus lambda's
            start (Ye et al., 2024). Normalising the weights themselves, as the published code can,
            would let a row see later ones.
        **options: ``normaliser``, ``temperature``, ``dropout``, ``differential``, ``layer``,
            ``is_causal``, ``rotary``, ``impl`` of :class:`HeadWeights`.

    Memory O(N D + E): weights [E, H] live as long as a pass, and are computed anew in backward.
    Paper: Buehler, 2025, https://arxiv.org/abs/2501.02393.

    Example:
        >>> layer = GINAttention(16, heads=2, is_causal=True)
        >>> layer(torch.randn(5, 16)).shape
        torch.Size([5, 16])
    """

    def __init__(
        self,
        channels: int,
        heads: int = 1,
        *,
        transform: Any = "none",
        eps: float = 0.0,
        mlp_ratio: float = 0.5,
        mlp_dropout: float = 0.1,
        out_proj: bool = False,
        head_norm: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        if head_norm and not options.get("differential", False):
            raise ValueError("head_norm is that of differential attention; set differential=True")
        if mlp_ratio < 0.0:
            raise ValueError(f"mlp_ratio must be at least 0 (no MLP), got {mlp_ratio}")
        self.channels, self.heads = channels, heads
        self.first_eps = eps
        self.weights = HeadWeights(channels, heads, transform=transform, **options)
        width = channels // heads
        hidden = max(int(mlp_ratio * width), 1)
        self.eps = nn.Parameter(torch.full((heads,), float(eps)))
        mlp = HeadMLP(heads, width, hidden, width, mlp_dropout) if mlp_ratio > 0 else nn.Identity()
        self.mlp = mlp
        self.head_norm = head_norm
        self.join = JoinHeads(heads)
        self.lin_out = Linear(channels, channels) if out_proj else nn.Identity()

    def reset_parameters(self) -> None:
        """Draw new initial values for every part."""
        reset(self)
        nn.init.constant_(self.eps, self.first_eps)

    def forward(self, x: Tensor, graph: Any = None, bias: Tensor | None = None) -> Tensor:
        """Run the layer.

        Args:
            x: Features ``[..., N, D]``; leading dimensions share the graph.
            graph: Anything that :func:`graphattn.as_graph` takes; None means that x is a sequence,
                where everyone attends to all, or to the past with ``is_causal``.
            bias: Added to the logits, ``[E]`` or ``[E, H]``; not with ``is_causal``.

        Returns:
            ``[..., N, D]``.

        Raises:
            ValueError: ``x`` or ``bias`` does not fit the graph or the layer.
        """
        self.weights.check_bias(bias)
        graph = self.weights.graph_of(x, graph)
        value = self.join.split(x)
        pairs = [t for pair in self.weights.projections(x) for t in pair]
        if self.weights.is_plain:
            dropout_p = self.weights.dropout if self.training else 0.0
            options: dict[str, Any] = {"dropout_p": dropout_p, "bias": bias}
            options |= {"impl": self.weights.impl}
            total = attention(pairs[0], pairs[1], value, graph, **options)
        else:

            def mix(value: Tensor, *pairs: Tensor) -> Tensor:
                weight = self.weights(graph, *pairs, bias=bias)
                return aggregate(value, graph, weight, heads=True, impl=self.weights.impl)

            total = recomputed(mix, value, *pairs)
        if self.head_norm:
            total = F.rms_norm(total, total.shape[-1:]) * (1.0 - self.weights.first_mix)
        out = self.join(self.mlp(self.eps[:, None] * value + total))
        return cast(Tensor, self.lin_out(out))

    def __repr__(self) -> str:
        kind = self.weights.transform.kind
        more = ", head_norm=True" if self.head_norm else ""
        return (
            f"{type(self).__name__}({self.channels}, heads={self.heads}, transform={kind!r}{more})"
        )
