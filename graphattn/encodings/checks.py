"""Checks of arguments that encodings and the layers above them share."""

import operator
from typing import Any

import torch
from torch import Tensor


def check_k(k: Any, name: str = "k") -> int:
    """``k`` as a Python integer; raise ``TypeError`` unless it is one, ``ValueError`` below 1."""
    try:
        k = operator.index(k)
    except TypeError:
        message = f"{name} must be an integer, got {k!r}; convert it with int({name})"
        raise TypeError(message) from None
    if k < 1:
        raise ValueError(f"{name} must be at least 1, got {k}")
    return int(k)


def check_batch(batch: Tensor, num_nodes: int, num_graphs: int | None = None) -> int:
    """Check the graph numbers ``batch`` of the nodes and return the number of graphs.

    Args:
        batch: ``[N]``, int64 or int32, in any order.
        num_nodes: Number of nodes ``N``.
        num_graphs: Bound of the graph numbers; ``None`` means the largest one plus 1.

    Raises:
        TypeError: not a tensor of integers.
        ValueError: another shape, or a number outside ``[0, num_graphs)``.

    Reads the extremes of ``batch``, for which a GPU is waited for.
    """
    if not isinstance(batch, Tensor):
        raise TypeError(f"batch must be a tensor [{num_nodes}], got {type(batch).__name__}")
    if batch.shape != (num_nodes,):
        raise ValueError(
            f"batch must hold one graph number per node [{num_nodes}], got {list(batch.shape)}; "
            "pass the batch that belongs to these nodes"
        )
    if batch.dtype not in (torch.int64, torch.int32):
        raise TypeError(
            f"batch must have dtype int64 or int32, got {batch.dtype}; call batch.long()"
        )
    if batch.numel() == 0:
        return num_graphs or 0
    low, high = (int(v) for v in torch.aminmax(batch))
    bound = high + 1 if num_graphs is None else num_graphs
    if low < 0 or high >= bound:
        raise ValueError(
            f"batch must hold graph numbers in [0, {bound}), got {low if low < 0 else high}; "
            "number the graphs from 0, or raise num_graphs"
        )
    return bound
