"""What the attention kernels take and give beside query, key, value and the graph."""

from typing import NamedTuple

from torch import Tensor

from graphattn.kernels.grid import spell_out
from graphattn.kernels.layout import Layout


class Score(NamedTuple):
    """How strongly an edge counts: what makes up its logit, and which weights survive.

    logit = clamp(scale * sum_c q_c k_c gate_c + sum_f edge_query_f edge_attr_f) + bias.

    Edge tensors are in the caller's order. ``bias`` is [E], [E, H], or a table [H, T] that
    ``bias_index`` [E] (int32 or int64) looks up, which is empty where the relative positions of a
    grid's edges are the index; ``gate`` [E, H, Dk]; ``edge_attr`` [E, F] meets
    ``edge_query`` [B, R, H, F]. ``mask`` int32 [B, E, ceil(H / 32)]: bit ``h % 32`` of word
    ``h // 32`` says whether the edge exists for head h. ``streams`` [B * H, 2] int64 seed the
    dropout hash.

    With ``att`` [H, Dk] the score is additive: sum_c att_c phi(q_c + k_c) in place of the products,
    where phi is ``activation``, by a name of kernels/reference/message.py, with its ``slope``. The
    CPU's kernels know it, without bias, gate and edge features.
    """

    scale: float = 1.0
    clamp: float | None = None
    bias: Tensor | None = None
    bias_index: Tensor | None = None
    gate: Tensor | None = None
    edge_attr: Tensor | None = None
    edge_query: Tensor | None = None
    mask: Tensor | None = None
    dropout_p: float = 0.0
    streams: Tensor | None = None
    att: Tensor | None = None
    activation: str = ""
    slope: float = 0.0

    @property
    def plain(self) -> bool:
        """Whether there are no tensors in it."""
        _, _, bias, index, gate, edge_attr, edge_query, mask, _, streams, att, _, _ = self
        return bias is index is gate is edge_attr is edge_query is mask is streams is att is None

    def check_additive(self, products: bool) -> None:
        """Raise if an additive score has terms that its kernels would not read."""
        others = (self.bias, self.gate, self.edge_attr)
        if self.att is not None and (products or any(tensor is not None for tensor in others)):
            raise ValueError("additive scores take no bias, gate, edge features or products")

    def spelled_out(self, rows: Layout) -> "Score":
        """With the index written down [E] that a grid implies; ``rows``: its layout by rows."""
        if rows.tables is None or not is_implied(self.bias_index):
            return self
        return self._replace(bias_index=spell_out(rows.tables[0])[2])


def is_implied(index: Tensor | None) -> bool:
    """Whether a bias table is looked up by relative position, with no index."""
    return index is not None and index.shape[0] == 0


class Results(NamedTuple):
    """What attention returns, or the gradients of it; None where it was not asked for.

    out [B, R, H, Dv] and lse [B, R, H]; edge_out [B, R, H, F] = sum_j w_ij edge_attr_ij;
    gated [B, E, H, Dk] = scale * q * k * gate and scores [B, E, H], the logits, in the caller's
    edge order. Without a value there are scores in place of out, lse and edge_out.
    """

    out: Tensor | None = None
    lse: Tensor | None = None
    edge_out: Tensor | None = None
    gated: Tensor | None = None
    scores: Tensor | None = None


class Gradients(NamedTuple):
    """Gradients of the inputs; None where they were not needed."""

    query: Tensor
    key: Tensor
    value: Tensor | None
    bias: Tensor | None
    gate: Tensor | None
    edge_attr: Tensor | None
    edge_query: Tensor | None
    att: Tensor | None = None
