"""LargeGT: sampled two-hop tokens beside attention over a codebook of the whole graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from graphattn.graph.checks import check_places
from graphattn.models.inputs import check_pe
from graphattn.nn.blocks import Linear, make_norm, reset
from graphattn.nn.codebook_attention import CodebookAttention
from graphattn.nn.token_transformer import TokenTransformer

VARIANTS = ("local", "global", "full")
_BLOCK = 8192


class LargeGT(nn.Module):
    r"""One layer whose batches need two hops, whatever the size of the graph.

    Local: :class:`TokenTransformer` on tokens of :class:`graphattn.sampling.TokenSampler` with
    features of up to two hops. Global: :class:`CodebookAttention` on
    :math:`[W_p \mathrm{MLP}(x) \| pe]`. Both are concatenated and pass two layers
    ``Linear, norm, ReLU, dropout`` and a linear classifier.

    Args:
        in_channels: Width F of the features.
        hidden_channels: Width d; each head is d wide.
        out_channels: Outputs per node.
        num_layers: 1, as published.
        heads: Heads of both attentions (published: 2).
        num_nodes: Nodes of the graph, for the codebook's assignments.
        variant: ``"local"`` (reads no ``pe``), ``"global"`` (GOAT's global model) or ``"full"``.
        norm: In the MLPs. Published is ``"batch"``, whose running averages lag behind codes that
            still move: after few steps evaluation can fail where training does not. ``"layer"``
            keeps none.
        dropout: In the MLPs (published 0.5).
        block_dropout: In the local block (published 0.3).
        pe_dim: Width of the positional encoding; any tensor serves (published: node2vec).
        global_dim: Width of the features' part of a code.
        num_codes: B.
        legacy_init: See :class:`CodebookAttention`.

    Trained in batches only: :attr:`batched` is "tokens", and :meth:`refresh` is to be called
    between epochs. With one token per node the local module is NAGphormer's on the node's hops.
    Paper: Dwivedi et al., 2023, https://arxiv.org/abs/2312.11109.
    """

    batched = "tokens"
    per_node = True
    refresh_every = 1

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int = 1,
        heads: int = 2,
        *,
        num_nodes: int,
        variant: str = "full",
        norm: str = "batch",
        dropout: float = 0.5,
        block_dropout: float = 0.3,
        pe_dim: int = 0,
        global_dim: int = 64,
        num_codes: int = 4096,
        legacy_init: bool = False,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
        if heads < 1 or hidden_channels < 1:
            raise ValueError(
                f"heads and hidden_channels must be at least 1, got {heads} and {hidden_channels}; "
                "published are 2 heads"
            )
        if num_layers != 1:
            raise ValueError(f"LargeGT has one layer, got {num_layers}; set num_layers=1")
        self.variant, self.pe_dim = variant, pe_dim
        d, wide = hidden_channels, heads * hidden_channels
        self.local = self.mlp = self.codebook = None
        if variant != "global":
            self.local = TokenTransformer(
                in_channels, d, heads, dropout=dropout, block_dropout=block_dropout
            )
        if variant != "local":
            self.mlp = nn.Sequential(
                Linear(in_channels, d), make_norm(norm, d), nn.ReLU(), nn.Dropout(dropout),
                Linear(d, d), Linear(d, global_dim),
            )  # fmt: skip
            codes = {"num_nodes": num_nodes, "num_codes": min(num_codes, num_nodes)}
            self.codebook = CodebookAttention(
                global_dim, pe_dim, head_dim=d, heads=heads, legacy_init=legacy_init, **codes
            )
        widths = [wide * (2 if variant == "full" else 1), wide, d]
        parts = [
            nn.Sequential(Linear(a, b), make_norm(norm, b), nn.ReLU(), nn.Dropout(dropout))
            for a, b in zip(widths, widths[1:], strict=False)
        ]
        self.head = nn.Sequential(*parts, Linear(d, out_channels))

    def reset_parameters(self) -> None:
        """Draw new initial values for every part."""
        reset(self)

    def forward(self, features: Tensor, tokens: Tensor, pe: Tensor | None, nodes: Tensor) -> Tensor:
        """Outputs of a batch of nodes.

        Args:
            features: ``[U, hops + 1, F]``: X and its hop features of the distinct tokens.
            tokens: Places in ``features`` ``[b, K]``; column 0 is the node itself.
            pe: Positional encoding of the nodes ``[b, pe_dim]``.
            nodes: Their numbers in the graph ``[b]``; variant "local" does not read them.

        Returns:
            ``[b, out_channels]``.

        Raises:
            TypeError: Tokens or nodes that are not integers.
            ValueError: A token or node out of range, or another number of nodes than of tokens.
        """
        self._check(features, tokens, nodes)
        parts = []
        if self.local is not None:
            parts.append(self.local(features, tokens))
        if self.mlp is not None and self.codebook is not None:
            check_pe(pe, self.pe_dim)
            parts.append(self.codebook(self.mlp(features[tokens[:, 0], 0]), pe, nodes))
        return cast(Tensor, self.head(torch.cat(parts, dim=1)))

    def _check(self, features: Tensor, tokens: Tensor, nodes: Tensor) -> None:
        if tokens.dim() != 2 or not tokens.shape[1] or nodes.shape != tokens.shape[:1]:
            raise ValueError(
                f"tokens must be [b, K] with K >= 1 and nodes [b], got {list(tokens.shape)} and "
                f"{list(nodes.shape)}; column 0 of a TokenSampler's tokens are the nodes"
            )
        remedy = "tokens are places in features: torch.unique(..., return_inverse=True)"
        check_places(tokens, len(features), "tokens", remedy)

    @torch.no_grad()
    def refresh(
        self, num_nodes: int, read: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    ) -> None:
        """Assign all nodes to the codes, read in order; the first call also starts the codes.

        Memory: of a block of nodes, whatever their number.

        Args:
            num_nodes: N.
            read: ``read(nodes)`` gives their features ``[n, F]`` and encoding.
        """
        if self.mlp is None or self.codebook is None:
            return
        was_training = self.training
        self.eval()
        if not bool(self.codebook.started):
            count = min(num_nodes, 8 * self.codebook.num_codes)
            x, pe = read(_some_nodes(num_nodes, count))
            u = self.mlp(x)
            self.codebook.start(u if pe is None else torch.cat([u, pe.to(u.dtype)], 1))
        for first in range(0, num_nodes, _BLOCK):
            nodes = torch.arange(first, min(first + _BLOCK, num_nodes))
            x, pe = read(nodes)
            self.codebook.assign(self.mlp(x), pe, nodes.to(x.device))
        self.train(was_training)


def _some_nodes(num_nodes: int, count: int) -> Tensor:
    """``count`` distinct nodes in ascending order, without a permutation of all of them."""
    if 4 * count > num_nodes:
        return torch.randperm(num_nodes)[:count].sort().values
    found = torch.randint(num_nodes, (2 * count,)).unique()
    chosen: Tensor = found[torch.randperm(len(found))[:count]].sort().values
    return chosen
