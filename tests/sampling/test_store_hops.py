"""Hop features on the disk: those of memory, in blocks, going on after a kill."""

from collections.abc import Iterator
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
from graphattn.sampling import hop_features, hops, tokens
from graphattn.sampling.hops import store_hops

N, E = 150, 2000
EDGES = power_law(140, E, 0.9, 0.6)  # hubs, duplicates, self-loops and isolated nodes
X = torch.randn(N, 5, generator=torch.manual_seed(1))


def build(folder: Path, x: torch.Tensor = X, **options: Any) -> Store:
    def blocks() -> Iterator[np.ndarray]:
        yield EDGES.numpy()

    return build_store(folder, N, E, blocks, {"x": x}, **options)


@pytest.mark.parametrize("direction", ["in", "out", "both"])
@pytest.mark.parametrize("coalesce", [False, True])
def test_equal_to_those_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direction: str, coalesce: bool
) -> None:
    monkeypatch.setattr(hops, "_EDGES", 50)  # a hub's row has more
    monkeypatch.setattr(store_rows, "_ROWS", 300)
    build(tmp_path, coalesce=coalesce)
    store = store_hops(tmp_path, 2, direction=direction)
    want = hop_features(ga.as_graph(EDGES, N), X, 2, direction=direction)
    for hop in (1, 2):
        torch.testing.assert_close(store.array(f"hop{hop}"), want[hop], rtol=1e-5, atol=1e-6)
    store.verify()
    other = "out" if direction != "out" else "in"
    with pytest.raises(ValueError, match=f"follow direction '{direction}', asked for '{other}'"):
        store_hops(tmp_path, 2, direction=other)


def test_halves_stay_halves_and_say_when_they_overflow(tmp_path: Path) -> None:
    build(tmp_path / "a", dtype="fp16")
    store = store_hops(tmp_path / "a", 1)
    want = hop_features(ga.as_graph(EDGES, N), X.half().float(), 1)[1]
    assert store.array("hop1").dtype == torch.float16
    torch.testing.assert_close(store.array("hop1").float(), want, rtol=2e-3, atol=2e-3)
    build(tmp_path / "b", torch.full((N, 5), 6e4), dtype="fp16")
    with pytest.raises(ValueError, match="not finite in torch.float16; build the store with"):
        store_hops(tmp_path / "b", 1)
    assert "hop1" not in Store(tmp_path / "b").names


@pytest.mark.parametrize("step", [0, 2, 5])
def test_goes_on_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    monkeypatch.setattr(store_rows, "_ROWS", 300)
    put, calls = store_rows.Progress.put, []

    def killed(self: Any, **values: Any) -> None:
        calls.append(values)
        if len(calls) > step:
            raise KeyboardInterrupt
        put(self, **values)

    for name in "ab":
        build(tmp_path / name)
    monkeypatch.setattr(store_rows.Progress, "put", killed)
    with pytest.raises(KeyboardInterrupt):
        store_hops(tmp_path / "a", 2)
    assert "hop2" not in Store(tmp_path / "a").names  # and still a store
    monkeypatch.setattr(store_rows.Progress, "put", put)
    for name in "ab":
        store_hops(tmp_path / name, 2)
    for key in ("hop1", "hop2"):
        one, other = ((tmp_path / f / f"{key}.npy").read_bytes() for f in "ab")
        assert one == other
    assert not list((tmp_path / "a").glob("progress*"))


def test_a_store_without_features(tmp_path: Path) -> None:
    build_store(tmp_path, N, E, lambda: iter([EDGES.numpy()]), {"y": torch.zeros(N)})
    with pytest.raises(ValueError, match="has no features to average"):
        store_hops(tmp_path)


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_duplicates_are_found_in_any_block(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(tokens, "_ROWS", rows)
    graph = ga.as_graph(EDGES, N)
    merged = tokens.merged(graph)
    assert torch.equal(merged.indices, graph.coalesce().indices)
    assert tokens.merged(merged) is merged
    last = ga.as_graph(torch.tensor([[0, 0, 1, 1], [0, 1, 3, 3]]), 5)
    assert tokens.merged(last).num_edges == 3
