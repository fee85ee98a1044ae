"""Parts of a graph: balanced, few edges between them, METIS called as its version wants."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import graphattn as ga
from graphattn.datasets.generated import grid
from graphattn.graph.partition import partition

GRAPH = ga.as_graph(grid(20, 30))


def cut(part: torch.Tensor) -> float:
    """Edges between parts."""
    return float((part[GRAPH.row_index()] != part[GRAPH.indices.long()]).float().mean())


@pytest.mark.parametrize("method", ["bfs", "metis"])
def test_parts_are_even_and_near(method: str) -> None:
    if method == "metis":
        pytest.importorskip("pymetis")
    part = partition(GRAPH, 6, method)
    counts = torch.bincount(part, minlength=6)
    assert part.dtype == torch.int64 and int(counts.min()) >= 95 and int(counts.max()) <= 105
    assert cut(part) < 0.25 < cut(torch.arange(600) % 6)


@pytest.mark.parametrize("recent", [True, False])
def test_metis_gets_a_symmetric_graph_without_loops(
    monkeypatch: pytest.MonkeyPatch, recent: bool
) -> None:
    seen: dict[str, Any] = {}

    def part_graph(parts: int, adjacency: Any = None, **arrays: Any) -> tuple[int, list[int]]:
        given = (arrays["xadj"], arrays["adjncy"]) if adjacency is None else adjacency
        seen.update(parts=parts, arrays=given)
        return 0, [0, 1, 1]

    fake = SimpleNamespace(part_graph=part_graph)
    if recent:
        fake.CSRAdjacency = lambda starts, ends: (starts, ends)
    monkeypatch.setitem(sys.modules, "pymetis", fake)  # type: ignore[arg-type]
    part = partition(ga.as_graph(torch.tensor([[0, 1, 1], [1, 2, 1]]), 3), 2, "metis")
    assert part.tolist() == [0, 1, 1] and seen["parts"] == 2
    assert [list(array) for array in seen["arrays"]] == [[0, 1, 3, 4], [1, 0, 2, 1]]


def test_wrong_input() -> None:
    with pytest.raises(ValueError, match="method must be one of auto, bfs, metis, got 'cut'"):
        partition(GRAPH, 2, "cut")
    with pytest.raises(ValueError, match=r"parts must be in \[1, 600\]"):
        partition(GRAPH, 601)
