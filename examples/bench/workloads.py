"""Graphs that attention is timed on, and the shape of the tensors on them."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import graphattn as ga
from graphattn.datasets.generated import power_law


class Workload(NamedTuple):
    """One graph with the shape of the tensors on it."""

    name: str
    edge_index: Tensor
    nodes: int
    heads: int
    width: int
    dtype: torch.dtype = torch.float32


def workloads(device: str) -> Iterator[Workload]:
    """What is timed on a device, one at a time."""
    return _on_gpu(device) if device == "cuda" else _on_cpu()


def _on_cpu() -> Iterator[Workload]:
    # Small enough for masks of all pairs, which know no edge twice and no row without one.
    small = ga.as_graph(power_law(8_000, 120_000, 0.8, 0.0), 8_000).add_self_loops().coalesce()
    yield Workload("PL(8k, 120k) without repeats H8 D16", small.edge_index(), 8_000, 8, 16)
    for text, nodes, edges, heads, width in (
        ("PL(20k, 200k)", 20_000, 200_000, 4, 16),
        ("PL(100k, 1.6M)", 100_000, 1_600_000, 8, 16),
        ("PL(100k, 1.6M)", 100_000, 1_600_000, 4, 32),
        ("PL(100k, 1.6M)", 100_000, 1_600_000, 1, 64),
        ("PL(100k, 1.6M)", 100_000, 1_600_000, 8, 8),
    ):
        edge_index = power_law(nodes, edges, 0.8, 0.0)
        yield Workload(f"{text} H{heads} D{width}", edge_index, nodes, heads, width)
    for name in (
        ("ego-twitter-undirected", "email-enron") if os.environ.get("GRAPHATTN_DATA") else ()
    ):
        root = Path(os.environ["GRAPHATTN_DATA"], "snap")
        data = ga.load_dataset(name, root, download=False, undirected=True).data
        yield Workload(f"{name} H8 D16", data.edge_index, data.num_nodes, 8, 16)


def _on_gpu(device: str) -> Iterator[Workload]:
    half = torch.bfloat16
    yield Workload("1024 molecules H8 D16 bf16", molecules(1024).to(device), 24 * 1024, 8, 16, half)
    nodes, edges = 2**20, 2**24
    edge_index = power_law(nodes, edges, 0.8, 0.5, device=device)
    yield Workload("PL(2^20, 2^24, 0.8, 0.5) H8 D16 bf16", edge_index, nodes, 8, 16, half)
    yield Workload("PL(2^20, 2^24, 0.8, 0.5) H4 D64 bf16", edge_index, nodes, 4, 64, half)
    yield Workload("PL(2^20, 2^24, 0.8, 0.5) H8 D16 fp32", edge_index, nodes, 8, 16)
    nodes, edges = 2_450_000, 123_700_000
    edge_index = power_law(nodes, edges, 0.6, 0.5, device=device)
    yield Workload("ogbn-products' size, PL(0.6, 0.5), H8 D16 bf16", edge_index, nodes, 8, 16, half)


def molecules(count: int) -> Tensor:
    """``count`` graphs of ZINC's size: chains of 24 atoms with two rings, 50 edges each."""
    chain = torch.arange(23)
    bonds = torch.cat([torch.stack([chain, chain + 1]), torch.tensor([[0, 10], [5, 15]])], 1)
    edges = torch.cat([bonds, bonds.flip(0)], 1)
    shift = 24 * torch.arange(count)
    return (edges[:, None, :] + shift[:, None]).flatten(1)
