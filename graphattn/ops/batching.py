"""torch.vmap over the fused operators: the mapped dimension joins their batch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def register_batching(
    operator: Any,
    carried: Sequence[int],
    batch_dims: Sequence[int],
    *,
    broadcast: Sequence[int] = (),
    shared: str = "other tensors",
) -> None:
    """Let ``torch.vmap`` fold its dimension into the batch that the operator has anyway.

    Args:
        operator: A custom operator.
        carried: Positions of the inputs whose first dimension is the batch.
        batch_dims: Where each result has it.
        broadcast: Those of ``carried`` whose batch may be 1 for all.
        shared: Names of the inputs that a batch shares, for the message that refuses them.
    """

    def rule(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, ...]:
        folded = list(inputs)
        for position, (given, dim) in enumerate(zip(inputs, in_dims, strict=True)):
            if given is None or (position in broadcast and dim is None and len(given) == 1):
                continue
            if position in carried:
                folded[position] = _fold_mapped(given, dim, info.batch_size)
            elif isinstance(dim, int):
                raise ValueError(
                    f"torch.vmap can map node tensors, but {shared} are shared by a batch; pass "
                    "impl='reference' to map them"
                )
        found = operator(*folded)
        found = found if isinstance(found, tuple) else (found,)
        placed = [(t, d if t.dim() > 1 else None) for t, d in zip(found, batch_dims, strict=True)]
        results = tuple(
            t if d is None else t.unflatten(d, (info.batch_size, -1)) for t, d in placed
        )
        dims = tuple(d for _, d in placed)
        return (results[0], dims[0]) if len(results) == 1 else (results, dims)

    torch.library.register_vmap(operator, rule)


def _fold_mapped(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """[B, ...] with a mapped dimension, or without one: [size * B, ...]."""
    if dim is None:
        return tensor.unsqueeze(0).expand(size, *tensor.shape).flatten(0, 1)
    return tensor.movedim(dim, 0).flatten(0, 1)
