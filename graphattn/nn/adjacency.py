"""Transforms of attention weights into an adjacency: thresholds, steps and the best of each row."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphattn.graph import CSRGraph

Smooth = Callable[[Tensor, float], Tensor]

# Of A - theta and the steepness beta.
_SMOOTH: dict[str, Smooth] = {
    "relu": lambda z, _: F.relu(z),
    "silu": lambda z, _: F.silu(z),
    "softplus": lambda z, _: F.softplus(z),
    "sharp-softplus": lambda z, beta: F.softplus(beta * z) / beta,
    "sigmoid": lambda z, beta: torch.sigmoid(beta * z),
}
_MIXED = ("flow", "silu+binary", "relu-below", "silu-below", "sigmoid-below")
HARD = ("binary", "top-k", "causal-top-k")
TRANSFORMS = ("none", *_SMOOTH, *_MIXED, *HARD)


class AdjacencyTransform(nn.Module):
    r"""Turn attention weights :math:`A_{ij}` into :math:`f_\theta(A)_{ij}`, on the same edges.

    =====================  ============================================  =======================
    kind                   formula                                       gradient to the weights
    =====================  ============================================  =======================
    ``none``               A                                             exact
    ``relu``, ``silu``,    g(A - theta)                                  exact
    ``softplus``
    ``sharp-softplus``     softplus(beta (A - theta)) / beta             exact
    ``sigmoid``            sigmoid(beta (A - theta))                     exact
    ``flow``               sigmoid(5 A) sigmoid(50 (A - theta))          exact
    ``silu+binary``        silu(A - theta) + gain 1[A > theta]           of the silu; 0 of the step
    ``*-below``            g(A - theta) up to theta, 1 above             of g below, 0 above
    ``binary``             1[A > theta]                                  none, or straight through
    ``top-k``              1 on max(floor(share n), 1) largest of a row  none, or straight through
    ``causal-top-k``       1 on the ceil(share p) largest of the p       none, or straight through
                           edges j < i that exceed theta
    =====================  ============================================  =======================

    n counts a row's edges, p those to earlier nodes. Weights of 0, which masks leave, are never
    selected; ties go to the lower column, then to the lower edge id. "Straight through" passes the
    gradient of the step on as if the step were the weight itself (Bengio et al., 2013).

    Args:
        kind: One of the names above.
        threshold: theta, in [0, 1].
        learn_threshold: Make theta a parameter; not for the hard kinds, which have no gradient.
        beta: Steepness.
        share: Part of a row that the top-k kinds keep, in (0, 1].
        gain: Height of the step of ``silu+binary``.
        straight_through: Let the hard kinds pass a gradient.

    Raises:
        ValueError: an unknown kind, a number out of range, or a gradient that a kind cannot carry.

    Paper: Buehler, 2025, https://arxiv.org/abs/2501.02393.
    """

    threshold: Tensor

    def __init__(
        self,
        kind: str = "none",
        *,
        threshold: float = 0.2,
        learn_threshold: bool = False,
        beta: float = 10.0,
        share: float = 0.1,
        gain: float = 1.0,
        straight_through: bool = False,
    ) -> None:
        super().__init__()
        if kind not in TRANSFORMS:
            raise ValueError(f"transform must be one of {', '.join(TRANSFORMS)}, got {kind!r}")
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(
                f"threshold must lie in [0, 1], as attention weights do, got {threshold}"
            )
        if not 0.0 < share <= 1.0:
            raise ValueError(f"share must lie in (0, 1], got {share}")
        if not beta > 0.0:
            raise ValueError(
                f"beta must be positive, got {beta}: it is the steepness of the soft steps, and "
                "at 0 they would be flat; the published value is 10"
            )
        if learn_threshold and kind in ("none", *HARD):
            able = ", ".join([*_SMOOTH, *_MIXED])
            raise ValueError(
                f"transform {kind!r} has no gradient for its threshold; learn_threshold works "
                f"with {able}; straight_through reaches the weights alone"
            )
        if straight_through and kind not in HARD:
            raise ValueError(
                f"straight_through is for the hard transforms {', '.join(HARD)}; {kind!r} has "
                "a gradient of its own: leave it out"
            )
        self.kind, self.beta, self.share, self.gain = kind, beta, share, gain
        self.straight_through = straight_through
        self.first_threshold = float(threshold)
        value = torch.tensor(self.first_threshold)
        if learn_threshold:
            self.threshold = nn.Parameter(value)
        else:
            self.register_buffer("threshold", value)

    def reset_parameters(self) -> None:
        """Set a learned threshold back."""
        nn.init.constant_(self.threshold, self.first_threshold)

    def forward(self, weight: Tensor, graph: CSRGraph) -> Tensor:
        """Weights ``[..., E, H]`` in the caller's edge order -> the same shape."""
        theta = self.threshold.to(weight.dtype)
        away = weight - theta
        if self.kind == "none":
            return weight
        if self.kind in _SMOOTH:
            return _SMOOTH[self.kind](away, self.beta)
        if self.kind == "flow":
            return torch.sigmoid(5.0 * weight) * torch.sigmoid(50.0 * away)
        above = (away > 0.0).to(weight.dtype)
        if self.kind == "silu+binary":
            return F.silu(away) + self.gain * above
        if self.kind.endswith("-below"):
            below = _SMOOTH[self.kind.removesuffix("-below")](away, self.beta)
            return torch.where(away > 0.0, 1.0, below)
        hard = self._step(weight.detach(), theta, graph)
        return hard + weight - weight.detach() if self.straight_through else hard

    def _step(self, weight: Tensor, theta: Tensor, graph: CSRGraph) -> Tensor:
        """0 or 1 for every edge."""
        if self.kind == "binary":
            return (weight > theta).to(weight.dtype)
        allowed = weight > 0.0
        size = graph.degree()
        if self.kind == "top-k":
            count = share_of(size, self.share, down=True).clamp(min=1)
        else:
            source, target = graph.edge_index()
            before = source < target
            allowed = (weight > theta) & before[:, None]
            count = torch.zeros_like(size).index_add(0, target, before.to(size.dtype))
            count = share_of(count, self.share)
        rank = row_rank(torch.where(allowed, weight, -torch.inf), graph)
        target = graph.edge_index()[1]
        return (allowed & (rank < count[target][:, None])).to(weight.dtype)

    def extra_repr(self) -> str:
        """Kind and threshold."""
        return f"{self.kind!r}, threshold={float(self.threshold):g}"


def share_of(size: Tensor, share: float, *, down: bool = False) -> Tensor:
    r""":math:`\lceil r\, n \rceil` (or the floor) of integers n, as if r were the decimal written.

    The product is taken in float64 and moved by a part in 10^12, since 0.3 * 50 must be 15: the
    product of an int64 tensor and a float is float32, where it lies above.
    """
    exact = size.to(torch.float64) * share
    found = (exact * (1.0 + 1e-12)).floor() if down else (exact * (1.0 - 1e-12)).ceil()
    return found.to(torch.int64)


def row_rank(scores: Tensor, graph: CSRGraph) -> Tensor:
    """How many edges of its row go before each edge by score, ``[..., E, H]`` in caller's order.

    Ties go to the lower column, then to the lower edge id: CSR order, kept by stable sorts.
    """
    row = graph.row_index()
    ids = graph.edge_perm
    flat = scores if ids is None else scores.index_select(-2, ids)
    best = flat.argsort(dim=-2, descending=True, stable=True)
    by_row = row[best].argsort(dim=-2, stable=True)
    order = best.gather(-2, by_row)  # positions by row, then by score
    place = torch.arange(graph.num_edges, device=scores.device) - graph.indptr[row]
    rank = torch.empty_like(order).scatter_(-2, order, place[:, None].expand_as(order))
    if ids is None:
        return rank
    return torch.empty_like(rank).index_copy_(-2, ids, rank)
