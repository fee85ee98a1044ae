"""NeighborSampler and its loaders against the reference, brute force and full-graph attention."""

import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_geometric.loader
from scipy.stats import chisquare
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import subgraph

import graphattn as ga
from graphattn.datasets.generated import grid, power_law
from graphattn.kernels.cpu import neighbors
from graphattn.kernels.reference.sampling import sample_neighbors
from graphattn.nn import HopBias
from graphattn.sampling import (
    ClusterLoader,
    NeighborLoader,
    NeighborSampler,
    NodeLoader,
    hop_stars,
    prefetch,
)
from graphattn.sampling.prefetch import in_order


@pytest.fixture(scope="module")
def edges() -> Tensor:
    """300 nodes; duplicates, self-loops, hubs, and 20 nodes without edges."""
    edge_index = power_law(280, 4000, 0.8, 0.5)
    return edge_index[:, torch.randperm(4000, generator=torch.Generator().manual_seed(1))]


@pytest.fixture(scope="module")
def data(edges: Tensor) -> Data:
    x = torch.arange(300.0).unsqueeze(1)
    return Data(x=x, edge_index=edges, edge_attr=torch.arange(4000.0), y=torch.arange(300) % 3)


@pytest.mark.parametrize("fanouts", [[3, 2], [-1, 0, 2], [70, 1], [0], []])
@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("disjoint", [False, True])
def test_equals_the_reference(
    edges: Tensor,
    fanouts: list[int],
    replace: bool,
    disjoint: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = ga.as_graph(edges, 300)
    seeds = [5, 7, 5, 299, 0]
    want = sample_neighbors(
        graph.indptr.tolist(), graph.indices.tolist(), seeds, fanouts, replace, 11, disjoint
    )
    for table in (neighbors.DIRECT_NODES, 0):
        monkeypatch.setattr(neighbors, "DIRECT_NODES", table)
        sampler = NeighborSampler(graph, fanouts, replace=replace, disjoint=disjoint)
        out = sampler.sample(seeds, seed=11)
        assert want.owners == (None if out.batch is None else out.batch.tolist())
        assert out.node.tolist() == want.nodes
        assert out.row.tolist() == want.source and out.col.tolist() == want.target
        assert out.num_sampled_nodes == want.hop_nodes
        assert out.num_sampled_edges == want.hop_edges
        assert torch.equal(out.node[out.row], edges[0, out.edge])
        assert torch.equal(out.node[out.col], edges[1, out.edge])


@pytest.mark.parametrize("table", [neighbors.DIRECT_NODES, 0])
@pytest.mark.parametrize("disjoint", [False, True])
def test_one_scratch_serves_batch_after_batch(
    table: int, disjoint: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a graph whose nodes are all found, with wide indices; and of one without edges."""
    monkeypatch.setattr(neighbors, "DIRECT_NODES", table)
    pairs = torch.randint(40, (2, 400), generator=torch.Generator().manual_seed(0))
    known = ga.as_graph(pairs, 40)
    wide = ga.CSRGraph(known.indptr, known.indices.long(), 40)
    for graph in (wide, ga.as_graph(torch.empty(2, 0, dtype=torch.int64), 40)):
        lists = graph.indptr.tolist(), graph.indices.tolist()
        sampler = NeighborSampler(graph, [-1, 6, -1], disjoint=disjoint)
        for seed, seeds in enumerate(([3, 3], [], list(range(40)), [39, 0, 39], [7])):
            out = sampler.sample(torch.tensor(seeds, dtype=torch.int64), seed=seed)
            want = sample_neighbors(*lists, seeds, [-1, 6, -1], False, seed, disjoint)
            assert out.node.tolist() == want.nodes and out.row.tolist() == want.source
            assert out.edge.tolist() == want.position and out.col.tolist() == want.target
        assert sampler._local.scratch.table.max() == -1


@pytest.mark.parametrize("kind", ["plain", "trained", "sparse", "by columns", "stored"])
def test_wide_features_come_as_pygs(edges: Tensor, kind: str, tmp_path: Path) -> None:
    """Whatever way they take; the order of the keys too."""
    x = torch.randn(300, 9000)
    data = Data(z=x, edge_index=edges, y=torch.arange(300), size=3, num_nodes=300)
    if kind == "trained":
        data.z = x.clone().requires_grad_()
    elif kind == "sparse":
        data.z = x.to_sparse()
    elif kind == "by columns":
        data.z = x.t().contiguous().t()
    elif kind == "stored":
        np.save(tmp_path / "x.npy", x.numpy())
        data.z = torch.from_numpy(np.load(tmp_path / "x.npy", mmap_mode="c"))
    loader = NeighborLoader(data, [5, 5], torch.arange(60), batch_size=60, num_workers=0)
    (batch,) = loader
    if kind == "trained":
        batch.z.sum().backward()
        assert data.z.grad[batch.n_id].eq(1).all() and data.z.grad.sum() == batch.z.numel()
    found = batch.z.to_dense() if kind == "sparse" else batch.z
    assert found.numel() >= 2**20 and torch.equal(found, x[batch.n_id])
    out = loader.node_sampler.sample_from_nodes(loader.input_data[[0]], seed=0)
    pygs = torch_geometric.loader.NodeLoader.filter_fn(loader, out)
    assert list(batch.to_dict()) == list(pygs.to_dict())
    assert data.z.shape == (300, 9000) and loader.data is data


def test_disjoint_samples_of_seeds_never_meet(edges: Tensor, data: Data) -> None:
    graph, seeds = ga.as_graph(edges, 300), [5, 7, 5, 299, 0]
    sampler = NeighborSampler(graph, [4, 3], disjoint=True)
    out = sampler.sample(seeds, seed=3)
    assert torch.equal(out.batch[out.row], out.batch[out.col])
    assert len({*zip(out.batch.tolist(), out.node.tolist(), strict=True)}) == len(out.node)
    alone = NeighborSampler(graph, [4, 3]).sample([5], seed=3)
    assert torch.equal(out.node[out.batch == 0], alone.node)
    assert not torch.equal(out.node[out.batch == 2], alone.node)
    loader = NeighborLoader(data, [4, 3], torch.tensor(seeds), disjoint=True, batch_size=5)
    (batch,) = loader
    assert torch.equal(batch.batch[batch.edge_index[0]], batch.batch[batch.edge_index[1]])
    assert batch.batch[:5].tolist() == [0, 1, 2, 3, 4] and batch.n_id[:5].tolist() == seeds
    assert torch.equal(sampler.induced([3, 4]).node, torch.tensor([3, 4]))
    assert sampler.sample(seeds, seed=3).batch is not None


def test_room_of_a_disjoint_sample_is_that_of_its_copies() -> None:
    dense = torch.cartesian_prod(torch.arange(60), torch.arange(60)).t()
    sampler = NeighborSampler(ga.as_graph(dense, 60), [-1, -1, -1], disjoint=True)
    out = sampler.sample(torch.arange(60))
    assert len(out.node) == 3600 and len(sampler._local.scratch.nodes) < 3 * 3600


def test_hops_have_the_mass_that_their_bias_says(edges: Tensor) -> None:
    sampler = NeighborSampler(ga.as_graph(edges, 300), [6, 5, 4], disjoint=True)
    out = sampler.sample(torch.arange(0, 300, 10))
    star, hop = hop_stars(out)
    bias = HopBias(3, heads=2)
    with torch.no_grad():
        bias.weight.normal_()
    query, key = torch.randn(30, 2, 4), torch.ones(len(out.node), 2, 4)
    hot = torch.nn.functional.one_hot(hop, 4).float()[:, None].expand(-1, 2, -1)
    found = ga.attention(query, key, hot, star, bias=bias(star, hop))
    there = torch.zeros(30, 4).index_put((out.batch, hop), torch.ones(())) > 0
    mass = bias.weight.exp().t() * there[:, None]
    torch.testing.assert_close(found, mass / mass.sum(-1, keepdim=True))
    assert bool(there.sum(1).min() < 4) and bool(there.all(1).any())
    with pytest.raises(ValueError, match=r"hop must lie in \[0, 2\], got 0 to 3"):
        HopBias(2, 2)(star, hop)
    whole = Data(edge_index=edges, num_nodes=300)
    loader = NeighborLoader(whole, [6, 5], torch.arange(9), disjoint=True, batch_size=9)
    (batch,) = loader
    star, hop = hop_stars(batch)
    assert star.num_rows == 9 and int((hop == 0).sum()) == 9 and hop.max() == 2
    sampled = torch.compile(bias, fullgraph=True, backend="aot_eager")(star, hop)
    assert torch.equal(sampled, bias(star, hop))
    with pytest.raises(TypeError, match="hop must be integers"):
        bias(star, hop.float())
    with pytest.raises(ValueError, match="sample with disjoint=True"):
        hop_stars(NeighborSampler(ga.as_graph(edges, 300), [2]).sample([1]))


def test_a_hash_table_that_grows_keeps_local_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = ga.as_graph(power_law(60_000, 120_000, 0.0, 0.0), 60_000)
    direct = NeighborSampler(graph, [-1, -1, -1]).sample(torch.arange(20_000))
    monkeypatch.setattr(neighbors, "DIRECT_NODES", 0)
    hashed = NeighborSampler(graph, [-1, -1, -1]).sample(torch.arange(20_000))
    assert len(direct.node) > 32_768  # half of the first table
    for name in ("node", "row", "col", "edge"):
        assert torch.equal(getattr(direct, name), getattr(hashed, name))


def test_subsets_are_equally_likely() -> None:
    star = torch.stack([torch.arange(1, 7), torch.zeros(6, dtype=torch.int64)])
    sampler = NeighborSampler(ga.as_graph(star, 7), [3])
    counts = np.zeros(1 << 6)
    for seed in range(2000):
        counts[sum(1 << (int(v) - 1) for v in sampler.sample([0], seed).node[1:])] += 1
    subsets = [bits for bits in range(64) if bin(bits).count("1") == 3]
    assert counts.sum() == counts[subsets].sum()
    assert chisquare(counts[subsets]).pvalue > 1e-3


def test_many_of_few_and_few_of_many_are_uniform() -> None:
    for degree, fanout in ((1000, 10), (200, 100)):
        star = torch.stack([torch.arange(1, degree + 1), torch.zeros(degree, dtype=torch.int64)])
        sampler = NeighborSampler(ga.as_graph(star, degree + 1), [fanout])
        found = torch.cat([sampler.sample([0], seed).node[1:] for seed in range(1000)])
        assert chisquare(torch.bincount(found, minlength=degree + 1)[1:].numpy()).pvalue > 1e-3


def test_a_sample_depends_on_seed_hop_and_node_alone(edges: Tensor) -> None:
    sampler = NeighborSampler(ga.as_graph(edges, 300), [4])
    alone = sampler.sample([9], seed=3)
    among = sampler.sample([1, 2, 9, 50], seed=3)
    mine = among.col == 2
    assert torch.equal(among.edge[mine], alone.edge)
    other = pickle.loads(pickle.dumps(sampler))
    assert torch.equal(other.sample([9], seed=3).edge, alone.edge)


def test_directions(edges: Tensor) -> None:
    graph = ga.as_graph(edges, 300)
    for direction, want in (
        ("in", edges[0, edges[1] == 5]),
        ("out", edges[1, edges[0] == 5]),
        ("both", torch.cat([edges[0, edges[1] == 5], edges[1, edges[0] == 5]]).unique()),
    ):
        out = NeighborSampler(graph, [-1], direction=direction).sample([5])
        assert out.node[out.row].sort().values.tolist() == want.sort().values.tolist()


def test_loader_is_pygs(data: Data) -> None:
    nodes = torch.randperm(300, generator=torch.Generator().manual_seed(2))[:50]
    loader = NeighborLoader(data, [4, 2], input_nodes=nodes, batch_size=16, num_workers=2)
    assert len(loader) == 4
    seen = []
    for batch in loader:
        assert batch.batch_size == len(batch.input_id)
        assert torch.equal(batch.n_id[: batch.batch_size], nodes[len(seen) :][:16])
        assert torch.equal(batch.x[:, 0].long(), batch.n_id)
        assert torch.equal(batch.edge_attr.long(), batch.e_id)
        assert torch.equal(batch.n_id[batch.edge_index], data.edge_index[:, batch.e_id])
        assert sum(batch.num_sampled_nodes) == batch.num_nodes
        assert sum(batch.num_sampled_edges) == batch.edge_index.shape[1]
        known = ga.as_graph(batch.edge_index, batch.num_nodes)
        fresh = ga.CSRGraph.from_edge_index(batch.edge_index.clone(), batch.num_nodes)
        assert torch.equal(known.indices, fresh.indices) and fresh.edge_perm is None
        assert torch.equal(known.indptr, fresh.indptr)
        seen += batch.input_id.tolist()
    assert seen == list(range(50))


def test_runs_with_one_seed_are_identical_for_any_number_of_threads(data: Data) -> None:
    def run(threads: int) -> list[Tensor]:
        torch.manual_seed(5)
        loader = NeighborLoader(data, [3, 3], batch_size=32, shuffle=True, num_workers=threads)
        return [batch.e_id for _ in range(2) for batch in loader]

    first = run(0)
    assert not torch.equal(first[0], first[10])  # another pass, another sample
    for threads in (1, 3):
        for left, right in zip(first, run(threads), strict=True):
            assert torch.equal(left, right)


def test_subgraph_types(data: Data) -> None:
    nodes = torch.arange(20)
    induced = next(iter(NeighborLoader(data, [3], nodes, subgraph_type="induced", batch_size=20)))
    want, ids = subgraph(induced.n_id, data.edge_index, torch.arange(4000), num_nodes=300)
    assert sorted(induced.e_id.tolist()) == sorted(ids.tolist())
    both = next(iter(NeighborLoader(data, [3], nodes, subgraph_type="bidirectional")))
    pairs = set(zip(*both.edge_index.tolist(), strict=True))
    assert pairs == {(j, i) for i, j in pairs}


def test_attention_on_a_batch_equals_the_full_graph(edges: Tensor) -> None:
    graph = ga.as_graph(edges, 300)
    query, key, value = torch.randn(3, 300, 2, 8)
    first = ga.attention(query, key, value, graph, impl="reference")
    second = ga.attention(first, key, first, graph, impl="reference")
    out = NeighborSampler(graph, [-1, -1]).sample(torch.arange(0, 300, 7))
    local = ga.as_graph(torch.stack([out.row, out.col]), len(out.node))
    q, k, v = query[out.node], key[out.node], value[out.node]
    h = ga.attention(q, k, v, local, impl="reference")
    h = ga.attention(h, k, h, local, impl="reference")
    torch.testing.assert_close(h[: len(second[::7])], second[::7], rtol=1e-5, atol=1e-6)


def test_clusters_cover_all_nodes_and_inner_edges(data: Data) -> None:
    loader = ClusterLoader(data, 6, "bfs", batch_size=2)
    nodes = []
    for batch in loader:
        want, ids = subgraph(batch.n_id, data.edge_index, torch.arange(4000), num_nodes=300)
        assert sorted(batch.e_id.tolist()) == sorted(ids.tolist())
        nodes += batch.n_id.tolist()
    assert sorted(nodes) == list(range(300))
    lattice = ga.as_graph(grid(30, 30), 900)
    part = ga.graph.partition.partition(lattice, 9, "bfs")
    source, target = lattice.edge_index()
    assert (part[source] != part[target]).float().mean() < 0.3


def test_an_error_in_a_thread_surfaces_at_once() -> None:
    release = threading.Event()

    def make(item: int) -> int:
        if item == 2:
            raise RuntimeError("broken row")
        if item == 1:
            assert release.wait(60)
        return item

    with pytest.raises(RuntimeError, match="broken row"):  # while item 1 still waits
        list(in_order(make, range(100), threads=2, ahead=3))
    assert not release.is_set()
    release.set()


def test_wrong_input(data: Data) -> None:
    sampler = NeighborSampler(data, [2])
    with pytest.raises(ValueError, match=r"nodes in \[0, 300\), got 300"):
        sampler.sample([3, 300])
    with pytest.raises(TypeError, match="mask"):
        sampler.sample(torch.zeros(7))
    with pytest.raises(ValueError, match="at least 0 per hop, or -1"):
        NeighborSampler(data, [3, -2])
    for bad in (10, ["a"], [2.7], "ab"):
        with pytest.raises(TypeError, match="num_neighbors must be a list of integers, one per h"):
            NeighborSampler(data, bad)
    assert NeighborSampler(data, torch.tensor([3, 2])).fanouts == [3, 2]
    with pytest.raises(ValueError, match=r"part must be in \[0, 300\), got -1; give the part of"):
        ClusterLoader(data, torch.arange(300) - 1)
    with pytest.raises(TypeError, match="part must be integers"):
        ClusterLoader(data, torch.ones(300))
    with pytest.raises(ValueError, match="parts must be in .*, got -2"):
        ClusterLoader(data, -2)
    with pytest.raises(ValueError, match=r"no edge ids, so that edge_attr cannot follow; delete"):
        NeighborLoader(data, [3], direction="both")
    with pytest.raises(TypeError, match="positional arguments"):
        NodeLoader(data, sampler, None, torch.arange(300))  # PyG's input_time
    with pytest.raises(ValueError, match="direction must be one of"):
        NeighborSampler(data, [3], direction="up")
    with pytest.raises(ValueError, match="but neighbor_sampler has disjoint=False"):
        NeighborLoader(data, [3], disjoint=True, neighbor_sampler=sampler)
    with pytest.raises(ValueError, match="disjoint samples have the edges that were drawn"):
        NeighborLoader(data, [3], disjoint=True, subgraph_type="induced")
    with pytest.raises(ValueError, match="parts must be in"):
        ClusterLoader(data, 301)
    loader = NeighborLoader(data, [2], input_nodes=torch.tensor([1, 999]), num_workers=2)
    with pytest.raises(ValueError, match="got 999"):
        list(loader)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_freed_memory_is_the_systems() -> None:
    blocks = [torch.ones(2**16) for _ in range(1000)]  # below the size that is mapped on its own
    del blocks[::2]
    before = prefetch.own_memory()
    prefetch.release_freed()
    if prefetch._malloc_trim() is not None:
        assert before - prefetch.own_memory() > 50 * 2**20
    assert len(blocks) == 500


@pytest.mark.parametrize("threads", [0, 2])
def test_freed_memory_goes_back_between_batches(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    calls = []
    monkeypatch.setattr(prefetch, "release_freed", lambda: calls.append(1))
    assert list(prefetch.in_order(str, range(3), threads)) == ["0", "1", "2"] and not calls
    monkeypatch.setattr(prefetch, "_SECONDS", -1.0)
    sizes = iter([2**30, 2**30, 2**31, 2**30 + 2**28, 2**30 + 2**29])  # at first, per batch, after
    monkeypatch.setattr(prefetch, "own_memory", lambda: next(sizes))
    assert list(prefetch.in_order(str, range(3), threads)) == ["0", "1", "2"] and len(calls) == 1
