"""TopMAttention: every node attends to the m nodes that a learned vector finds most relevant."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphattn.encodings.checks import check_batch
from graphattn.graph import CSRGraph
from graphattn.nn.blocks import Linear, check_heads, check_nodes, mean_pool, reset
from graphattn.ops import attention, shared_key_attention
from graphattn.ops.top_m import check_m

FORMS = ("attention", "pooled")
GATES = ("sigmoid", "straight-through", "none")
BLOCK_NUMBERS = 2**18
"""Numbers of a block of rows that are worked on together."""


class TopMAttention(nn.Module):
    r"""Global attention over the m nodes whose features lie closest to a learned vector.

    .. math::
        s_v = \cos(\mathrm{relu}(x_v), a), \qquad T = \mathrm{top}_m(s), \qquad
        z_v = \sum_{t \in T} \mathrm{softmax}_t(q_v \cdot k_t / \sqrt d)\, \gamma_t v_t

    Form ``"pooled"`` gives all nodes the mean of one transformer block over :math:`\gamma_t x_t`.
    The choice itself has no gradient; the gate :math:`\gamma_t` is :math:`\sigma(s_t)`
    (``"sigmoid"``), or 1 with the gradient of :math:`s_t` (``"straight-through"``), so that the
    vector a learns; ``"none"`` leaves it as it is. Ties go to the lower node. Where there are
    fewer than m nodes all are chosen, and the first form is full attention.

    Args:
        channels: Width ``D`` of input and output.
        heads: Number of heads; divides ``channels``.
        m: Nodes that are attended to, at least 1.
        form: ``"attention"`` or ``"pooled"``.
        gate: ``"sigmoid"``, ``"straight-through"`` or ``"none"``.
        dropout: Of the pooled form's block.

    Cost O(N (D + m D)) and, pooled, O(N D + m^2 D); memory O(N D), never N x N or N x m. With
    ``batch`` each graph has its own m nodes, and memory is O(N (D + m)).
    Paper: E et al., 2024, https://arxiv.org/abs/2411.15458 (TANGNN).

    Example:
        >>> layer = TopMAttention(16, heads=2, m=4)
        >>> layer(torch.randn(30, 16)).shape
        torch.Size([30, 16])
    """

    def __init__(
        self,
        channels: int,
        heads: int = 1,
        m: int = 20,
        *,
        form: str = "attention",
        gate: str = "sigmoid",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_heads(channels, heads)
        check_m(m)
        for name, value, known in (("form", form, FORMS), ("gate", gate, GATES)):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        self.channels, self.heads, self.m, self.form, self.gate = channels, heads, m, form, gate
        self.vector = nn.Parameter(torch.empty(channels), requires_grad=gate != "none")
        if form == "attention":
            self.lin_query = Linear(channels, channels)
            self.lin_key = Linear(channels, channels)
            self.lin_value = Linear(channels, channels)
            self.lin_out = Linear(channels, channels)
        else:
            self.block = _PooledBlock(channels, heads, dropout)
        nn.init.normal_(self.vector)

    def reset_parameters(self) -> None:
        """Draw new initial values for every part."""
        reset(self)
        nn.init.normal_(self.vector)

    def forward(self, x: Tensor, batch: Tensor | None = None) -> Tensor:
        """Run the layer.

        Args:
            x: Node features ``[N, D]``.
            batch: Graph number of each node ``[N]``; None means one graph.

        Returns:
            ``[N, D]``. Without nodes nothing is chosen.
        """
        check_nodes(x, self.channels)
        with torch.no_grad():
            scores = torch.cat([self.scores(x[rows]) for rows in _blocks(x)])
        chosen, owner = self.choose(scores, batch)
        # The choice has no gradient, so that only the chosen nodes' scores need one.
        near = x[chosen]
        gate = self._gate(self.scores(near))[:, None]
        if self.form == "pooled":
            return self._pooled(near * gate, owner, batch, x.shape[0])
        key, value = self._split(self.lin_key(near)), self._split(self.lin_value(near) * gate)
        if batch is not None and owner is not None:
            query = self._split(self.lin_query(x))
            found = attention(query, key, value, _own_tokens(owner, batch))
            return cast(Tensor, self.lin_out(found.flatten(1)))
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._attend(x, key, value)
        first, *others = _blocks(x)
        found = self._attend(x[first], key, value)
        out = found.new_empty(x.shape)
        out[first] = found
        for rows in others:
            out[rows] = self._attend(x[rows], key, value)
        return out

    def _attend(self, x: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query = self._split(self.lin_query(x))
        return cast(Tensor, self.lin_out(shared_key_attention(query, key, value).flatten(1)))

    def scores(self, x: Tensor) -> Tensor:
        """Cosine of relu(x) and the vector, [N]."""
        return F.cosine_similarity(F.relu(x), self.vector.to(x.dtype)[None], dim=1)

    def choose(self, scores: Tensor, batch: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The nodes of largest score in ascending order, and with a batch their graphs."""
        scores = scores.detach()
        if batch is None:
            return _largest(scores, self.m), None
        check_batch(batch, scores.shape[0])
        best = scores.argsort(descending=True, stable=True)
        order = best[batch[best].argsort(stable=True)]
        place = torch.arange(order.numel(), device=scores.device)
        first = torch.searchsorted(batch[order].contiguous(), batch[order])
        chosen = order[place - first < self.m].sort().values
        return chosen, batch[chosen]

    @torch.no_grad()
    def turn_away(self, x: Tensor) -> None:
        """Turn the vector away from the mean node and normalise it: the published update."""
        mean = x.mean(0)
        self.vector.copy_(F.normalize(self.vector - (self.vector @ mean) * mean, dim=0))

    def _gate(self, scores: Tensor) -> Tensor:
        if self.gate == "sigmoid":
            return scores.sigmoid()
        if self.gate == "straight-through":
            return 1.0 + scores - scores.detach()
        return torch.ones_like(scores)

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], self.heads, x.shape[1] // self.heads)

    def _pooled(
        self, tokens: Tensor, owner: Tensor | None, batch: Tensor | None, count: int
    ) -> Tensor:
        found: Tensor = self.block(tokens, owner)
        if owner is None or batch is None:
            return found.mean(0, keepdim=True).expand(count, -1)
        means = mean_pool(found, owner, check_batch(batch, batch.numel()))
        return means[batch]

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.channels}, heads={self.heads}, m={self.m}, "
            f"form={self.form!r}, gate={self.gate!r})"
        )


class _PooledBlock(nn.Module):
    """A post-norm transformer block over few tokens [T, D], each graph's among themselves."""

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.lin_in = Linear(channels, 3 * channels)
        self.lin_out = Linear(channels, channels)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)
        self.feed_forward = nn.Sequential(
            Linear(channels, 4 * channels),
            nn.ReLU(),
            nn.Dropout(dropout),
            Linear(4 * channels, channels),
        )

    def forward(self, x: Tensor, owner: Tensor | None) -> Tensor:
        """tokens [T, D], their graphs [T] -> [T, D]."""
        query, key, value = self.lin_in(x).unflatten(1, (3, self.heads, -1)).unbind(1)
        if owner is None:
            found = shared_key_attention(query, key, value)
        else:
            found = attention(query, key, value, _own_tokens(owner, owner))
        x = self.norm1(x + self.dropout(self.lin_out(found.flatten(1))))
        return cast(Tensor, self.norm2(x + self.dropout(self.feed_forward(x))))


def _blocks(x: Tensor) -> list[slice]:
    """Rows in blocks whose intermediate results are written again and again in the same place.

    Of all rows at once, each of them would be fresh memory, whose pages cost more than the work.
    """
    count = x.shape[0]
    step = max(count if torch.compiler.is_compiling() else BLOCK_NUMBERS // max(x.shape[1], 1), 1)
    return [slice(first, first + step) for first in range(0, max(count, 1), step)]


def _largest(scores: Tensor, m: int) -> Tensor:
    """Indices of the m largest, ties by lower index, ascending; linear in their number.

    NaN counts as the largest, as sorting has it, so that it shows in the result.
    """
    count = scores.shape[0]
    if m >= count:
        return torch.arange(count, device=scores.device)
    scores = scores.nan_to_num(nan=torch.inf)
    least = scores.topk(m).values[-1]
    above = scores > least
    level = (scores == least).cumsum(0) * (scores == least)
    kept = above | ((level > 0) & (level <= m - above.sum()))
    return kept.nonzero().squeeze(1)


def _own_tokens(owner: Tensor, batch: Tensor) -> CSRGraph:
    """Rows: nodes of graphs ``batch``; columns: tokens of graphs ``owner``, those of its graph."""
    order = owner.argsort(stable=True)
    sizes = torch.bincount(owner, minlength=check_batch(batch, batch.numel()))
    first = sizes.cumsum(0) - sizes
    counts = sizes[batch]
    indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    row = torch.arange(batch.numel(), device=batch.device).repeat_interleave(counts)
    place = torch.arange(row.numel(), device=batch.device) - indptr[row] + first[batch[row]]
    return CSRGraph(indptr, order[place], owner.numel())
