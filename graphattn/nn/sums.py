"""Sums over the ranks of a process group; without one, nothing happens."""

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Ranks of the process group; 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def summed(tensor: Tensor, from_rank_0: bool = False) -> Tensor:
    """Sum of ``tensor`` over all ranks, or rank 0's alone; the tensor itself in a single process.

    Every rank must call it equally often with equal shapes.
    """
    if world_size() == 1:
        return tensor
    if from_rank_0 and dist.get_rank() != 0:
        tensor = torch.zeros_like(tensor)
    total = tensor.clone()
    dist.all_reduce(total)
    return total


def gathered(tensor: Tensor) -> Tensor:
    """Rows of all ranks, in the order of the ranks; they may hold different numbers of rows."""
    world = world_size()
    if world == 1:
        return tensor
    sizes = [torch.zeros(1, dtype=torch.int64, device=tensor.device) for _ in range(world)]
    dist.all_gather(sizes, sizes[0].new_tensor([len(tensor)]))
    counts = [int(size) for size in sizes]
    padded = tensor.new_zeros(max(counts), *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
