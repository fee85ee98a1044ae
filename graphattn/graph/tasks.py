"""Work division for the GPU kernels: row slots, hub chunks and the merges that follow them."""

import torch
from torch import Tensor

from graphattn.kernels.gpu.tuning import CHUNK, row_slots

WINDOW = 4096
"""Consecutive rows sorted by degree together; small enough to keep a good node order."""
FAN_IN = 64
"""Hub chunks that one program of the first merge level takes."""


def build_tasks(indptr: Tensor, *, chunk: int = CHUNK, fan_in: int = FAN_IN) -> tuple[Tensor, ...]:
    """Cut the rows of a graph into tasks of similar size; depends on the graph alone.

    Returns three int64 tensors whose first dimension spells out a task's fields:

    * ``slots [3, P + S]``: (destination, first edge position, number of edges). The last
      ``S = ceil(rows / 32) * 32`` are whole rows, sorted by degree (largest first) inside windows
      of 4096 rows, so that the first slot of a program has its largest trip count. The first
      ``P`` (a multiple of 32) are chunks of hub rows, at most ``chunk`` edges each, whose results
      are partial; within 32 of them no chunk is longer than the first one by more than one edge.
      Padding has destination -1 and no edges.
    * ``groups [3, G]``: (first chunk, number of chunks, row): merges of up to ``fan_in`` chunks.
    * ``tops [3, T]``: (first group, number of groups, row): merges of the groups of each hub.
      Empty when every hub has one group; then the groups are final.

    Args:
        indptr: Row offsets ``[rows + 1]``, int64; the tasks are built on its device.
        chunk: Rows with more edges are cut; also the largest number of edges in a task.
        fan_in: Largest number of chunks in a group. Both decide the order of summation.

    Memory: 24 bytes per row and per hub chunk. Reads sizes back from the device, so it belongs
    into graph construction and not into an op.
    """
    tasks: tuple[Tensor, Tensor, Tensor] = _build_tasks(indptr, chunk, fan_in)
    return tasks


@torch.library.custom_op("graphattn::build_tasks", mutates_args=())
def _build_tasks(indptr: Tensor, chunk: int, fan_in: int) -> tuple[Tensor, Tensor, Tensor]:
    degree = indptr.diff()
    hubs = _hubs_longest_chunk_first(degree, chunk)
    rows = _row_slots(indptr, degree, chunk)
    if hubs.numel() == 0:
        return rows, indptr.new_empty(3, 0), indptr.new_empty(3, 0)
    counts = _parts(degree[hubs], chunk)
    slots = torch.cat([_chunk_slots(indptr, degree, hubs, counts), rows], 1)
    return slots, *_merge_levels(hubs, counts, fan_in)


@_build_tasks.register_fake
def _(indptr: Tensor, chunk: int, fan_in: int) -> tuple[Tensor, Tensor, Tensor]:
    sizes = [torch.library.get_ctx().new_dynamic_size() for _ in range(3)]
    return tuple(indptr.new_empty(3, size) for size in sizes)  # type: ignore[return-value]


def _parts(sizes: Tensor, most: int | Tensor) -> Tensor:
    return (sizes + most - 1) // most


def _padded(slots: Tensor) -> Tensor:
    padding = slots.new_zeros(3, row_slots(slots.shape[1]) - slots.shape[1])
    padding[0] = -1
    return torch.cat([slots, padding], 1)


def _row_slots(indptr: Tensor, degree: Tensor, chunk: int) -> Tensor:
    """Whole rows by (window, falling degree); hubs leave an idle slot at their window's end."""
    row = torch.arange(degree.numel(), device=indptr.device)
    whole = degree <= chunk
    length = torch.where(whole, degree, -1)
    order = torch.argsort(row // WINDOW * (chunk + 2) + chunk - length, stable=True)
    target = torch.where(whole, row, -1)
    fields = torch.stack([target, indptr[:-1], length.clamp(min=0)])
    return _padded(fields[:, order])


def _hubs_longest_chunk_first(degree: Tensor, chunk: int) -> Tensor:
    """Rows above the cut, ordered by the length of their longest chunk, then by number."""
    hubs = torch.nonzero(degree > chunk).squeeze(1)
    sizes = degree[hubs]
    longest = _parts(sizes, _parts(sizes, chunk).clamp(min=1))
    return hubs[torch.argsort(longest, descending=True, stable=True)]


def _chunk_slots(indptr: Tensor, degree: Tensor, hubs: Tensor, counts: Tensor) -> Tensor:
    """Chunks of each hub in order; their lengths differ by one at most, longer ones first."""
    owner, number = _enumerate(counts)
    row = hubs[owner]
    base, longer = degree[row] // counts[owner], degree[row] % counts[owner]
    start = indptr[row] + number * base + torch.minimum(number, longer)
    return _padded(torch.stack([row, start, base + (number < longer)]))


def _merge_levels(hubs: Tensor, counts: Tensor, fan_in: int) -> tuple[Tensor, Tensor]:
    group_counts = _parts(counts, fan_in)
    owner, number = _enumerate(group_counts)
    first_chunk = counts.cumsum(0) - counts
    first = first_chunk[owner] + number * fan_in
    size = (counts[owner] - number * fan_in).clamp(max=fan_in)
    groups = torch.stack([first, size, hubs[owner]])
    if groups.shape[1] == hubs.numel():
        return groups, hubs.new_empty(3, 0)
    tops = torch.stack([group_counts.cumsum(0) - group_counts, group_counts, hubs])
    return groups, tops


def _enumerate(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Owner and running number of every part: [2, 1] -> owner [0, 0, 1], number [0, 1, 0]."""
    owner = torch.repeat_interleave(torch.arange(counts.numel(), device=counts.device), counts)
    first = counts.cumsum(0) - counts
    return owner, torch.arange(owner.numel(), device=counts.device) - first[owner]
