"""top_m: against torch.topk row by row, with its rule for ties."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from graphattn import CSRGraph
from graphattn.ops.fused import flatten
from graphattn.ops.top_m import top_m, top_m_bits, top_m_op
from tests.ops.conftest import messy_graph

IMPLS = ["reference", "cpu"]


def by_sorting(scores: Tensor, graph: CSRGraph, m: int) -> Tensor:
    """Which edges [E] survive, by Python's sort on (score, column, id)."""
    source, target = graph.edge_index().tolist()
    keep = torch.zeros(graph.num_edges, dtype=torch.bool)

    def rank(edge: int) -> tuple[float, float, int, int]:
        score = float(scores[edge])
        nan = score != score
        return (0.0 if nan else 1.0, 0.0 if nan else -score, source[edge], edge)

    for row in range(graph.num_rows):
        edges = [e for e in range(graph.num_edges) if target[e] == row]
        keep[sorted(edges, key=rank)[:m]] = True
    return keep


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("m", [1, 3, 100])
def test_equals_a_sort(graph: CSRGraph, impl: str, dtype: torch.dtype, m: int) -> None:
    special = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0, -0.0, 1e-40, -3.0])
    for scores in (
        torch.randn(graph.num_edges),
        torch.randint(-2, 3, (graph.num_edges,)).float(),
        special[torch.randint(0, 7, (graph.num_edges,))],
    ):
        scores = scores.to(dtype)
        smaller, ids = top_m(scores, graph, m, impl=impl)
        assert torch.equal(ids.sort().values, by_sorting(scores, graph, m).nonzero().squeeze(1))
        assert torch.equal(smaller.edge_index(), graph.edge_index()[:, ids])
        assert (smaller.num_rows, smaller.num_cols) == (graph.num_rows, graph.num_cols)
        CSRGraph(smaller.indptr, smaller.indices, smaller.num_cols)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_graph(data: st.DataObject) -> None:
    rows, cols = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 5))
    count = data.draw(st.integers(0, 30))
    numbers = st.floats(width=32, allow_nan=True, allow_subnormal=True)
    scores = torch.tensor(data.draw(st.lists(numbers, min_size=count, max_size=count)))
    pairs = st.tuples(st.integers(0, cols - 1), st.integers(0, rows - 1))
    edges = data.draw(st.lists(pairs, min_size=count, max_size=count))
    graph = CSRGraph.from_edge_index(
        torch.tensor(edges, dtype=torch.int64).reshape(-1, 2).t(), (cols, rows)
    )
    m = data.draw(st.integers(1, 8))
    found = [top_m(scores.float(), graph, m, impl=impl)[1] for impl in IMPLS]
    want = by_sorting(scores, graph, m).nonzero().squeeze(1)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0].sort().values, want)


def test_bits_per_head_and_batch(graph: CSRGraph) -> None:
    for heads in (1, 5, 32, 40):
        scores = torch.randint(-4, 4, (2, graph.num_edges, heads)).float()
        bits = [top_m_bits(scores, graph, 2, impl) for impl in IMPLS]
        assert bits[0].shape == (2, graph.num_edges, -(-heads // 32))
        assert torch.equal(bits[0], bits[1])
        for b, h in ((0, 0), (1, heads - 1)):
            found = (bits[0][b, :, h // 32] >> (h % 32)) & 1
            assert torch.equal(found.bool(), by_sorting(scores[b, :, h], graph, 2))


def test_scores_stay_differentiable_through_the_ids(graph: CSRGraph) -> None:
    scores = torch.randn(graph.num_edges, requires_grad=True)
    _, ids = top_m(scores, graph, 2)
    (grad,) = torch.autograd.grad(scores[ids].sum(), scores)
    assert int(grad.sum()) == ids.numel()


def test_bits_trace_and_pass_opcheck(graph: CSRGraph) -> None:
    scores, rows = torch.randn(2, graph.num_edges, 3), flatten(graph.rows_layout("cpu"))
    torch.library.opcheck(top_m_op, (scores, rows, 3, "cpu"))
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda s: top_m_bits(s, graph, 3, "cpu"), fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(compiled(scores), top_m_bits(scores, graph, 3, "cpu"))


def test_long_rows_and_no_edges() -> None:
    star = CSRGraph.from_edge_index(torch.stack([torch.arange(999), torch.zeros(999).long()]), 999)
    scores = torch.randint(0, 50, (999,)).float()
    for m in (1, 2, 64, 500, 998, 999, 2**40):
        found, want = (top_m(scores, star, m, impl=impl)[1] for impl in ("cpu", "reference"))
        assert torch.equal(found, want) and found.numel() == min(m, 999)
    none = CSRGraph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), (3, 4))
    for impl in IMPLS:
        smaller, ids = top_m(torch.zeros(0), none, 1, impl=impl)
        assert (smaller.num_rows, smaller.num_cols, ids.numel()) == (4, 3, 0)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"m": 0}, ValueError, "m must be at least 1, got 0"),
        ({"m": 2.0}, TypeError, "m must be an integer, got float"),
        ({"m": True}, TypeError, "m must be an integer, got bool"),
        ({"scores": torch.zeros(135, 2)}, ValueError, r"scores must have shape \[135\]"),
        ({"scores": torch.zeros(135).long()}, TypeError, "floating point"),
    ],
)
def test_wrong_input(change: dict[str, Any], error: type[Exception], words: str) -> None:
    call: dict[str, Any] = {"scores": torch.zeros(135), "graph": messy_graph(), "m": 1} | change
    with pytest.raises(error, match=words):
        top_m(**call)
