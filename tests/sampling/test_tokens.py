"""TokenSampler against the published recipe, and hop features against dense products."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from scipy.stats import chisquare
from torch import Tensor

import graphattn as ga
from graphattn.datasets.generated import power_law
from graphattn.graph import sort
from graphattn.kernels.reference import sampling as reference
from graphattn.sampling import TokenSampler, hop_features, prefetch


@pytest.fixture(scope="module")
def edges() -> Tensor:
    """200 nodes of mixed degree, with duplicates, self-loops and isolated nodes."""
    return power_law(190, 900, 0.8, 0.8)


def published_lists(edges: Tensor, size: int, direction: str) -> list[tuple[list[int], list[int]]]:
    """L1 and L2 of every node from A and A squared."""
    source, target = edges.numpy()
    rows, cols = {"in": (target, source), "out": (source, target)}.get(
        direction, (np.r_[target, source], np.r_[source, target])
    )
    a = csr_array((np.ones(len(rows)), (rows, cols)), shape=(size, size))
    a.data[:] = 1
    squared = (a @ a).tocsr()
    lists = []
    for i in range(size):
        first, second = (sorted(m.indices[m.indptr[i] : m.indptr[i + 1]]) for m in (a, squared))
        lists.append(([int(j) for j in first], [int(j) for j in second]))
    return lists


@pytest.mark.parametrize("direction", ["in", "out", "both"])
def test_tokens_are_the_published_multiset(edges: Tensor, direction: str) -> None:
    tokens = TokenSampler(ga.as_graph(edges, 200), 20, direction=direction).sample()
    assert torch.equal(tokens[:, 0], torch.arange(200, dtype=torch.int32))
    kinds = Counter()
    for row, (first, second) in zip(
        tokens.tolist(), published_lists(edges, 200, direction), strict=True
    ):
        both, rest = first + second, row[1:]
        if not both:
            kinds["isolated"] += 1
            assert len(set(rest)) == 19
        elif len(both) < 19:
            kinds["short"] += 1
            assert rest == [both[step % len(both)] for step in range(19)]
        else:
            kinds["long"] += 1
            assert not Counter(rest) - Counter(both)
    assert all(kinds[kind] > 3 for kind in ("isolated", "short", "long"))


@pytest.mark.parametrize("mode", ["exact", "walk"])
@pytest.mark.parametrize("count", [1, 5, 100])
def test_equals_the_reference(edges: Tensor, mode: str, count: int) -> None:
    graph = ga.as_graph(edges, 200).coalesce()
    tokens = TokenSampler(graph, count, mode=mode, seed=3).sample().tolist()
    draw = reference.sample_tokens if mode == "exact" else reference.walk_tokens
    arrays = graph.indptr.tolist(), graph.indices.tolist()
    assert tokens == [draw(*arrays, node, count, 3) for node in range(200)]


def test_draws_are_uniform_over_the_multiset(edges: Tensor) -> None:
    graph = ga.as_graph(edges, 200)
    lists = published_lists(edges, 200, "in")
    node = max(range(200), key=lambda i: len(set(lists[i][0]) & set(lists[i][1])))
    multiset = Counter(lists[node][0] + lists[node][1])
    assert max(multiset.values()) == 2
    sampler = TokenSampler(graph, 11, resample="batch")
    nodes = torch.full((10_000,), node)
    # Tokens of one node are the same within a batch, so every draw is a batch of its own.
    drawn = torch.cat([sampler.sample(nodes[:1], batch=b)[0, 1:] for b in range(10_000)])
    counts = torch.bincount(drawn, minlength=200)
    keys = sorted(multiset)
    expected = np.array([multiset[key] for key in keys], dtype=float)
    expected *= len(drawn) / expected.sum()
    assert int(counts[keys].sum()) == len(drawn)
    # Without replacement counts vary less than a multinomial's, so the test is conservative.
    assert chisquare(counts[keys].numpy(), expected).pvalue > 1e-3


def test_walks_follow_their_law(edges: Tensor) -> None:
    graph = ga.as_graph(edges, 200).coalesce()
    node = int(graph.degree().argmax())
    rows = [graph.indices[graph.indptr[i] : graph.indptr[i + 1]].tolist() for i in range(200)]
    law = np.zeros(200)
    for j in rows[node]:
        for k in [j, *rows[j]]:
            law[k] += 1 / len(rows[node]) / (1 + len(rows[j]))
    drawn = TokenSampler(graph, 40_001, mode="walk").sample([node])[0, 1:]
    counts = torch.bincount(drawn, minlength=200).numpy()
    assert counts[law == 0].sum() == 0
    assert chisquare(counts[law > 0], law[law > 0] * 40_000).pvalue > 1e-3


def test_isolated_nodes_draw_from_everywhere() -> None:
    graph = ga.as_graph(torch.zeros(2, 0, dtype=torch.int64), 30)
    sampler = TokenSampler(graph, 6, resample="batch")
    drawn = torch.cat([sampler.sample([7], batch=b)[0, 1:] for b in range(3000)])
    assert chisquare(torch.bincount(drawn, minlength=30).numpy()).pvalue > 1e-3
    more = TokenSampler(graph, 71).sample([7])[0, 1:]
    assert torch.bincount(more).tolist() == [3] * 10 + [2] * 20 or set(
        torch.bincount(more).tolist()
    ) == {2, 3}


def test_resampling_and_threads(edges: Tensor) -> None:
    graph = ga.as_graph(edges, 200)
    never = TokenSampler(graph, 8)
    assert torch.equal(never.sample(epoch=0), never.sample(epoch=1, batch=5))
    epoch = TokenSampler(graph, 8, resample="epoch")
    assert torch.equal(epoch.sample(epoch=1, batch=0), epoch.sample(epoch=1, batch=5))
    assert not torch.equal(epoch.sample(epoch=0), epoch.sample(epoch=1))
    batch = TokenSampler(graph, 8, resample="batch")
    assert not torch.equal(batch.sample(batch=0), batch.sample(batch=1))
    threads = torch.get_num_threads()
    try:
        tables = []
        for count in (1, 3):
            torch.set_num_threads(count)
            tables.append(never.table())
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*tables) and torch.equal(tables[0], never.sample())
    assert torch.equal(never.sample([4, 9]), tables[0][[4, 9]])


def test_long_lists_grow_the_scratch() -> None:
    size = 40_000  # two steps from any node reach all others through the hub
    hub = torch.zeros(size - 1, dtype=torch.int64)
    star = torch.stack([torch.arange(1, size), hub])
    graph = ga.as_graph(torch.cat([star, star.flip(0)], 1), size)
    tokens = TokenSampler(graph, 50).sample([3])[0]
    assert tokens[0] == 3 and len(set(tokens[1:].tolist())) == 49


def status(key: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024


def reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


@pytest.mark.skipif(not reset_peak(), reason="needs /proc/self/clear_refs")
@pytest.mark.parametrize("mode, direction", [("exact", "in"), ("walk", "in"), ("exact", "out")])
def test_memory_is_graph_and_result(mode: str, direction: str) -> None:
    """A squared would have 65 million entries here, thirty times the graph's."""
    size, generator = 60_000, torch.Generator().manual_seed(0)
    edges = torch.randint(0, size, (2, 2_000_000), generator=generator)
    graph = ga.as_graph(edges, size).coalesce()
    bytes_of_graph = graph.indptr.nbytes + graph.indices.nbytes
    del edges
    small = ga.as_graph(torch.randint(0, 300, (2, 90_000)), 300).coalesce()
    assert small.num_edges > sort._FEW
    TokenSampler(small, 3, mode=mode, direction=direction).table()  # compiles
    used = []
    for _ in range(2):  # the heap may hand pages back at a bad moment, but not twice
        prefetch.release_freed()
        reset_peak()
        before = status("VmRSS")
        table = TokenSampler(graph, 20, mode=mode, direction=direction).table()
        used.append(status("VmHWM") - before)
        size_of_table = table.nbytes
        del table
    # The graph turned round is as large as the graph; beside it lie a few numbers per node.
    few = 96 * size if direction == "out" else 0
    assert min(used) <= size_of_table + bytes_of_graph + few, f"{min(used) / 2**20:.1f} MiB"


@pytest.mark.parametrize("direction", ["in", "out"])
@pytest.mark.parametrize("legacy", [False, True])
def test_hop_features_are_dense_products(edges: Tensor, direction: str, legacy: bool) -> None:
    a = torch.zeros(200, 200, dtype=torch.float64)
    a[edges[1], edges[0]] = 1
    a = a if direction == "in" else a.t()
    b = a + torch.eye(200, dtype=torch.float64)
    row, col = b.sum(1).rsqrt(), b.sum(0).rsqrt()
    left, right = (col, row) if legacy else (row, col)
    norm = left[:, None] * b * right
    x = torch.randn(200, 5, dtype=torch.float64)
    found = hop_features(edges_graph(edges), x, direction=direction, legacy_norm=legacy)
    torch.testing.assert_close(found[1], norm @ x, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found[2], norm @ (norm @ x), rtol=1e-9, atol=1e-12)
    if not legacy:
        assert torch.linalg.matrix_norm(norm, 2) <= 1 + 1e-9


def edges_graph(edges: Tensor) -> ga.CSRGraph:
    return ga.as_graph(edges, 200)


def test_wrong_input(edges: Tensor) -> None:
    graph = ga.as_graph(edges, 200)
    with pytest.raises(ValueError, match="which counts the node itself, must be .* 1, got 0"):
        TokenSampler(graph, 0)
    with pytest.raises(TypeError, match=r"must be an integer of at least 1, got 3\.5"):
        TokenSampler(graph, 3.5)
    for size, error in ((0, ValueError), (-2, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match=f"batch_size must be an integer of at least 1, got {size}"):
            TokenSampler(graph, 3).batches([1, 2], size)
    for hops, error in ((-1, ValueError), (1.0, TypeError)):
        with pytest.raises(error, match=f"hops must be an integer of at least 0, got {hops}"):
            hop_features(graph, torch.zeros(200, 2), hops)
    with pytest.raises(ValueError, match="mode must be one of exact, walk"):
        TokenSampler(graph, 3, mode="fast")
    with pytest.raises(ValueError, match=r"nodes must be nodes in \[0, 200\), got -1"):
        TokenSampler(graph, 3).sample([-1])
    with pytest.raises(ValueError, match=r"out must be torch.int32 \[200, 3\]"):
        TokenSampler(graph, 3).table(np.empty((200, 3)))
    with pytest.raises(ValueError, match=r"features \[200, F\]"):
        hop_features(graph, torch.zeros(7, 2))
