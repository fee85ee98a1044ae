"""Signs of eigenvectors: a fixed choice when they are stored, a random one while training."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphattn.encodings.checks import check_batch

if TYPE_CHECKING:
    import numpy as np

_TIE = 1e-6  # entries this close (relatively) to the largest count as equally large


def fix_signs(vectors: "np.ndarray") -> "np.ndarray":
    """Turn each column of ``[N, k]`` so that its largest entry by magnitude is positive.

    Among entries within a relative 1e-6 of the largest the first one decides, so that symmetric
    vectors (cycles, grids) do not depend on rounding. Zero columns stay.
    """
    import numpy as np

    if vectors.size == 0:
        return vectors
    size = np.abs(vectors)
    first = (size >= (1 - _TIE) * size.max(axis=0)).argmax(axis=0)
    lead = vectors[first, np.arange(vectors.shape[1])]
    return vectors * np.where(lead < 0, -1.0, 1.0)


def flip_signs(
    pe: Tensor,
    mode: str = "batch",
    batch: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Multiply every eigenvector by a random sign: augmentation for training, never evaluation.

    An eigenvector's sign is arbitrary; a model that sees both signs learns not to depend on it
    (Dwivedi and Bresson, "A Generalization of Transformer Networks to Graphs", 2020).

    Args:
        pe: Encodings ``[N, k]``.
        mode: ``"batch"``: one sign per column for the whole mini-batch, as the paper's code does;
            ``"graph"``: one per graph and column.
        batch: Graph number of each node ``[N]``, for ``"graph"``; ``None`` means one graph.
        generator: Source of the signs; ``None`` is torch's default one.

    Returns:
        A new tensor ``[N, k]`` of ``pe``'s dtype.

    Raises:
        TypeError: ``batch`` does not hold integers.
        ValueError: unknown ``mode``, ``pe`` not ``[N, k]``, ``batch`` not ``[N]`` or negative.
    """
    if pe.dim() != 2:
        raise ValueError(f"pe must have shape [N, k], got {list(pe.shape)}")
    if mode not in ("batch", "graph"):
        raise ValueError(f'mode must be "batch" or "graph", got {mode!r}')
    if mode == "batch" or batch is None:
        return pe * _random_signs(1, pe, generator)
    graphs = check_batch(batch, pe.shape[0])
    return pe * _random_signs(graphs, pe, generator)[batch]


def _random_signs(rows: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    device = like.device if generator is None else generator.device
    bits = torch.randint(0, 2, (rows, like.shape[1]), generator=generator, device=device)
    return (2 * bits - 1).to(device=like.device, dtype=like.dtype)
