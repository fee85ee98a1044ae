"""Which seeds of an epoch each rank takes: a share of every batch, or those of its own parts."""

from __future__ import annotations

import torch
from torch import Tensor

from graphattn.graph.csr import CSRGraph
from graphattn.graph.partition import partition
from graphattn.kernels.cpu.sampling import derive
from graphattn.nn.sums import world_size
from graphattn.training.distributed import from_first, rank, shard


def own_places(
    count: int, batch_size: int, seed: int, epoch: int, owner: Tensor | None = None
) -> list[Tensor]:
    """This rank's seeds in every step of an epoch, as places 0 .. count - 1.

    Args:
        count: Seeds of all ranks.
        batch_size: Seeds of a step, of all ranks together.
        seed: Of the order.
        epoch: The order is a new one in every epoch.
        owner: Rank of every seed; ``None`` shares out each batch.

    Raises:
        ValueError: See :func:`batch_places` and :func:`part_places`.
    """
    if owner is None:
        return [shard(part) for part in batch_places(count, batch_size, seed, epoch)]
    steps = part_places(owner, world_size(), batch_size, seed, epoch)
    return [pieces[rank()] for pieces in steps]


def batch_places(count: int, batch_size: int, seed: int, epoch: int) -> list[Tensor]:
    """Global batches of an epoch: a permutation of 0 .. count - 1, whatever the number of ranks.

    A last batch of less than a quarter joins the one before it, so that every rank has rows.

    Raises:
        ValueError: Fewer than 8 seeds per rank in a batch, or too few seeds for all ranks.
    """
    _check_world(count, batch_size, world_size())
    parts = list(torch.split(torch.randperm(count, generator=_order(seed, epoch)), batch_size))
    if len(parts) > 1 and 4 * len(parts[-1]) < batch_size:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def part_places(
    owner: Tensor, world: int, batch_size: int, seed: int, epoch: int
) -> list[list[Tensor]]:
    """For every step the pieces of all ranks, each from the rank's own seeds.

    All ranks have equally many steps and every seed is used once: a rank with more seeds has
    larger pieces, which the scaled loss allows for.

    Args:
        owner: Rank of every seed.
        world: Number of ranks.
        batch_size, seed, epoch: As :func:`own_places`.

    Raises:
        ValueError: A rank has fewer than two seeds per step.
    """
    _check_world(len(owner), batch_size, world)
    steps, order = max(1, round(len(owner) / batch_size)), _order(seed, epoch)
    pieces = []
    for number in range(world):
        own = (owner == number).nonzero().squeeze(1)
        if len(own) < 2 * steps:
            raise ValueError(
                f"rank {number} of {world} has {len(own)} training nodes in its parts for {steps} "
                "steps; ask for more parts (--sampling.parts), larger batches or fewer processes"
            )
        own = own[torch.randperm(len(own), generator=order)]
        pieces.append(torch.tensor_split(own, steps))
    return [list(step) for step in zip(*pieces, strict=True)]


def owners(part: Tensor, seeds: Tensor, world: int) -> Tensor:
    """The rank of every seed: whole parts, the largest first, to the rank with fewest seeds yet.

    Args:
        part: Part of every node [N].
        seeds: Node numbers [n]; a part counts by the seeds in it.
        world: Number of ranks.
    """
    of_seed = part[seeds].long()
    counts = torch.bincount(of_seed)
    chosen, load = torch.zeros_like(counts), [0] * world
    for number in counts.argsort(descending=True, stable=True).tolist():
        lightest = load.index(min(load))
        chosen[number] = lightest
        load[lightest] += int(counts[number])
    return chosen[of_seed]


def node_parts(graph: CSRGraph, parts: int, stored: Tensor | None = None) -> Tensor | None:
    """The part of every node on all ranks; ``None`` where nothing is to be shared out by parts.

    Args:
        graph: Cut by METIS, or in breadth-first blocks where pymetis is missing.
        parts: How many; 0 for none.
        stored: ``part.npy`` of a store, which is taken as it is.

    Raises:
        ValueError: Fewer parts than ranks, or another number than the store holds.
    """
    if parts == 0 or world_size() == 1:
        return None
    if parts < world_size():
        raise ValueError(
            f"{world_size()} processes need sampling.parts of at least as many, got {parts}"
        )
    if stored is not None:
        held = int(stored.max()) + 1
        if held != parts:
            raise ValueError(
                f"the store holds {held} parts, asked for {parts}; set --sampling.parts {held}, "
                f"or write the store into another folder with graphattn partition --parts {parts}"
            )
        return stored
    mine = partition(graph, parts) if rank() == 0 else torch.zeros(graph.num_rows).long()
    return from_first(mine)


def _check_world(count: int, batch_size: int, world: int) -> None:
    if world > 1 and (batch_size < 8 * world or count < 2 * world):
        raise ValueError(
            f"{world} processes need sampling.batch_size of at least {8 * world} and {2 * world} "
            f"training nodes, got {batch_size} and {count}; start fewer processes"
        )


def _order(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(derive(seed, epoch) >> 1)
