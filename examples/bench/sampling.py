"""Samplers against what they replace, each as a ratio within one run.

The peer of the token sampler is LargeGT's published recipe: rows of A·A by scipy, then Python's
``random.sample`` per node in two processes. Neighbour sampling stands beside PyG's sampler where
pyg-lib or torch-sparse is installed.
"""

import multiprocessing
import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from timing import interleave
from torch_geometric.data import Data
from torch_geometric.loader import NodeLoader as PyGNodeLoader
from tqdm import tqdm

import graphattn as ga
from graphattn import CSRGraph
from graphattn.datasets.generated import power_law
from graphattn.sampling import NeighborLoader, NeighborSampler, TokenSampler

NODES, EDGES, TOKENS = 500_000, 12_500_000, 100
PEER_NODES = 20_000  # of which the published recipe samples; both are compared as nodes per second
FANOUTS, SEEDS, BATCHES = [15, 10, 5], 1024, 12


def run(device: str, repeats: int, compiled: bool = True) -> tuple[list[dict[str, Any]], list[str]]:
    """One row per comparison: time of the peer over ours."""
    if device != "cpu":
        return [], ["the samplers run on the CPU; use --device cpu"]
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    graph = ga.as_graph(power_law(NODES, EDGES, 0.6, 0.0), NODES)
    parts: list[Callable[[], None]] = [
        lambda: _tokens(graph, min(repeats, 3), rows, notes),
        lambda: _neighbors(graph, repeats, rows, notes),
        lambda: _features(graph, repeats, rows, notes),
    ]
    for part in tqdm(parts, desc="sampling"):
        part()
    return rows, notes


def published(adjacency: csr_array, nodes: np.ndarray, tokens: int) -> list[list[int]]:
    """LargeGT's sampler, as published, for some nodes."""
    first, second = adjacency[nodes], (adjacency[nodes] @ adjacency).tocsr()
    lists = [
        (int(node), _columns(first, row), _columns(second, row)) for row, node in enumerate(nodes)
    ]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        work = [(node, one, two, tokens) for node, one, two in lists]
        return list(pool.imap(_draw, work, chunksize=256))


def _columns(matrix: csr_array, row: int) -> list[int]:
    return list(matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]].tolist())


def _draw(work: tuple[int, list[int], list[int], int]) -> list[int]:
    node, first, second, tokens = work
    both = first + second
    if len(both) < tokens - 1:
        both = (both * tokens)[: tokens - 1]
        return [node, *both]
    return [node, *random.sample(both, tokens - 1)]


def _tokens(graph: CSRGraph, repeats: int, rows: list[dict[str, Any]], notes: list[str]) -> None:
    sampler = TokenSampler(graph, TOKENS)
    followed = sampler.graph
    ones = np.ones(followed.num_edges, np.int8)
    adjacency = csr_array(
        (ones, followed.indices.numpy(), followed.indptr.numpy()), shape=(NODES, NODES)
    )
    nodes = torch.arange(PEER_NODES)
    _check_tokens(adjacency, sampler.sample(nodes[:200]))
    calls = {
        "published": lambda: published(adjacency, nodes.numpy(), TOKENS),
        "TokenSampler": lambda: sampler.sample(nodes),
        "walk": lambda: TokenSampler(followed, TOKENS, mode="walk").sample(nodes),
    }
    times = interleave(calls, repeats, "cpu")
    name = f"two-hop tokens, K={TOKENS}, PL(500k, 12.5M)"
    _row(rows, name, "published / TokenSampler", *(times[k].p50 for k in list(calls)[:2]))
    rate = {key: PEER_NODES / value.p50 for key, value in times.items()}
    shown = ", ".join(f"{key} {value:,.0f}" for key, value in rate.items())
    notes.append(f"nodes per second on {torch.get_num_threads()} threads (2 processes): {shown}")


def _check_tokens(adjacency: csr_array, tokens: torch.Tensor) -> None:
    squared = (adjacency[: len(tokens)].astype(np.int32) @ adjacency.astype(np.int32)).tocsr()
    for row, found in enumerate(tokens.tolist()):
        lists = [m.indices[m.indptr[row] : m.indptr[row + 1]] for m in (adjacency, squared)]
        multiset = Counter(np.concatenate(lists).tolist())
        if sum(multiset.values()) >= TOKENS - 1:
            assert found[0] == row and not Counter(found[1:]) - multiset


def _neighbors(graph: CSRGraph, repeats: int, rows: list[dict[str, Any]], notes: list[str]) -> None:
    sampler = NeighborSampler(graph, FANOUTS)
    seeds = [torch.randperm(NODES)[:SEEDS] for _ in range(BATCHES)]
    edges = sum(len(sampler.sample(batch, seed=0).row) for batch in seeds)

    def one() -> None:
        for batch in seeds:
            sampler.sample(batch, seed=0)

    pool = ThreadPoolExecutor(2)
    calls: dict[str, Callable[[], object]] = {
        "1 thread": one,
        "2 threads": lambda: list(pool.map(lambda batch: sampler.sample(batch, seed=0), seeds)),
    }
    peer = _pyg(graph)
    if peer is None:
        notes.append("left out: PyG's sampler, which needs pyg-lib or torch-sparse")
    else:
        calls["PyG, 1 thread"] = lambda: [peer(batch) for batch in seeds]
    times = interleave(calls, repeats, "cpu")
    name = f"fan-out {FANOUTS}, {SEEDS} seeds, PL(500k, 12.5M)"
    _row(rows, name, "1 thread / 2 threads", *(times[k].p50 for k in ("1 thread", "2 threads")))
    if peer is not None:
        both = times["PyG, 1 thread"].p50, times["1 thread"].p50
        _row(rows, name, "PyG / NeighborSampler, 1 thread", *both)
    rate = edges / times["1 thread"].p50 / 1e6
    notes.append(f"fan-out {FANOUTS}: {rate:.1f} M sampled edges per second on one thread")


def _features(graph: CSRGraph, repeats: int, rows: list[dict[str, Any]], notes: list[str]) -> None:
    """A batch of the loader with 128 features per node, against PyG's way of reading them."""
    data = Data(x=torch.randn(NODES, 128), edge_index=graph.edge_index(), num_nodes=NODES)
    loader = NeighborLoader(data, FANOUTS, batch_size=SEEDS, num_workers=0)
    seeds = loader.input_data[list(range(SEEDS))]
    out = loader.node_sampler.sample_from_nodes(seeds, seed=0)
    calls = {
        "PyG's filter": lambda: PyGNodeLoader.filter_fn(loader, out),
        "ours": lambda: loader.filter_fn(out),
        "sampled and read": lambda: loader.make_batch(list(range(SEEDS)), 0),
    }
    assert torch.equal(calls["PyG's filter"]().x, calls["ours"]().x)
    times = interleave(calls, repeats, "cpu")
    name = f"features [{len(out.node):,}, 128] of a batch"
    _row(rows, name, "PyG's filter / NodeLoader's", *(times[k].p50 for k in list(calls)[:2]))
    whole = 1e3 * times["sampled and read"].p50
    notes.append(f"a batch with its features, sampled and read: {whole:.0f} ms")


def _pyg(graph: CSRGraph) -> Callable[[torch.Tensor], object] | None:
    from torch_geometric.sampler import NeighborSampler as Peer
    from torch_geometric.sampler import NodeSamplerInput

    try:
        peer = Peer(Data(edge_index=graph.edge_index(), num_nodes=NODES), FANOUTS)
        peer.sample_from_nodes(NodeSamplerInput(None, torch.arange(4)))
    except ImportError:
        return None
    return lambda batch: peer.sample_from_nodes(NodeSamplerInput(None, batch))


def _row(rows: list[dict[str, Any]], name: str, who: str, first: float, second: float) -> None:
    rows.append(
        {
            "workload": name,
            "contestants": who,
            "ms": f"{1e3 * first:.0f} / {1e3 * second:.0f}",
            "ratio": first / second,
        }
    )
