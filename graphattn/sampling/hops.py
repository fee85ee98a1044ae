"""Hop features: every node's features averaged over one, two, ... hops."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphattn.ops import aggregate
from graphattn.sampling.checks import directed
from graphattn.sampling.neighbor import graph_of
from graphattn.sampling.tokens import merged


def hop_features(
    graph: Any,
    x: Tensor,
    hops: int = 2,
    *,
    direction: str = "in",
    legacy_norm: bool = False,
    impl: str = "auto",
) -> list[Tensor]:
    r"""``[X, ÂX, Â²X, ...]``, the contexts of LargeGT's tokens and NAGphormer's tokens themselves.

    .. math:: \hat A = D_r^{-1/2} B D_c^{-1/2}, \qquad B = A + I

    with :math:`D_r, D_c` the row and column sums of B. Its spectral norm is at most 1, for
    directed graphs too.

    Args:
        graph: Anything :class:`NeighborSampler` takes; duplicate edges are merged first.
        x: Features ``[N, F]``.
        hops: Number of products.
        direction: Whose features a node averages, as :class:`TokenSampler`.
        legacy_norm: Exchange the two degree vectors as LargeGT's code does: the same on undirected
            graphs; on directed ones the norm can exceed 1.
        impl: Of :func:`graphattn.aggregate`.

    Returns:
        ``hops + 1`` tensors ``[N, F]``.
    """
    followed = merged(directed(graph_of(graph), direction))
    if x.dim() != 2 or x.shape[0] != followed.num_rows:
        raise ValueError(
            f"x must be features [{followed.num_rows}, F] of the graph's nodes, got {list(x.shape)}"
        )
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    columns = torch.bincount(followed.indices, minlength=followed.num_rows)
    scales = [(degree + 1).to(kind).rsqrt().unsqueeze(1) for degree in (followed.degree(), columns)]
    left, right = reversed(scales) if legacy_norm else scales
    found = [x.to(kind)]
    for _ in range(hops):
        scaled = found[-1] * right
        total = aggregate(scaled, followed, impl=impl)
        assert isinstance(total, Tensor)
        found.append((total + scaled) * left)
    return found
