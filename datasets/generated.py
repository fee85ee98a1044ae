"""Seeded graphs that need no files: minesweeper by its published rule, and bench generators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphattn.datasets.base import NodeDataset, announce
from graphattn.datasets.metrics import evaluator
from graphattn.datasets.splits import random_splits
from graphattn.graph.sort import sort_keys

NAMES = ("minesweeper-generated",)


def load(name: str, root: Path, *, download: bool, undirected: bool, seed: int) -> NodeDataset:
    """Generates the set; ``root``, ``download`` and ``undirected`` (it is) have no effect."""
    dataset = minesweeper(seed)
    announce(f"{name}: {dataset.edge_note}")
    return dataset


def minesweeper(
    seed: int = 0, height: int = 100, width: int = 100, mines: int = 2000
) -> NodeDataset:
    """A board as in Platonov et al. 2023: find the mines from the numbers that are shown.

    Features [7]: the first is 1 where the number is hidden (exactly half of the nodes); the other
    six are one-hot of min(neighbouring mines, 5), and zero where hidden. Label: mine. The published
    file obeys this rule at every node; this draws another board with the same counts, and ten
    stratified 50/25/25 splits.

    Args:
        seed: Of mines, hidden nodes and splits.
        height: Rows of the board.
        width: Columns; node i is row i // width.
        mines: Number of mines.

    Raises:
        ValueError: If there are not between 1 and height * width - 1 mines.
    """
    from torch_geometric.data import Data

    nodes = height * width
    if not 0 < mines < nodes:
        raise ValueError(f"expected 1..{nodes - 1} mines on {height} x {width}, got {mines}")
    generator = torch.Generator().manual_seed(seed)
    labels = torch.zeros(nodes, dtype=torch.int64)
    labels[torch.randperm(nodes, generator=generator)[:mines]] = 1
    hidden = torch.randperm(nodes, generator=generator)[: nodes // 2]
    edge_index = grid(height, width)
    near = torch.zeros(nodes, dtype=torch.int64).index_add_(0, edge_index[1], labels[edge_index[0]])
    x = torch.zeros(nodes, 7)
    x[torch.arange(nodes), 1 + near.clamp(max=5)] = 1.0
    x[hidden] = torch.eye(7)[0]
    edges = edge_index.shape[1]
    return NodeDataset(
        data=Data(x=x, edge_index=edge_index, y=labels, num_nodes=nodes),
        splits=random_splits(labels, count=10, seed=seed, num_classes=2, stratified=True),
        metric="rocauc",
        evaluate=evaluator("rocauc"),
        name="minesweeper-generated",
        num_classes=2,
        task="binary",
        split_note=f"10 seeded stratified random splits, 50/25/25, seeds {seed} to {seed + 9}",
        edge_note=f"{edges // 2:,} edges generated, {edges:,} returned (both directions)",
    )


def grid(height: int, width: int, neighbours: int = 8) -> Tensor:
    """Edges between touching cells of a board, both directions, sorted; row-major node ids.

    Args:
        height: Rows.
        width: Columns.
        neighbours: 8 (with diagonals) or 4.

    Returns:
        edge_index int64 [2, E]; for 8 neighbours E = 2 (4hw - 3h - 3w + 2).

    Raises:
        ValueError: If ``neighbours`` is neither 4 nor 8.
    """
    if neighbours not in (4, 8):
        raise ValueError(f"neighbours must be 4 or 8, got {neighbours}")
    row = torch.arange(height).repeat_interleave(width)
    column = torch.arange(width).repeat(height)
    sources, targets = [], []
    for down, right in ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)):
        if neighbours == 4 and down and right:
            continue
        r, c = row + down, column + right
        inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
        sources.append((row * width + column)[inside])
        targets.append((r * width + c)[inside])
    source, target = torch.cat(sources), torch.cat(targets)
    order = (source * (height * width) + target).argsort()
    return torch.stack([source[order], target[order]])


def power_law(
    num_nodes: int,
    num_edges: int,
    out_exponent: float,
    in_exponent: float,
    seed: int = 0,
    device: str = "cpu",
) -> Tensor:
    """PL(N, E, a_out, a_in): E independent draws of a source and a target.

    P(source) ~ rank^-a_out and P(target) ~ rank^-a_in. Ranks are randomly permuted, separately for
    sources and targets; duplicates and self-loops stay.

    Args:
        num_nodes: N.
        num_edges: E.
        out_exponent: a_out; 0 = uniform.
        in_exponent: a_in; 0 = uniform.
        seed: Of numpy's default generator; on other devices than the CPU of torch's, which draws
            another graph.
        device: Where it is drawn and sorted; 24 bytes per edge at the peak.

    Returns:
        edge_index int64 [2, E] on ``device``, sorted by target, then source.
    """
    if torch.device(device).type == "cpu":
        random = np.random.default_rng(seed)
        source = _ranked(random, num_nodes, num_edges, out_exponent)
        target = _ranked(random, num_nodes, num_edges, in_exponent)
        keys = torch.from_numpy(np.sort(target * num_nodes + source))
    else:
        generator = torch.Generator(device).manual_seed(seed)
        keys = _ranked_on(generator, num_nodes, num_edges, in_exponent) * num_nodes
        keys += _ranked_on(generator, num_nodes, num_edges, out_exponent)
        keys = keys.sort().values
    return torch.stack([keys % num_nodes, keys // num_nodes])


def _ranked(random: np.random.Generator, nodes: int, count: int, exponent: float) -> np.ndarray:
    if exponent == 0:
        return random.integers(0, nodes, count)
    total = np.cumsum(np.arange(1, nodes + 1, dtype=np.float64) ** -exponent)
    rank = np.searchsorted(total, random.random(count) * total[-1], side="right")
    ranked: np.ndarray = random.permutation(nodes)[np.minimum(rank, nodes - 1)]
    return ranked


def _ranked_on(generator: torch.Generator, nodes: int, count: int, exponent: float) -> Tensor:
    """``_ranked`` where the generator is."""
    where: dict[str, Any] = {"device": generator.device}
    if exponent == 0:
        return torch.randint(0, nodes, (count,), generator=generator, **where)
    total = torch.arange(1, nodes + 1, dtype=torch.float64, **where).pow(-exponent).cumsum(0)
    place = torch.rand(count, dtype=torch.float64, generator=generator, **where) * total[-1]
    rank = torch.searchsorted(total, place, right=True).clamp_(max=nodes - 1)
    return torch.randperm(nodes, generator=generator, **where)[rank]


def communities(
    num_nodes: int, blocks: int, inside: float, outside: float, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Stochastic block model with equal blocks, by expected degree.

    Draws N inside / 2 pairs within random blocks and N outside / 2 pairs of any two blocks, drops
    self-loops and duplicates (so the mean degree is slightly below inside + outside).

    Args:
        num_nodes: N; node i is in block i mod ``blocks``.
        blocks: Number of communities.
        inside: Expected neighbours in a node's own block.
        outside: Expected neighbours in other blocks.
        seed: Of numpy's default generator.

    Returns:
        edge_index int64 [2, E], both directions, sorted; and labels int64 [N].

    Raises:
        ValueError: If a block has fewer than two nodes.
    """
    if blocks < 1 or num_nodes < 2 * blocks:
        raise ValueError(f"{num_nodes} nodes do not make {blocks} blocks of at least two")
    random = np.random.default_rng(seed)
    label = np.arange(num_nodes) % blocks
    near = round(num_nodes * inside / 2)
    far = round(num_nodes * outside / 2) if blocks > 1 else 0
    low = random.integers(0, num_nodes, near + far)
    block = label[low]
    block[near:] = (block[near:] + random.integers(1, max(blocks, 2), far)) % blocks
    members = (num_nodes - 1 - block) // blocks + 1
    high = block + blocks * (random.random(near + far) * members).astype(np.int64)
    low, high = low[low != high], high[low != high]
    keys = np.concatenate([low * num_nodes + high, high * num_nodes + low])
    keys = sort_keys(keys, merge=True)
    return torch.from_numpy(np.stack(np.divmod(keys, num_nodes))), torch.from_numpy(label)


def unique_signature(
    edge_probability: float, values: int, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """A graph of Lim's UniqueSignature (2025): does a neighbour equal the neighbourhood's sum?

    An Erdos-Renyi graph of 30 to 70 nodes with integer features, uniform and centred at 0; a node
    is positive if one of its neighbours carries the sum over all of them.

    Args:
        edge_probability: Of each pair of nodes.
        values: Number of different features, odd.
        seed: Of numpy's default generator.

    Returns:
        x float32 [N, 1]; edge_index int64 [2, E], both directions; labels int64 [N].

    Raises:
        ValueError: If ``values`` is even.
    """
    if values % 2 == 0:
        raise ValueError(
            f"features are centred at 0: expected an odd number of values, got {values}"
        )
    random = np.random.default_rng(seed)
    nodes = int(random.integers(30, 71))
    pairs = np.triu(random.random((nodes, nodes)) < edge_probability, 1)
    adjacency = pairs | pairs.T
    x = random.integers(0, values, nodes) - values // 2
    total = adjacency @ x
    label = (adjacency & (x[None, :] == total[:, None])).any(1)
    target, source = adjacency.nonzero()
    edge_index = torch.from_numpy(np.stack([source, target]))
    features = torch.from_numpy(x.astype(np.float32))[:, None]
    return features, edge_index, torch.from_numpy(label.astype(np.int64))
