"""TokenTransformer: LargeGT's local module, dense attention over a node's sampled tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphattn.nn.blocks import Linear


class TokenTransformer(nn.Module):
    r"""One pre-norm attention block over the tokens of every node, read out from the first.

    .. math::
        z &= W \, \mathrm{MLP}(s), \qquad z \leftarrow W_r z + \mathrm{MHA}(\mathrm{LN}(z)), \qquad
        z \leftarrow \mathrm{LN}(z) \\
        \alpha_p &= \mathrm{softmax}_{p \ge 1}(w^\top [z_0 \| z_p]), \qquad
        y = z_0 + \sum_{p \ge 1} \alpha_p z_p

    Each head is ``channels`` wide, so vectors have ``heads * channels`` numbers; there is no FFN.
    Token p of hop h stands at place ``p * (hops + 1) + h``; token 0 is the node itself.

    Args:
        in_channels: Width F of the features.
        channels: Width d.
        heads: Number of heads H.
        dropout: Inside the MLP.
        block_dropout: After the attention and after the block.

    Works on one row per distinct (node, hop) of a batch: features are projected once, however
    often a node is a token, and the MLP's dropout is drawn per row. The attention is torch's fused
    one: no matrix of tokens x tokens is kept. Memory O(b K H d).
    Paper: Dwivedi et al., 2023, https://arxiv.org/abs/2312.11109; readout: NAGphormer.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        heads: int = 2,
        *,
        dropout: float = 0.5,
        block_dropout: float = 0.3,
    ) -> None:
        super().__init__()
        wide = heads * channels
        self.heads, self.block_dropout = heads, block_dropout
        self.mlp = nn.Sequential(
            Linear(in_channels, channels),
            nn.ReLU(),
            nn.Dropout(dropout),
            Linear(channels, channels),
            Linear(channels, channels),
        )
        self.norm_in, self.norm_out = nn.LayerNorm(channels), nn.LayerNorm(wide)
        self.lin_query, self.lin_key, self.lin_value = (Linear(channels, wide) for _ in range(3))
        self.lin_out, self.lin_skip = Linear(wide, wide), Linear(channels, wide)
        self.lin_read = Linear(2 * wide, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw every linear weight from N(0, 0.02^2), as published; biases are 0."""
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)
            elif isinstance(part, nn.LayerNorm):
                part.reset_parameters()

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Read every node from its tokens.

        Args:
            features: Distinct rows ``[U, hops + 1, F]``: X, ÂX, Â²X, ... of U nodes.
            tokens: Places ``[b, K]`` in 0 .. U - 1; column 0 is the node itself.

        Returns:
            ``[b, heads * channels]``.
        """
        z = self.mlp(features)[tokens].flatten(1, 2)  # [b, K (hops + 1), d]
        normed = self.norm_in(z)
        query, key, value = (
            lin(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for lin in (self.lin_query, self.lin_key, self.lin_value)
        )
        found = F.scaled_dot_product_attention(query, key, value)
        step = self.lin_out(found.transpose(1, 2).flatten(2))
        z = self.lin_skip(z) + F.dropout(step, self.block_dropout, self.training)
        z = self.norm_out(F.dropout(z, self.block_dropout, self.training))
        return self._read(z)

    def _read(self, z: Tensor) -> Tensor:
        """z_0 and the weighed others; with one token alone, z_0."""
        first, others = z[:, 0], z[:, 1:]
        if others.shape[1] == 0:
            return first
        own, other = self.lin_read.weight.chunk(2, dim=1)
        logits = others @ other.t() + (first @ own.t()).unsqueeze(1) + self.lin_read.bias
        return first + (torch.softmax(logits, 1) * others).sum(1)
