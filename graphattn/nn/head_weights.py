"""What GIN and PNA attention share: weights of the edges, and an MLP per head."""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from graphattn.graph import CSRGraph, as_graph
from graphattn.nn.adjacency import AdjacencyTransform
from graphattn.nn.blocks import Linear, check_features, check_heads, reset
from graphattn.nn.sequences import causal_part, rotate, sequence_graph
from graphattn.ops import attention_weights, edge_scores
from graphattn.ops.checks import check_dropout

NORMALISERS = ("softmax", "relu")


class HeadMLP(nn.Module):
    """Linear, dropout, RMSNorm (optional), SiLU, Linear; one for each head, all in one product."""

    def __init__(
        self, heads: int, width: int, hidden: int, out: int, dropout: float = 0.0, norm: bool = True
    ) -> None:
        super().__init__()
        check_dropout(dropout, "mlp_dropout")
        self.dropout = dropout
        self.weight1 = nn.Parameter(torch.empty(heads, width, hidden))
        self.bias1 = nn.Parameter(torch.empty(heads, hidden))
        self.norm = nn.Parameter(torch.ones(heads, hidden)) if norm else None
        self.weight2 = nn.Parameter(torch.empty(heads, hidden, out))
        self.bias2 = nn.Parameter(torch.empty(heads, out))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values, as ``nn.Linear`` would for each head."""
        for weight, bias in ((self.weight1, self.bias1), (self.weight2, self.bias2)):
            bound = weight.shape[1] ** -0.5
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)
        if self.norm is not None:
            nn.init.ones_(self.norm)

    def forward(self, x: Tensor) -> Tensor:
        """[..., N, H, width] -> [..., N, H, out]."""
        hidden = torch.einsum("...hi,hio->...ho", x, self.weight1) + self.bias1
        hidden = F.dropout(hidden, self.dropout, self.training)
        if self.norm is not None:
            hidden = F.rms_norm(hidden, hidden.shape[-1:]) * self.norm
        return torch.einsum("...hi,hio->...ho", F.silu(hidden), self.weight2) + self.bias2


class HeadWeights(nn.Module):
    r"""The adjacency of attention, transformed, [..., E, H].

    .. math::
        \tilde A = f_\theta(\mathrm{softmax}(\alpha\, q \cdot k / \tau\sqrt d))

    With ``differential`` it is :math:`\mathrm{softmax}(L_1) - \lambda\, \mathrm{softmax}(L_2)` with
    second projections and :math:`\lambda = 0.8 - 0.6 e^{-0.3 (l - 1)}` at the start, l the layer's
    number (Ye et al., 2024).

    Args:
        channels: Width of the input.
        heads: Number of heads; divides ``channels``.
        transform: What becomes of the weights: a kind or an :class:`AdjacencyTransform`.
        normaliser: ``"softmax"``, or ``"relu"`` of the logits.
        temperature: tau.
        dropout: Of the weights, in training.
        differential: Subtract a second attention.
        layer: The layer's number from 1, for lambda.
        is_causal: Leave out edges to later nodes.
        rotary: Rotate queries and keys by node number (sequences). Both read the numbers of the
            nodes, which a sampled neighbourhood counts anew: for the full graph only.
        impl: Implementation of the kernels.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        *,
        transform: str | AdjacencyTransform = "none",
        normaliser: str = "softmax",
        temperature: float = 1.0,
        dropout: float = 0.0,
        differential: bool = False,
        layer: int = 1,
        is_causal: bool = False,
        rotary: bool = False,
        impl: str = "auto",
    ) -> None:
        super().__init__()
        check_heads(channels, heads)
        check_dropout(dropout)
        self._check(channels // heads, normaliser, temperature, differential, rotary)
        self.channels = channels
        self.heads, self.normaliser, self.dropout = heads, normaliser, dropout
        self.temperature, self.is_causal, self.rotary = temperature, is_causal, rotary
        self.impl, self.reads_positions = impl, is_causal or rotary
        kind = transform if isinstance(transform, AdjacencyTransform) else None
        self.transform = kind or AdjacencyTransform(cast(str, transform))
        self.sharpness = nn.Parameter(torch.ones(()))
        count = 2 if differential else 1
        self.lin_query = nn.ModuleList(Linear(channels, channels) for _ in range(count))
        self.lin_key = nn.ModuleList(Linear(channels, channels) for _ in range(count))
        self.mix = None
        self.first_mix = 0.8 - 0.6 * math.exp(-0.3 * (layer - 1))
        if differential:
            self.mix = nn.Parameter(torch.tensor(self.first_mix))

    def reset_parameters(self) -> None:
        """Draw new initial values for every part."""
        reset(self)
        nn.init.ones_(self.sharpness)
        if self.mix is not None:
            nn.init.constant_(self.mix, self.first_mix)

    @staticmethod
    def _check(
        width: int, normaliser: str, temperature: float, differential: bool, rotary: bool
    ) -> None:
        if normaliser not in NORMALISERS:
            raise ValueError(
                f"normaliser must be one of {', '.join(NORMALISERS)}, got {normaliser!r}"
            )
        if differential and normaliser != "softmax":
            raise ValueError("differential attention subtracts softmaxes; normaliser='softmax'")
        if not temperature > 0.0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        if rotary and width % 2:
            raise ValueError(f"rotary needs an even head width, got {width}; take other heads")

    @property
    def is_plain(self) -> bool:
        """Whether the weights are those of softmax attention, which has a fused kernel."""
        return self.transform.kind == "none" and self.normaliser == "softmax" and self.mix is None

    def graph_of(self, x: Tensor, graph: Any) -> CSRGraph:
        """The graph that is attended over; the complete or causal sequence for None."""
        if not isinstance(x, Tensor) or x.dim() < 2:
            came = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"x must be features [..., N, D], got {came}")
        check_features(x, self.channels)
        if graph is None:
            return sequence_graph(x.shape[-2], self.is_causal, x.device)
        graph = as_graph(graph, x.shape[-2])
        return causal_part(graph) if self.is_causal else graph

    def projections(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(query, key) [..., N, H, d] of each softmax; the sharpness is part of the query."""
        found = []
        for lin_query, lin_key in zip(self.lin_query, self.lin_key, strict=True):
            pair = (split_heads(lin(x), self.heads) for lin in (lin_query, lin_key))
            query, key = (rotate(t) if self.rotary else t for t in pair)
            found.append((query * (self.sharpness / self.temperature), key))
        return found

    def check_bias(self, bias: Tensor | None) -> None:
        """Raise where a bias of the edges has no place."""
        if bias is not None and self.is_causal:
            raise ValueError(
                "bias has one number per edge of the graph, and is_causal leaves some of them out; "
                "build the layer without is_causal on a graph of the edges to earlier nodes"
            )

    def forward(self, graph: CSRGraph, *pairs: Tensor, bias: Tensor | None = None) -> Tensor:
        """The adjacency [..., E, H] of (query, key, query, key ...), with dropout in training.

        ``bias`` [E] or [E, H] is added to the logits.
        """
        options: dict[str, Any] = {"impl": self.impl, "bias": bias}
        if self.normaliser == "relu":
            weight = F.relu(edge_scores(pairs[0], pairs[1], graph, **options))
        else:
            weight = attention_weights(pairs[0], pairs[1], graph, **options)
            if self.mix is not None:
                second = attention_weights(pairs[2], pairs[3], graph, **options)
                weight = weight - self.mix * second
        weight = self.transform(weight, graph)
        return F.dropout(weight, self.dropout, self.training)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[..., D] -> [..., H, D / H]."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


def recomputed(function: Callable[..., Any], *inputs: Any) -> Any:
    """``function(*inputs)`` whose intermediates are not kept: the backward pass runs it again."""
    if not torch.is_grad_enabled():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False)
