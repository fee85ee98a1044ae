"""Attention over a GridGraph: the answer of its CSR, of dense masked attention, with no index."""

from typing import Any

import pytest
import torch
from torch import Tensor

import graphattn as ga
from graphattn import GridGraph
from graphattn.graph import ProductGraph
from graphattn.graph.product import implicit_plan
from tests.ops.conftest import make_qkv

HEADS, WIDTH = 2, 4
GRIDS: list[ProductGraph] = [
    GridGraph((5, 7), 3),
    GridGraph((6, 9), (4, 3), stride=(2, 1), dilation=(1, 3), is_causal=(True, False)),
    GridGraph((6, 8), (3, 4), stride=(1, 3), dilation=(2, 1), border="wrap"),
    GridGraph((3, 5, 4), (3, 2, 7), border="truncate"),
    GridGraph(41, 40),
    ga.halo((7, 7), 3, 1),
]


def qkv_of(graph: ProductGraph, **options: Any) -> list[Tensor]:
    return make_qkv(graph, HEADS, WIDTH, WIDTH, **options)  # type: ignore[arg-type]


def table_of(graph: ProductGraph) -> Tensor:
    return torch.randn(HEADS, graph.num_relative, dtype=torch.float64, requires_grad=True)


def results(
    graph: Any, nodes: list[Tensor], bias: Any = None, impl: str = "cpu", **options: Any
) -> list[Tensor]:
    """Output, LSE and every gradient."""
    torch.manual_seed(9)  # the same dropout streams
    out, lse = ga.attention(*nodes, graph, bias=bias, return_lse=True, impl=impl, **options)
    table = bias.table if isinstance(bias, ga.TableBias) else bias
    leaves = [*nodes, *([] if table is None else [table])]
    return [out, lse, *torch.autograd.grad(out.sin().sum() + (lse * lse).sum(), leaves)]


def dense_results(graph: ProductGraph, nodes: list[Tensor], table: Tensor | None) -> list[Tensor]:
    """The same by dense masked attention in float64."""
    csr = graph.to_csr()
    rows, cols = csr.row_index(), csr.indices.long()
    query, key, value = nodes
    logits = torch.einsum("rhd,chd->hrc", query, key) * query.shape[2] ** -0.5
    if table is not None:
        dense = torch.zeros_like(logits)
        dense[:, rows, cols] = table[:, graph.relative_index().long()]
        logits = logits + dense
    mask = torch.ones(graph.num_rows, graph.num_cols, dtype=torch.bool)
    mask[rows, cols] = False
    logits = logits.masked_fill(mask, -torch.inf)
    out = torch.einsum("hrc,chd->rhd", logits.softmax(-1), value)
    lse = logits.logsumexp(-1).T
    leaves = [*nodes, *([] if table is None else [table])]
    return [out, lse, *torch.autograd.grad(out.sin().sum() + (lse * lse).sum(), leaves)]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("biased", [False, True], ids=["plain", "relative bias"])
@pytest.mark.parametrize("graph", GRIDS, ids=repr)
def test_equals_dense_masked_attention_and_its_csr(graph: ProductGraph, biased: bool) -> None:
    nodes, table = qkv_of(graph), table_of(graph) if biased else None
    found = results(graph, nodes, None if table is None else ga.TableBias(table))
    written = None if table is None else ga.TableBias(table, graph.relative_index())
    by_csr = results(graph.to_csr(), nodes, written, impl="reference")
    dense = dense_results(graph, nodes, table)
    for implicit, explicit, expected in zip(found, by_csr, dense, strict=True):
        torch.testing.assert_close(implicit, expected, rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(explicit, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("graph", GRIDS[:2], ids=repr)
def test_reference_and_batches(graph: ProductGraph) -> None:
    nodes, table = qkv_of(graph, lead=(2,)), ga.TableBias(table_of(graph))
    found = results(graph, nodes, table)
    for by_cpu, by_reference in zip(found, results(graph, nodes, table, "reference"), strict=True):
        torch.testing.assert_close(by_cpu, by_reference, rtol=1e-9, atol=1e-10)
    for again, first in zip(results(graph, nodes, table), found, strict=True):
        assert torch.equal(again, first)


@pytest.mark.parametrize(
    "graph",
    [
        GridGraph((6, 10), 3, border="truncate"),
        *(pytest.param(g, marks=pytest.mark.slow) for g in [*GRIDS, ga.complete(9000, 3)]),
    ],
    ids=repr,
)
@pytest.mark.parametrize("bias", ["none", "relative", "edges", "relative and dropout"])
def test_same_bits_as_the_csr(graph: ProductGraph, bias: str) -> None:
    if "relative" in bias and graph.num_relative > 1000:
        pytest.skip("a complete graph has no table worth the name")
    nodes = [t.detach().float().requires_grad_() for t in qkv_of(graph, lead=(2,))]
    both: list[Any] = [None, None]
    if bias == "edges":
        per_edge = torch.randn(graph.num_edges, HEADS, requires_grad=True)
        both = [per_edge, per_edge]
    elif bias != "none":
        table = table_of(graph).detach().float().requires_grad_()
        both = [ga.TableBias(table), ga.TableBias(table, graph.relative_index())]
    dropout_p = 0.4 if bias in ("edges", "relative and dropout") else 0.0
    found = results(graph, nodes, both[0], dropout_p=dropout_p)
    wanted = results(graph.to_csr(), nodes, both[1], dropout_p=dropout_p)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_threads_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphattn.kernels.cpu.threads.INLINE_WORK", 0)
    graph = GRIDS[0]
    nodes, table = qkv_of(graph), ga.TableBias(table_of(graph))
    found = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(results(graph, nodes, table))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_gradcheck_with_the_table_and_lse() -> None:
    graph = GridGraph((2, 3), 2)
    nodes, table = qkv_of(graph), table_of(graph)

    def call(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Any:
        return ga.attention(q, k, v, graph, bias=ga.TableBias(table), return_lse=True, impl="cpu")

    assert torch.autograd.gradcheck(call, (*nodes, table), fast_mode=True)
    assert torch.autograd.gradgradcheck(call, (*nodes, table), fast_mode=True)


def test_scores_weights_and_top_m_are_those_of_the_csr() -> None:
    graph = GRIDS[1]
    query, key, value = (t.detach() for t in qkv_of(graph))
    table = table_of(graph).detach()
    implied, written = ga.TableBias(table), ga.TableBias(table, graph.relative_index())
    for function in (ga.edge_scores, ga.attention_weights):
        found = function(query, key, graph, bias=implied, impl="reference")
        assert torch.equal(
            found, function(query, key, graph.to_csr(), bias=written, impl="reference")
        )
    kept = ga.attention(query, key, value, graph, bias=implied, top_m=2, impl="reference")
    wanted = ga.attention(
        query, key, value, graph.to_csr(), bias=written, top_m=2, impl="reference"
    )
    assert torch.equal(kept, wanted)


def test_a_training_step_makes_nothing_of_the_size_of_the_edges() -> None:
    """torch's own allocations do not depend on the window."""
    used = []
    for size in (3, 15):
        graph = GridGraph((24, 24), size)
        nodes, table = qkv_of(graph), ga.TableBias(table_of(graph))
        results(graph, nodes, table)
        graph = GridGraph((24, 24), size)  # with its tables to be made
        with torch.profiler.profile(profile_memory=True) as profile:
            results(graph, nodes, table)
        found = [e.self_cpu_memory_usage for e in profile.key_averages()]
        used.append(sum(n for n in found if n > 0))
        assert graph._csr is None
    # Copies of the bias table [2, 841] for the pieces of the rows are all that grew.
    assert used[1] - used[0] < 64 * 2 * 8 * 29**2 * 1.5
    assert used[1] < 8 * 2 * GridGraph((24, 24), 15).num_edges


def test_compiles_as_a_whole() -> None:
    graph, made = GridGraph((5, 7), 3), []
    nodes, table = qkv_of(graph), table_of(graph)

    def outside(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ga.attention(q, k, v, graph, bias=ga.TableBias(table))

    def inside(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ga.attention(q, k, v, GridGraph((5, 7), 3), bias=ga.TableBias(table))

    expected = results(graph, nodes, ga.TableBias(table))
    for function in (outside, inside):
        out = torch.compile(function, fullgraph=True, backend="aot_eager")(*nodes)
        made.append(torch.autograd.grad(out.sin().sum(), nodes))
        assert torch.equal(out, expected[0])
    assert all(torch.equal(a, b) for a, b in zip(*made, strict=True))


def test_plan_is_a_proper_operator() -> None:
    torch.library.opcheck(implicit_plan, ([0, 2], [5, 5, 3, 1, 1, 0, 0, 0] * 2, 225))


def test_wrong_tables() -> None:
    graph = GRIDS[0]
    nodes = qkv_of(graph)
    with pytest.raises(ValueError, match=r"must be \[H, 25\] .* got \[2, 9\]"):
        ga.attention(*nodes, graph, bias=ga.TableBias(torch.randn(2, 9)))
    with pytest.raises(ValueError, match="needs a GridGraph"):
        ga.attention(*nodes, graph.to_csr(), bias=ga.TableBias(torch.randn(2, 25)))
    with pytest.raises(ValueError, match="one row per head, 2"):
        ga.attention(*nodes, graph, bias=ga.TableBias(torch.randn(3, 25)))
    with pytest.raises(ValueError, match="query has 34 nodes but the graph has 35 rows"):
        ga.attention(nodes[0][1:], *nodes[1:], graph)
