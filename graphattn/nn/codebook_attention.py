"""CodebookAttention: attention over all nodes through a codebook that follows them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphattn.graph.checks import check_places
from graphattn.nn.blocks import Linear, reset
from graphattn.nn.sums import gathered, summed

_EPS = 1e-5
_BLOCK = 4096  # rows compared with all codes at a time


class CodebookAttention(nn.Module):
    r"""Every node attends to B centroids that stand for all N nodes: O(B) per node, not O(N).

    With :math:`u_i = [x_i \| pos_i]`, codes M (running means of the normalised u of the nodes
    assigned to them), M' the codes in u's own scale, and :math:`c_b` the number of nodes whose
    code is b:

    .. math::
        o_i = \sum_b \mathrm{softmax}_b \Big( \frac{\langle W_q u_i, W_k M'_b \rangle}{\sqrt d}
              + \log c_b \Big) \, W_v M'_b[:F]

    The count makes it attention over all nodes, each replaced by its centroid. In training every
    call ends with one step of the running means (decay 0.99) and assigns the nodes of the batch.

    Args:
        channels: Width F of ``x``.
        pe_dim: Width of ``pos``; 0 for none.
        head_dim: Width d of a head.
        heads: Number of heads H.
        num_nodes: N, for the assignments.
        num_codes: B.
        decay: Of counts and sums.
        reseed: Codes whose running count falls below this part of the mean count move to a random
            node of the batch; 0 never moves one.
        legacy_init: Start as published: random sums with zero counts, random assignments, no
            re-seeding and the smoothed count stored back. Most codes then die within a few steps;
            for parity only.

    Codes start at random nodes (:meth:`start`, or the first training batch). Assignments of nodes
    outside training batches are refreshed by :meth:`assign`. In a process group the statistics are
    those of all ranks' rows, so all hold the same codes. Memory O(B (F + d H) + N).
    Paper: Kong et al., 2023 (GOAT), https://proceedings.mlr.press/v202/kong23a.html.

    Example:
        >>> layer = CodebookAttention(8, 4, head_dim=16, heads=2, num_nodes=100, num_codes=10)
        >>> layer(torch.randn(20, 8), torch.randn(20, 4), torch.arange(20)).shape
        torch.Size([20, 32])
    """

    codes: Tensor
    codes_out: Tensor
    counts: Tensor
    sums: Tensor
    sizes: Tensor
    assignment: Tensor
    mean: Tensor
    var: Tensor
    started: Tensor

    def __init__(
        self,
        channels: int,
        pe_dim: int,
        *,
        head_dim: int,
        heads: int,
        num_nodes: int,
        num_codes: int = 4096,
        decay: float = 0.99,
        reseed: float = 0.1,
        legacy_init: bool = False,
    ) -> None:
        super().__init__()
        if num_nodes < 1 or num_codes < 1:
            raise ValueError(
                f"num_nodes and num_codes must be at least 1, got {num_nodes} and {num_codes}"
            )
        if heads < 1 or head_dim < 1:
            raise ValueError(f"heads and head_dim must be at least 1, got {heads} and {head_dim}")
        if not 0.0 <= decay <= 1.0:
            raise ValueError(
                f"decay is the part of the old statistics that stays, in [0, 1], got {decay}; "
                "published is 0.99"
            )
        if not reseed >= 0.0:
            raise ValueError(f"reseed must be at least 0, which moves no code, got {reseed}")
        self.channels, self.heads, self.head_dim = channels, heads, head_dim
        self.num_codes, self.decay, self.reseed = num_codes, decay, reseed
        self.legacy_init = legacy_init
        width = channels + pe_dim
        self.lin_query = Linear(width, heads * head_dim)
        self.lin_key = Linear(width, heads * head_dim)
        self.lin_value = Linear(channels, heads * head_dim)
        for name in ("codes", "codes_out", "sums"):
            self.register_buffer(name, torch.empty(num_codes, width))
        self.register_buffer("counts", torch.empty(num_codes))
        self.register_buffer("sizes", torch.empty(num_codes, dtype=torch.int64))
        small = torch.int16 if num_codes <= 2**15 else torch.int32
        self.register_buffer("assignment", torch.empty(num_nodes, dtype=small))
        self.register_buffer("mean", torch.empty(width))
        self.register_buffer("var", torch.empty(width))
        self.register_buffer("started", torch.empty((), dtype=torch.bool))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights and forget the codes."""
        reset(self)
        with torch.no_grad():
            for codes in (self.codes, self.codes_out, self.sums):
                codes.normal_()
            self.counts.fill_(0.0 if self.legacy_init else 1.0)
            self.mean.zero_()
            self.var.fill_(1.0)
            self.started.fill_(self.legacy_init)
            self.assignment.random_(0, self.num_codes)
            self._count_all()

    def forward(self, x: Tensor, pos: Tensor | None, nodes: Tensor) -> Tensor:
        """Attend, and in training let the codes follow.

        Args:
            x: ``[n, F]``.
            pos: ``[n, pe_dim]``; ``None`` with ``pe_dim=0``.
            nodes: Number of each row in the graph ``[n]``.

        Returns:
            ``[n, H * d]``.

        Raises:
            TypeError: ``nodes`` that are not integers.
            ValueError: Other widths than built for, not one node per row, a node out of range, or
                a training batch without rows.
        """
        u = self._joined(x, pos, nodes)
        if self.training and not bool(self.started):
            self.start(gathered(u.detach()))
        out = self.attend(u)
        if self.training:
            self.update(u.detach(), nodes)
        return out

    def attend(self, u: Tensor) -> Tensor:
        """Attention of rows ``u`` [n, F + pe_dim] over the codes -> [n, H * d]."""
        split = (self.heads, self.head_dim)
        kept = self.codes_out.to(u.dtype, copy=True)  # update() follows before backward
        query, key, value = (
            part.unflatten(-1, split).transpose(0, 1).unsqueeze(0)
            for part in (
                self.lin_query(u),
                self.lin_key(kept),
                self.lin_value(kept[:, : self.channels]),
            )
        )
        prior = self.sizes.to(query.dtype).log()
        mask = prior.view(1, 1, 1, -1).expand(1, 1, len(u), -1)
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return found.squeeze(0).transpose(0, 1).flatten(1)

    @torch.no_grad()
    def start(self, u: Tensor) -> None:
        """Put every code on a random row of ``u`` [n, F + pe_dim]; fewer rows than codes repeat.

        In a process group every rank must call it with the same rows; they take rank 0's choice.

        Raises:
            ValueError: No rows.
        """
        _check_some(u)
        u = u.detach().to(self.codes.dtype)
        self._set_moments(u, 1.0)
        rows = torch.randperm(len(u)).repeat(-(-self.num_codes // len(u)))[: self.num_codes]
        codes = self._normalised(u)[rows.to(u.device)]
        repeated = torch.arange(self.num_codes, device=u.device) >= len(u)
        codes = codes + 0.05 * repeated.unsqueeze(1) * torch.randn_like(codes)
        self.codes.copy_(summed(codes, from_rank_0=True))
        self.sums.copy_(self.codes)
        self.counts.fill_(1.0)
        self._write_out()
        self.started.fill_(True)

    @torch.no_grad()
    def update(self, u: Tensor, nodes: Tensor) -> None:
        """One step of the running means with the rows of a training batch."""
        u, nodes = gathered(u.to(self.codes.dtype)), gathered(nodes)
        _check_some(u)
        self._set_moments(u, 0.1)
        moved = self._normalised(u, batch=True)
        code = self._nearest(moved)
        self._assign(nodes, code)
        hist = torch.bincount(code, minlength=self.num_codes).to(self.counts.dtype)
        total = torch.zeros_like(self.sums).index_add_(0, code, moved)
        self.counts.mul_(self.decay).add_(hist, alpha=1 - self.decay)
        self.sums.mul_(self.decay).add_(total, alpha=1 - self.decay)
        all_counts = self.counts.sum()
        smooth = (self.counts + _EPS) / (all_counts + self.num_codes * _EPS) * all_counts
        if self.legacy_init:
            self.counts.copy_(smooth)
        self.codes.copy_(self.sums / smooth.unsqueeze(1))
        if self.reseed > 0 and not self.legacy_init:
            self._reseed(moved)
        self._write_out()

    @torch.no_grad()
    def assign(self, x: Tensor, pos: Tensor | None, nodes: Tensor) -> None:
        """Give ``nodes`` [n] their nearest codes without moving these: for nodes out of training.

        Every rank must call it with the same rows.
        """
        u = self._joined(x, pos, nodes).to(self.codes.dtype)
        self._assign(nodes, self._nearest(self._normalised(u)))

    def used(self) -> int:
        """Codes that some node is assigned to."""
        return int((self.sizes > 0).sum())

    def _joined(self, x: Tensor, pos: Tensor | None, nodes: Tensor) -> Tensor:
        u = x if pos is None else torch.cat([x, pos.to(x.dtype)], dim=-1)
        if u.shape[-1] != self.codes.shape[1]:
            raise ValueError(
                f"x and pos must be {self.codes.shape[1]} wide together (channels={self.channels} "
                f"and pe_dim={self.codes.shape[1] - self.channels}), got {u.shape[-1]}"
            )
        if nodes.shape != u.shape[:1]:
            raise ValueError(
                f"nodes must hold the number of every row of x, [{len(u)}], got "
                f"{list(nodes.shape)}; take those that x was read for"
            )
        size = self.assignment.numel()
        check_places(nodes, size, "nodes", f"the layer was built with num_nodes={size}")
        return u

    def _set_moments(self, u: Tensor, momentum: float) -> None:
        """Batch mean and variance, and their running values."""
        var, mean = torch.var_mean(u, 0, correction=0)
        count = len(u)
        self._moments = mean, var
        unbiased = var * (count / max(count - 1, 1))
        self.mean.lerp_(mean, momentum)
        self.var.lerp_(unbiased, momentum)

    def _normalised(self, u: Tensor, batch: bool = False) -> Tensor:
        """By the moments of the batch, as batch normalisation does in training, or running."""
        mean, var = self._moments if batch else (self.mean, self.var)
        return (u - mean) / (var + _EPS).sqrt()

    def _nearest(self, u: Tensor) -> Tensor:
        """Nearest code of every row, in blocks; ties go to the lower code."""
        half = (self.codes**2).sum(1) / 2
        found = [torch.argmin(half - rows @ self.codes.t(), 1) for rows in torch.split(u, _BLOCK)]
        return torch.cat(found)

    def _assign(self, nodes: Tensor, code: Tensor) -> None:
        """Store the codes of nodes and keep the sizes in step."""
        last = _last_of_each(nodes)
        nodes, code = nodes[last], code[last]
        self.sizes += torch.bincount(code, minlength=self.num_codes)
        self.sizes -= torch.bincount(self.assignment[nodes].long(), minlength=self.num_codes)
        self.assignment[nodes] = code.to(self.assignment.dtype)

    def _count_all(self) -> None:
        if self.assignment.is_meta:  # a model that is only measured has no nodes to count
            return
        self.sizes.copy_(torch.bincount(self.assignment, minlength=self.num_codes))

    def _reseed(self, u: Tensor) -> None:
        """Move codes with few followers to random rows of the batch (of rank 0's)."""
        dead = self.counts < self.reseed * self.counts.mean()
        rows = torch.randint(0, len(u), (self.num_codes,)).to(u.device)
        fresh = summed(u[rows], from_rank_0=True)
        mean = self.counts.mean()
        self.codes.copy_(torch.where(dead.unsqueeze(1), fresh, self.codes))
        self.counts.copy_(torch.where(dead, mean, self.counts))
        self.sums.copy_(torch.where(dead.unsqueeze(1), fresh * mean, self.sums))

    def _write_out(self) -> None:
        self.codes_out.copy_(self.codes * (self.var + _EPS).sqrt() + self.mean)

    def __repr__(self) -> str:
        return f"CodebookAttention({self.channels}, heads={self.heads}, num_codes={self.num_codes})"


def _check_some(u: Tensor) -> None:
    if not len(u):
        raise ValueError("codes follow the rows of a training batch, got none; skip empty batches")


def _last_of_each(nodes: Tensor) -> Tensor:
    """Places of distinct nodes: of repeated ones the last."""
    ordered, place = torch.sort(nodes, stable=True)
    last = torch.ones_like(ordered, dtype=torch.bool)
    last[:-1] = ordered[1:] != ordered[:-1]
    return place[last]
