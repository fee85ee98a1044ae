"""Data parallel training under torchrun: shares of a batch, summed gradients."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from graphattn.nn.sums import summed, world_size


def rank() -> int:
    """This process's rank; 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


def launched() -> bool:
    """Whether torchrun (or a like) started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def launched_first() -> bool:
    """Whether this process is the one that writes, before there is a process group."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def process_group() -> Iterator[None]:
    """Joins the group that torchrun describes; does nothing in a single process or a group.

    NCCL where there is a GPU for every process of this machine, else gloo. When a rank dies the
    others fail in their next collective, and torchrun ends them.
    """
    if not launched() or dist.is_initialized():
        yield
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    on_gpu = torch.cuda.device_count() > local
    if on_gpu:
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def agreed(number: int) -> int:
    """The largest ``number`` of all ranks: one that is told to stop stops them all."""
    if world_size() == 1:
        return number
    largest = torch.tensor(number, device=_message_device())
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def from_first(tensor: Tensor) -> Tensor:
    """Rank 0's ``tensor`` on every rank; all must pass one of its shape and dtype."""
    if world_size() == 1:
        return tensor
    return summed(tensor.to(_message_device()), from_rank_0=True).to(tensor.device)


def _message_device() -> str:
    """Where tensors must lie to be sent."""
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


def share_of(count: float, device: torch.device) -> tuple[float, float]:
    """(this rank's part of ``count`` over all ranks, that sum).

    A loss scaled by the first is, summed over the ranks, the mean over all labels: shards of
    unequal size need no other correction.
    """
    if world_size() == 1:
        return 1.0, count
    total = float(summed(torch.tensor(count, dtype=torch.float64, device=device)))
    return count / max(total, 1.0), total


def sum_gradients(model: nn.Module) -> None:
    """Sum the gradients over all ranks, in one message; a parameter without one counts as 0."""
    if world_size() == 1:
        return
    trained = [p for p in model.parameters() if p.requires_grad]
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    kinds = {grad.dtype for grad in grads}
    for kind in sorted(kinds, key=str):
        part = [(p, g) for p, g in zip(trained, grads, strict=True) if g.dtype == kind]
        flat = summed(torch.cat([grad.flatten() for _, grad in part]))
        for (parameter, grad), piece in zip(
            part, flat.split([grad.numel() for _, grad in part]), strict=True
        ):
            parameter.grad = piece.view_as(grad)


def shard(batch: Tensor) -> Tensor:
    """This rank's part of a global batch: consecutive, one longer or shorter than the others'."""
    return torch.tensor_split(batch, world_size())[rank()]
