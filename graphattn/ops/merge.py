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
    parts = list(parts)
    _check_parts(parts)
    shares, total = _shares([lse for _, lse in parts])
    # Summed as precisely as the LSE is kept, whatever the parts are stored in.
    merged = torch.zeros((), dtype=total.dtype, device=total.device)
    for share, (out, _) in zip(shares, parts, strict=True):
        merged = merged + share[..., None] * out
    return merged.to(parts[0][0].dtype), total


def _check_parts(parts: list[tuple[Tensor, Tensor]]) -> None:
    if not parts:
        raise ValueError("merge needs at least one (out, lse) pair, got none")
    for number, part in enumerate(parts):
        pair = isinstance(part, tuple | list) and len(part) == 2
        if not pair or not all(isinstance(t, Tensor) for t in part):
            raise TypeError(
                "every part must be a pair of tensors (out, lse), as return_lse=True gives them, "
                f"got {type(part).__name__} for part {number}"
            )
        (first, _), (out, lse) = parts[0], part
        if out.shape[:-1] != lse.shape or out.shape != first.shape:
            raise ValueError(
                "every part must be out [..., rows, H, D] with lse [..., rows, H] of one shape, "
                f"got {list(out.shape)} and {list(lse.shape)} for part {number}, and out "
                f"{list(first.shape)} for part 0"
            )
        if {out.device, lse.device} != {first.device} or out.dtype != first.dtype:
            raise ValueError(
                f"all parts must be on one device in one dtype, got {out.dtype} on {out.device} "
                f"with lse on {lse.device} for part {number}, and {first.dtype} on {first.device} "
                "for part 0; move or cast one"
            )
        if not out.is_floating_point():
            raise TypeError(f"parts must be floating point, got {out.dtype} for part {number}")


def _shares(lses: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """What each part weighs in the union, and the union's LSE."""
    stacked = torch.stack(lses)
    empty = (stacked == -torch.inf).all(0)
    total = torch.logsumexp(torch.where(empty, torch.zeros_like(stacked), stacked), 0)
    shares = [torch.where(empty, torch.zeros_like(lse), (lse - total).exp()) for lse in lses]
    return shares, torch.where(empty, torch.full_like(total, -torch.inf), total)


def add_null_key(
    out: Tensor, lse: Tensor, null_logit: Tensor | float | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Add one key of zero value with logit ``null_logit``, and ``eps`` to the denominator."""
    if null_logit is None and eps == 0.0:
        return out, lse
    nulls = [null_logit] if null_logit is not None else []
    if eps > 0.0:
        nulls.append(lse.new_full((), eps).log())
    if null_logit is not None:
        check_null_logit(null_logit, lse)
    wide = [torch.as_tensor(n, dtype=lse.dtype, device=lse.device).expand_as(lse) for n in nulls]
    shares, total = _shares([lse, *wide])
    return (shares[0][..., None] * out).to(out.dtype), total
