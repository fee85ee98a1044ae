"""SparseGINAdapter: a GIN over the strongest attention edges beside a frozen attention layer."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphattn.graph import CSRGraph
from graphattn.nn.blocks import Linear, check_features, reset
from graphattn.ops import aggregate
from graphattn.ops.checks import check_dropout

COMBINE = ("sum", "mean", "max", "mlp")


class SparseGINAdapter(nn.Module):
    r"""Add a GIN over the edges that a frozen attention layer finds strong to what it returns.

    .. math::
        S = \sigma(a\,(\min(\textstyle\sum_h A^h, 1) - \theta)), \quad
        S \leftarrow S\, [S > \mathrm{cut}], \quad
        z_i = \epsilon x_i + \sum_j S_{ij} x_j, \quad x = P_{in} h

    .. math::
        x' = W_2\, \mathrm{prelu}(W_1 z) + z, \qquad
        \mathrm{out} \leftarrow \mathrm{out} +
        \lambda\, \mathrm{RMSNorm}(P_{out}\, \mathrm{drop}(\mathrm{prelu}(x')))

    h is the layer's input plus its output, as the residual of a transformer makes it: in blocks
    that normalise first, the input of attention is the normalised one, so wrap a module that holds
    the norm as well (examples/07_sparse_gin_adapter.py). Row i gathers from the positions j that i
    attends to; an edge survives where the summed attention exceeds
    :math:`\theta + \ln(\mathrm{cut} / (1 - \mathrm{cut})) / a`, 0.1405 at the defaults. The
    published code turns the edges round and so keeps the diagonal alone: ``self_only`` is that.
    The choice of edges has no gradient; the surviving weights have. With ``scale=0`` the output is
    that of the frozen layer, bit for bit.

    Args:
        layer: Any module that returns ``(output [B, T, D], ..., weights [B, H, T, T] or
            [B, T, T], ...)``: Hugging Face attention with ``output_attentions`` (and
            ``attn_implementation="eager"``), ``nn.MultiheadAttention`` (batch first; asked for its
            weights). Its parameters are frozen. ``None`` for :meth:`graft` alone.
        channels: Width ``D``.
        hidden: Width of the GIN.
        heads: Heads of the layer; for ``combine="mlp"`` alone.
        threshold: theta, in [0, 1].
        steepness: a.
        cut: Weights up to this are no edges, in [0.5, 1): below, all pairs would be.
        combine: How heads become one: ``"sum"`` (at most 1), ``"mean"``, ``"max"`` over heads, or a
            learned ``"mlp"``.
        eps: Start of epsilon.
        scale: Start of lambda; see :func:`depth_scales`.
        weighted: Use S as weights of the sum; else 1.
        self_only: Keep the diagonal alone.
        remove_self: Drop the diagonal.
        is_causal: Keep j <= i alone.
        norm: LayerNorm before the inner activation.
        dropout: Before ``P_out``.

    Memory: the attention that the layer returns, [B, H, T, T], and O(B T hidden + edges).
    Paper: Buehler, 2025, https://arxiv.org/abs/2501.02393.
    """

    def __init__(
        self,
        layer: nn.Module | None,
        channels: int,
        *,
        hidden: int = 155,
        heads: int = 1,
        threshold: float = 0.1,
        steepness: float = 10.0,
        cut: float = 0.6,
        combine: str = "sum",
        eps: float = 0.0,
        scale: float = 0.0,
        weighted: bool = True,
        self_only: bool = False,
        remove_self: bool = False,
        is_causal: bool = True,
        norm: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        _check(threshold, steepness, cut, combine, self_only, remove_self)
        check_dropout(dropout)
        if isinstance(layer, nn.MultiheadAttention) and not layer.batch_first:
            raise ValueError(
                "expected nn.MultiheadAttention(batch_first=True), got batch_first=False; make it "
                "anew and load its state dict, which is the same"
            )
        self.layer = layer
        if layer is not None:
            layer.requires_grad_(False)
        self.threshold, self.steepness, self.cut, self.combine = threshold, steepness, cut, combine
        self.weighted, self.is_causal = weighted, is_causal
        self.self_only, self.remove_self, self.dropout = self_only, remove_self, dropout
        self.first = {"eps": eps, "scale": scale}
        self.mix = nn.Sequential(Linear(heads, 8), nn.SiLU(), Linear(8, 1))
        self.mix = self.mix if combine == "mlp" else cast(Any, nn.Identity())
        self.lin_in = Linear(channels, hidden)
        self.lin1, self.lin2 = Linear(hidden, hidden), Linear(hidden, hidden)
        self.inner = nn.Sequential(nn.LayerNorm(hidden) if norm else nn.Identity(), nn.PReLU())
        self.outer = nn.PReLU()
        self.lin_out = Linear(hidden, channels)
        self.norm = nn.RMSNorm(channels)
        self.eps, self.scale = nn.Parameter(torch.tensor(eps)), nn.Parameter(torch.tensor(scale))

    def __getattr__(self, name: str) -> Any:
        """What the adapter lacks, the layer has: blocks read its ``batch_first`` and the like."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            layer = self._modules.get("layer")
            if layer is None:
                raise
            return getattr(layer, name)

    @property
    def _qkv_same_embed_dim(self) -> bool:
        # torch's encoder layers ask before they run fused code that would pass by the adapter.
        return False

    def reset_parameters(self) -> None:
        """Draw new initial values for the adapter; the frozen layer stays."""
        layer, self.layer = self.layer, None
        reset(self)
        self.layer = layer
        nn.init.constant_(self.eps, self.first["eps"])
        nn.init.constant_(self.scale, self.first["scale"])

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Call the layer, and return what it returns with the adapter's part in its output.

        Raises:
            ValueError: the layer returned no attention weights, or the adapter has no layer.
        """
        if self.layer is None:
            raise ValueError("this adapter wraps no layer; call graft(h, attention) instead")
        if isinstance(self.layer, nn.MultiheadAttention):
            options |= {"need_weights": True, "average_attn_weights": False}
        found = self.layer(*inputs, **options)
        given = inputs[0] if inputs else options.get("hidden_states", options.get("query"))
        output, attention = _output_and_weights(found, type(self.layer).__name__)
        h = output if given is None else given + output
        return (output + self.graft(h, attention), *found[1:])

    def graft(self, h: Tensor, attention: Tensor) -> Tensor:
        """What is added to the output: h ``[B, T, D]``, attention ``[B, (H,) T, T]``."""
        if attention.dim() == 3:
            attention = attention.unsqueeze(1)
        check_features(h, self.lin_in.in_features)
        wanted = (h.shape[0], h.shape[1], h.shape[1])
        if h.dim() != 3 or (attention.shape[0], *attention.shape[2:]) != wanted:
            raise ValueError(
                "expected h [B, T, D] and attention [B, T, T] or [B, H, T, T] of the same B and T, "
                f"got {list(h.shape)} and {list(attention.shape)}"
            )
        graph, weight = self.edges(attention)
        x = self.lin_in(h).flatten(0, 1)
        total = aggregate(x, graph, weight.to(x.dtype) if self.weighted else None, heads=False)
        z = self.eps * x + total
        x = self.lin2(self.inner(self.lin1(z))) + z
        x = F.dropout(self.outer(x), self.dropout, self.training)
        return cast(Tensor, self.scale * self.norm(self.lin_out(x)).view_as(h))

    def edges(self, attention: Tensor) -> tuple[CSRGraph, Tensor]:
        """The graph of all sequences side by side, and its weights S, [E] in row-major order."""
        strength = self._combined(attention.detach())
        strength = torch.sigmoid(self.steepness * (strength - self.threshold))
        batch, length, _ = strength.shape
        row, column = (torch.arange(length, device=strength.device) for _ in range(2))
        allowed = row[:, None] >= column if self.is_causal else torch.ones_like(strength[0] > 0)
        diagonal = row[:, None] == column
        if self.self_only:
            allowed = diagonal
        elif self.remove_self:
            allowed = allowed & ~diagonal
        kept = (strength > self.cut) & allowed
        counts = kept.sum(-1).flatten()
        indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        sequence, _, place = kept.nonzero().unbind(1)
        columns = (sequence * length + place).to(torch.int32)
        graph = CSRGraph._trusted(indptr, columns, batch * length, None)
        return graph, strength[kept]

    def _combined(self, attention: Tensor) -> Tensor:
        """Heads [B, H, T, T] as one [B, T, T]."""
        if self.combine == "mean":
            return attention.mean(1)
        if self.combine == "max":
            return attention.amax(1)
        if self.combine == "mlp":
            if attention.shape[1] != self.mix[0].in_features:
                raise ValueError(
                    f"expected attention of {self.mix[0].in_features} heads, got "
                    f"{attention.shape[1]}; make the adapter with heads={attention.shape[1]}"
                )
            mixed: Tensor = self.mix(attention.movedim(1, -1).to(self.eps.dtype))
            # The MLP has its own idea of 0; pairs that do not attend are no edges all the same.
            return mixed.squeeze(-1).sigmoid() * (attention.amax(1) > 0.0)
        return attention.sum(1).clamp(max=1.0)


def depth_scales(count: int, last: float = 0.5) -> list[float]:
    """Starts of lambda for ``count`` layers: linear in depth, from 0 to ``last``."""
    return [last * depth / max(count - 1, 1) for depth in range(count)]


def _check(
    threshold: float,
    steepness: float,
    cut: float,
    combine: str,
    self_only: bool,
    remove_self: bool,
) -> None:
    if not 0.0 <= threshold <= 1.0:
        raise ValueError(f"threshold must lie in [0, 1], as attention does, got {threshold}")
    if not steepness > 0.0:
        raise ValueError(f"steepness must be positive, got {steepness}")
    if not 0.5 <= cut < 1.0:
        raise ValueError(
            f"cut must lie in [0.5, 1), got {cut}: sigmoid(a (0 - theta)) stays below 0.5, so that "
            "pairs that do not attend are no edges"
        )
    if combine not in COMBINE:
        raise ValueError(f"combine must be one of {', '.join(COMBINE)}, got {combine!r}")
    if self_only and remove_self:
        raise ValueError("self_only and remove_self leave no edge at all; choose one")


def _output_and_weights(found: Any, name: str) -> tuple[Tensor, Tensor]:
    """Output and attention of what a layer returned: the first tensor with a square end."""
    parts = list(found) if isinstance(found, tuple | list) else [found]
    if isinstance(parts[0], Tensor) and parts[0].dim() == 3:
        length = parts[0].shape[1]
        for part in parts[1:]:
            square = isinstance(part, Tensor) and part.shape[-2:] == (length, length)
            if square and part.dim() in (3, 4):
                return parts[0], part
    came = ", ".join(
        str(list(p.shape)) if isinstance(p, Tensor) else type(p).__name__ for p in parts
    )
    raise ValueError(
        f"{name} must return (output [B, T, D], weights [B, H, T, T], ...), got ({came}); "
        "ask for them: output_attentions=True with attn_implementation='eager' (Hugging Face), "
        "need_weights=True and batch_first=True (torch)"
    )
