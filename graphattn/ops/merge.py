"""merge: combine attention over disjoint key sets by their log-sum-exp."""

from collections.abc import Sequence

import torch
from torch import Tensor

from graphattn.ops.checks import check_null_logit


def merge(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    r"""Attention over the union of key sets from attention over each of them.

    .. math::
        \mathrm{lse} = \log \sum_p e^{\mathrm{lse}_p}, \qquad
        o = \sum_p e^{\mathrm{lse}_p - \mathrm{lse}}\, o_p

    Args:
        parts: Pairs ``(out [..., rows, H, D], lse [..., rows, H])`` as
            ``attention(..., return_lse=True)`` returns them.

    Returns:
        ``(out, lse)`` of the union; rows that are empty in every part give 0 and ``-inf``.
        Differentiable in both; exact to rounding.
    """
    if not parts:
        raise ValueError("merge needs at least one (out, lse) pair, got none")
    for out, lse in parts:
        if out.shape[:-1] != lse.shape or out.shape != parts[0][0].shape:
            raise ValueError(
                "every part must be out [..., rows, H, D] with lse [..., rows, H] of one shape, "
                f"got {list(out.shape)} and {list(lse.shape)}"
            )
    stacked = torch.stack([lse for _, lse in parts])
    empty = (stacked == -torch.inf).all(0)
    total = torch.logsumexp(torch.where(empty, torch.zeros_like(stacked), stacked), 0)
    merged = torch.zeros_like(parts[0][0])
    for out, lse in parts:
        share = torch.where(empty, torch.zeros_like(lse), (lse - total).exp())
        merged = merged + (share[..., None] * out).to(out.dtype)
    return merged, torch.where(empty, torch.full_like(total, -torch.inf), total)


def add_null_key(
    out: Tensor, lse: Tensor, null_logit: Tensor | float | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Add one key of zero value with logit ``null_logit``, and ``eps`` to the denominator."""
    if null_logit is None and eps == 0.0:
        return out, lse
    parts = [(out, lse)]
    nulls = [null_logit] if null_logit is not None else []
    if eps > 0.0:
        nulls.append(lse.new_full((), eps).log())
    if null_logit is not None:
        check_null_logit(null_logit, lse)
    for null in nulls:
        logit = torch.as_tensor(null, dtype=lse.dtype, device=lse.device).expand_as(lse)
        parts.append((torch.zeros_like(out), logit))
    return merge(parts)
