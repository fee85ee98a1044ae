"""The store: what goes in comes out, killed builds go on, and damage is named."""

import gc
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import graphattn as ga
from graphattn.datasets.generated import power_law
from graphattn.graph import store_rows
from graphattn.graph.store import Store
from graphattn.graph.store_build import build_store
from graphattn.graph.store_rows import add_array
from graphattn.sampling import NeighborLoader, open_store

N, E = 230, 3000
EDGES = power_law(220, E, 0.7, 0.4)[:, torch.randperm(E, generator=torch.manual_seed(0))]
X = torch.randn(N, 6, generator=torch.manual_seed(1))
Y = torch.arange(N) % 4


def blocks() -> Iterator[np.ndarray]:
    for part in torch.split(EDGES, 700, dim=1):
        yield part.numpy()


def build(folder: Path, **options: Any) -> Store:
    arrays = {"x": X, "y": Y, "split_train": torch.arange(0, N, 2)}
    return build_store(folder, N, E, blocks, arrays, **({"bucket": 500} | options))


@pytest.mark.parametrize("options", [{}, {"coalesce": True}, {"undirected": True}])
def test_the_graph_comes_back(tmp_path: Path, options: dict[str, bool]) -> None:
    graph = build(tmp_path, **options).graph
    want = ga.as_graph(EDGES, N)
    want = want.to_undirected() if "undirected" in options else want
    want = want.coalesce() if options else want
    assert torch.equal(graph.indptr, want.indptr)
    assert torch.equal(graph.indices, want.indices) and graph.indices.dtype == torch.int32
    assert not (tmp_path / "buckets").exists() and not (tmp_path / "progress.json").exists()


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16", None])
def test_arrays_come_back(tmp_path: Path, dtype: str | None) -> None:
    store = build(tmp_path, dtype=dtype)
    kind = store_rows.DTYPES[dtype or "fp32"]
    assert torch.equal(store.array("x"), X.to(kind))
    nodes = torch.tensor([7, 3, 7, 229, 0])
    assert torch.equal(store.gather("x", nodes), X.to(kind)[nodes])
    assert torch.equal(store.array("y"), Y)
    store.verify()


@pytest.mark.parametrize("step", range(1, 12, 2))
def test_a_killed_build_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    put, calls = store_rows.Progress.put, []

    def killed(self: Any, **values: Any) -> None:
        if len(calls) == step:
            raise KeyboardInterrupt
        calls.append(values)
        put(self, **values)

    monkeypatch.setattr(store_rows.Progress, "put", killed)
    monkeypatch.setattr(store_rows, "_ROWS", 2000)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "a")
    with pytest.raises(ValueError, match="is no graph store"):
        Store(tmp_path / "a")
    with pytest.raises(ValueError, match="beginning of another store"):
        build(tmp_path / "a", undirected=True)
    monkeypatch.setattr(store_rows.Progress, "put", put)
    build(tmp_path / "a")
    build(tmp_path / "b")
    for name in ("indptr", "indices", "x", "y", "split_train"):
        one, other = (tmp_path / f / f"{name}.npy" for f in "ab")
        assert one.read_bytes() == other.read_bytes()


def test_a_loader_reads_from_the_disk(tmp_path: Path) -> None:
    build(tmp_path, dtype="fp16")
    features, topology = open_store(tmp_path)
    seeds = torch.arange(0, N, 3)
    graph = ga.as_graph(EDGES, N)
    memory = ga.sampling.NeighborSampler(graph, [4, 3])
    loader = NeighborLoader((features, topology), [4, 3], input_nodes=seeds, batch_size=40)
    for batch in loader:
        assert torch.equal(batch.x, X.half().float()[batch.n_id])
        assert torch.equal(batch.y, Y[batch.n_id])
        source, target = batch.n_id[batch.edge_index]
        assert torch.equal(graph.indices[batch.e_id].long(), source)
        assert torch.equal(graph.row_index()[batch.e_id], target)
    direct = memory.sample(seeds, 5)
    mapped = ga.sampling.NeighborSampler((features, topology), [4, 3]).sample(seeds, 5)
    assert torch.equal(direct.node, mapped.node) and torch.equal(direct.row, mapped.row)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs /proc")
def test_a_store_beyond_memory_is_read_row_by_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path)
    nodes = torch.tensor([5, 2, 229])
    for pages, advised in ((1 << 30, False), (1, True)):
        monkeypatch.setattr("os.sysconf", lambda name, pages=pages: pages)
        store = Store(tmp_path)
        assert torch.equal(store.gather("x", nodes), X[nodes])
        maps = Path("/proc/self/smaps").read_text().split("VmFlags:")
        flags = next(b.split("\n")[0] for a, b in pairwise(maps) if f"{tmp_path}/x.npy" in a)
        assert ("rr" in flags.split()) == advised
        del store
        gc.collect()


def damage_truncated(folder: Path) -> None:
    with (folder / "x.npy").open("r+b") as file:
        file.truncate(1000)


def damage_swapped(folder: Path) -> None:
    other = np.zeros_like(np.load(folder / "x.npy"))
    np.save(folder / "x.npy", other)


def damage_removed(folder: Path) -> None:
    (folder / "indices.npy").unlink()


def damage_version(folder: Path) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"version": 99}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_truncated, "x.npy is damaged: it has 1,000 bytes instead of"),
        (damage_swapped, "x.npy is damaged: its content is not what was written"),
        (damage_removed, "indices.npy is damaged: it is missing"),
        (damage_version, "store version 99, expected 1"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Any, message: str) -> None:
    build(tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=message):
        Store(tmp_path)


def test_verify_reads_everything(tmp_path: Path) -> None:
    store = build(tmp_path)
    store.meta["arrays"]["y"]["sha256"] = "0" * 64
    with pytest.raises(ValueError, match="y.npy is damaged: its SHA-256"):
        store.verify()


@pytest.mark.parametrize(
    ("edges", "error", "message"),
    [
        (EDGES.double().numpy(), TypeError, r"NumPy arrays of integers \[2, n\], got float64"),
        (EDGES, TypeError, r"NumPy arrays of integers \[2, n\], got Tensor"),
        (EDGES.t().numpy(), ValueError, r"blocks \[2, n\] .*, got \[3000, 2\]; transpose"),
        (EDGES[:, 1:].numpy(), ValueError, "announced 3,000 edges, the stream yielded 2,999;"),
        (EDGES[:, [0, *range(E)]].numpy(), ValueError, "the stream yielded 3,001 and more;"),
    ],
)
def test_edges_are_as_announced(tmp_path: Path, edges: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        build_store(tmp_path, N, E, lambda: iter([edges]), {})
    assert not (tmp_path / "meta.json").exists()


def test_arrays_fit_nodes_and_dtype(tmp_path: Path) -> None:
    def store(folder: str, x: torch.Tensor, **options: Any) -> Store:
        return build_store(tmp_path / folder, N, E, blocks, {"x": x}, **options)

    with pytest.raises(ValueError, match="x must have one row per node, 230, got 229"):
        store("a", X[1:])
    with pytest.raises(ValueError, match="hop1 must have one row per node, 230, got 3"):
        store("b", X)
        add_array(tmp_path / "b", "hop1", X[:3])
    large = X.clone()
    large[200, 2], large[0, 0] = 1e5, torch.inf  # what was infinite may stay so
    with pytest.raises(ValueError, match=r"x of node 200 is 1e\+05, which float16 cannot hold"):
        store("c", large, dtype="fp16")
    assert store("d", large, dtype="bf16").array("x")[200, 2].isfinite()


def test_gather_takes_node_numbers(tmp_path: Path) -> None:
    store = build(tmp_path)
    for bad in (-1, N):
        with pytest.raises(ValueError, match=rf"rows of x of .* in \[0, 230\), got {bad};"):
            store.gather("x", torch.tensor([0, bad]))
    with pytest.raises(TypeError, match=r"got torch.bool; call .nonzero\(\)"):
        store.gather("x", torch.ones(N, dtype=torch.bool))
    assert store.gather("x", torch.tensor([], dtype=torch.int64)).shape == (0, 6)
    square = torch.tensor([[3, 0], [0, 7]], dtype=torch.int16)
    assert torch.equal(store.gather("x", square), store.array("x")[square.long()])


def test_a_finished_store_is_returned_only_for_what_it_holds(tmp_path: Path) -> None:
    build(tmp_path)
    add_array(tmp_path, "hop1", X)
    assert sorted(build(tmp_path).names) == ["hop1", "split_train", "x", "y"]
    for options, message in (
        ({"name": "other"}, "finished store with name , asked for other; write"),
        ({"undirected": True}, "with undirected False, asked for True"),
        ({"dtype": "fp16"}, r"with array x \[\[230, 6\], 'float32'\], asked for"),
    ):
        with pytest.raises(ValueError, match=message):
            build(tmp_path, **options)
    with pytest.raises(ValueError, match="with num_nodes 230, asked for 231"):
        build_store(tmp_path, N + 1, E, blocks, {})
    with pytest.raises(ValueError, match="with edges_read 3000, asked for 2999"):
        build_store(tmp_path, N, E - 1, blocks, {})
    with pytest.raises(ValueError, match="with array z missing, asked for"):
        build_store(tmp_path, N, E, blocks, {"z": X})


def test_wrong_input(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nodes in \[0, 100\), got"):
        build_store(tmp_path / "a", 100, E, blocks, {})
    with pytest.raises(ValueError, match="dtype must be one of fp32, fp16, bf16"):
        build(tmp_path / "b", dtype="fp8")
    with pytest.raises(KeyError, match="has no array 'z'; it has x, y"):
        build(tmp_path / "c").array("z")


def test_an_array_goes_on_only_as_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed ``add_array`` may not be finished with other rows of the same shape."""
    edges = np.array([[0, 1, 2], [1, 2, 0]])
    build_store(tmp_path / "s", 3, 3, lambda: iter([edges]), {"y": torch.zeros(3)})
    monkeypatch.setattr("graphattn.graph.store_rows._ROWS", 4)

    class Killed(Exception):
        pass

    class Rows:
        shape, dtype = (3, 1), torch.float32

        def numel(self) -> int:
            return 3

        def __len__(self) -> int:
            return 3

        def __getitem__(self, rows: slice) -> torch.Tensor:
            if rows.start == 1:
                raise Killed
            return torch.ones(1, 1)

    with pytest.raises(Killed):
        add_array(tmp_path / "s", "pe", Rows(), {"encoding": "one"})
    with pytest.raises(ValueError, match="beginning of another"):
        add_array(tmp_path / "s", "pe", torch.zeros(3, 1), {"encoding": "two"})
    store = add_array(tmp_path / "s", "pe", torch.zeros(3, 1), {"encoding": "one"})
    assert store.array("pe").flatten().tolist() == [1.0, 0.0, 0.0]
