"""PNAAttention: several reductions of an attention-weighted neighbourhood, then an MLP per head."""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from graphattn.graph import CSRGraph
from graphattn.nn.blocks import Linear, reset
from graphattn.nn.head_weights import HeadMLP, HeadWeights, recomputed, split_heads
from graphattn.ops import aggregate, message_aggregate
from graphattn.ops._dispatch import resolve
from graphattn.ops.top_m import top_m_bits

SCALERS = ("identity", "amplification", "attenuation")
VARIANTS = ("pna", "pna-lm")
# Far below every value, and finite, so that its products with 0 are 0.
_NOWHERE = -1e30


def _entries(x: Tensor, inner: int) -> Tensor:
    """All dimensions but the last ``inner`` as one, also where there is nothing to count."""
    return x.reshape(math.prod(x.shape[:-inner]), *x.shape[-inner:])


class PNAAttention(nn.Module):
    r"""Sum, mean, maximum and variance of the neighbours, weighted by attention.

    .. math::
        s_i = \sum_j \tilde A_{ij} v_j, \quad d_i = \sum_j \tilde A_{ij}, \quad \mu_i = s_i / d_i,
        \quad \sigma^2_i = \sum_j \tilde A_{ij} (v_j - \mu_i)^2 / d_i

    .. math::
        Y^h_i = \mathrm{MLP}_h\big[s_i \,\|\, \mu_i \,\|\, \max_{j:\, \tilde A_{ij} > 0} v_j
        \,\|\, \max(\sigma_i^2, 0)\big], \qquad x'_i = W_O\, \|_h Y^h_i

    A degree :math:`d_i` of 0 counts as 1, and the maximum over nothing is 0. Variant ``"pna-lm"``
    has :math:`[\mu \| v_{\mathrm{longest}} \| \sigma^2 \| v_{\mathrm{shortest}}]`, the vectors of
    largest and smallest norm among :math:`\tilde A_{ij} > \theta`; where there is none, the
    node's own. ``scalers`` multiply all of it by 1, :math:`\log(n_i + 1) / \delta` or its inverse,
    n the number of neighbours (Corso et al., 2020), side by side.

    Args:
        channels: Width ``D`` of input and output.
        heads: Number of heads; divides ``channels``.
        transform: Kind of :class:`AdjacencyTransform`, or one.
        variant: ``"pna"`` or ``"pna-lm"``.
        scalers: Any of ``"identity"``, ``"amplification"``, ``"attenuation"``.
        delta: Mean of log(n + 1) over the training graphs, for the scalers.
        mlp_ratio: Hidden width of ``MLP_h`` over the head width.
        **options: ``normaliser``, ``temperature``, ``dropout``, ``differential``, ``layer``,
            ``is_causal``, ``rotary``, ``impl`` of :class:`HeadWeights`.

    Memory O(N D + E H): weights live as long as a pass, and are computed anew in backward.
    Paper: Buehler, 2025, https://arxiv.org/abs/2501.02393.

    Example:
        >>> layer = PNAAttention(16, heads=2)
        >>> layer(torch.randn(3, 16), torch.tensor([[0, 1], [1, 2]])).shape
        torch.Size([3, 16])
    """

    def __init__(
        self,
        channels: int,
        heads: int = 1,
        *,
        transform: Any = "none",
        variant: str = "pna",
        scalers: Sequence[str] = ("identity",),
        delta: float = 1.0,
        mlp_ratio: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
        if isinstance(scalers, str) or not scalers or set(scalers) - set(SCALERS):
            came = repr(scalers) if isinstance(scalers, str) else list(scalers)
            raise ValueError(f"scalers must be a sequence of {', '.join(SCALERS)}, got {came}")
        if not delta > 0.0:
            raise ValueError(f"delta must be positive, got {delta}")
        self.channels, self.heads, self.variant = channels, heads, variant
        self.scalers, self.delta = tuple(scalers), delta
        self.weights = HeadWeights(channels, heads, transform=transform, **options)
        width = channels // heads
        hidden = max(int(mlp_ratio * width), 1)
        self.lin_value = Linear(channels, channels)
        parts = 4 * len(self.scalers) * width
        self.mlp = HeadMLP(heads, parts, hidden, width, norm=False)
        self.lin_out = Linear(channels, channels)

    def reset_parameters(self) -> None:
        """Draw new initial values for every part."""
        reset(self)

    def forward(self, x: Tensor, graph: Any = None, bias: Tensor | None = None) -> Tensor:
        """Run the layer: x ``[..., N, D]`` -> ``[..., N, D]``.

        ``graph`` and ``bias`` as in GINAttention; the bias is finite: the maximum is over all edges
        of softmax attention.
        """
        self.weights.check_bias(bias)
        graph = self.weights.graph_of(x, graph)
        value = split_heads(self.lin_value(x), self.heads)
        pairs = [t for pair in self.weights.projections(x) for t in pair]

        def reduce(value: Tensor, *pairs: Tensor) -> Tensor:
            return self._reduce(value, self.weights(graph, *pairs, bias=bias), graph)

        found = recomputed(reduce, value, *pairs)
        if self.scalers != ("identity",):
            found = torch.cat([found * by for by in self._scale(graph, found)], -1)
        return cast(Tensor, self.lin_out(self.mlp(found).flatten(-2)))

    def _reduce(self, value: Tensor, weight: Tensor, graph: CSRGraph) -> Tensor:
        """The four reductions side by side, [..., N, H, 4 d]."""
        options: dict[str, Any] = {"heads": True, "impl": self.weights.impl}
        weight = weight.to(value.dtype)
        total = aggregate(value, graph, weight, **options)
        degree = aggregate(torch.ones_like(value[..., :1]), graph, weight, **options)
        degree = torch.where(degree == 0.0, 1.0, degree)
        mean = total / degree
        spread = message_aggregate(-mean, value, graph, weight, activation="square", **options)
        variance = (spread / degree).clamp(min=0.0)
        if self.variant == "pna":
            return torch.cat([total, mean, self._largest(value, weight, graph), variance], -1)
        allowed = weight > self.weights.transform.threshold.to(weight.dtype)
        if self.weights.transform.kind == "none":
            allowed = weight > 0.0
        norm = value.detach().norm(dim=-1).index_select(-2, graph.edge_index()[0])
        longest = self._pick(value, norm, allowed, graph)
        shortest = self._pick(value, -norm, allowed, graph)
        return torch.cat([mean, longest, variance, shortest], -1)

    def _largest(self, value: Tensor, weight: Tensor, graph: CSRGraph) -> Tensor:
        """Maximum over the edges of positive weight; 0 where a row and head has none.

        Softmax without dropout is positive; a weight so small that it rounds to 0 counts too.
        """
        impl = self.weights.impl
        if self.weights.is_plain and not (self.training and self.weights.dropout):
            return aggregate(value, graph, reduce="max", heads=True, impl=impl)
        # An edge feature per head pushes what does not count out of reach.
        # That is beyond float16, whose numbers are widened here as the kernels widen them.
        kind = torch.float32 if value.dtype == torch.float16 else value.dtype
        heads, width = value.shape[-2:]
        proj = torch.eye(heads, dtype=kind, device=value.device)
        proj = proj[:, None, :].expand(heads, width, heads)
        shift = torch.where(weight.detach() > 0.0, 0.0, _NOWHERE).to(kind)
        flat, shifts = _entries(value.to(kind), 3), _entries(shift, 2)
        nothing = torch.zeros_like(flat[0])
        best = torch.stack(
            [
                message_aggregate(
                    nothing, one, graph, reduce="max", edge_attr=by, edge_proj=proj, heads=True,
                    impl=impl,
                )
                for one, by in zip(flat, shifts, strict=True)
            ]
        ).view_as(value)  # fmt: skip
        return torch.where(best < 0.5 * _NOWHERE, 0.0, best).to(value.dtype)

    def _pick(self, value: Tensor, norm: Tensor, allowed: Tensor, graph: CSRGraph) -> Tensor:
        """The neighbour of largest ``norm`` among those allowed; the node itself without any."""
        impl = self.weights.impl
        scores = torch.where(allowed, norm.to(torch.float32), -torch.inf)
        bits = top_m_bits(_entries(scores, 2), graph, 1, resolve(impl, value.device))
        bits = bits.view(*scores.shape[:-1], bits.shape[-1])
        head = torch.arange(self.heads, device=value.device)
        chosen = ((bits[..., head // 32] >> (head % 32)) & 1) != 0
        chosen = (chosen & allowed).to(value.dtype)
        found = aggregate(value, graph, chosen, heads=True, impl=impl)
        ones = torch.ones_like(value[..., :1])
        some = aggregate(ones, graph, chosen, heads=True, impl=impl)
        return torch.where(some > 0.0, found, value)

    def _scale(self, graph: CSRGraph, like: Tensor) -> list[Tensor]:
        """The factor of every node [N, 1, 1] for each scaler; an empty row's attenuation is 0."""
        log = (graph.degree() + 1).to(like.dtype).log()[:, None, None]
        inverse = torch.where(log > 0.0, self.delta / torch.where(log > 0.0, log, 1.0), 0.0)
        known = {"identity": torch.ones_like(log), "amplification": log / self.delta}
        known["attenuation"] = inverse
        return [known[name] for name in self.scalers]

    def __repr__(self) -> str:
        kind = self.weights.transform.kind
        return f"{type(self).__name__}({self.channels}, heads={self.heads}, transform={kind!r})"
