"""Counter-based dropout: the definition of which edges are kept."""

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF


def keep_mask(streams: Tensor, edges: Tensor, dropout_p: float) -> Tensor:
    """Which weights survive: a hash of (stream, edge id) against the dropout probability.

    streams [S, 2] int64, two 32-bit words per (batch, head); edges [E] caller's edge ids ->
    [E, S] bool. Stateless: the same from rows and from columns, in forward and in backward.
    """
    edge = edges.to(torch.int64)[:, None]
    first, second = streams[:, 0], streams[:, 1]
    x = (edge & _WORD) ^ (((edge >> 32) * 0x9E3779B1) & _WORD) ^ first
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _WORD
    x = x ^ (x >> 15)
    x = (x + second) & _WORD
    x = (x * 0x846CA68B) & _WORD
    x = x ^ (x >> 16)
    return x >= int(dropout_p * 2**32)
