"""Table biases, the m largest logits, and logits without a value."""

from typing import Any

import pytest
import torch
from torch import Tensor

import graphattn as ga
from graphattn import CSRGraph
from tests.ops.conftest import make_qkv

IMPLS = ("reference", "cpu")


def table_bias(graph: CSRGraph, heads: int = 3, types: int = 7) -> ga.TableBias:
    table = torch.randn(heads, types, dtype=torch.float64, requires_grad=True)
    return ga.TableBias(table, torch.randint(0, types, (graph.num_edges,)))


@pytest.mark.parametrize("impl", IMPLS)
def test_a_table_is_the_bias_it_spells_out(graph: CSRGraph, impl: str) -> None:
    qkv, bias = make_qkv(graph, lead=(2,)), table_bias(graph)
    with torch.no_grad():
        bias.table[1, 2] = -torch.inf
    spelled = bias.table[:, bias.index].T
    want = ga.attention(*qkv, graph, bias=spelled, impl="reference")
    found = ga.attention(*qkv, graph, bias=bias, impl=impl)
    torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-10)
    pull = torch.randn_like(want)
    leaves = [*qkv, bias.table]
    for a, b in zip(
        torch.autograd.grad(found, leaves, pull),
        torch.autograd.grad(want, leaves, pull),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_table_errors_name_the_remedy(graph: CSRGraph) -> None:
    q, k, v = make_qkv(graph)
    table, index = torch.randn(3, 7), torch.randint(0, 7, (graph.num_edges,))
    for change, error, words in (
        ({"index": index + 1}, ValueError, "T = 7"),
        ({"index": index.float()}, TypeError, "int32 or int64"),
        ({"index": index[:, None]}, ValueError, r"\[E\]"),
        ({"table": table[0]}, ValueError, r"\[H, T\]"),
        ({"table": table.long()}, TypeError, "floating point"),
    ):
        index[0] = 6
        with pytest.raises(error, match=words):
            ga.TableBias(**{"table": table, "index": index} | change)
    with pytest.raises(ValueError, match="one row per head, 3"):
        ga.attention(q, k, v, graph, bias=ga.TableBias(table[:2], index))
    with pytest.raises(ValueError, match="one entry per edge"):
        ga.attention(q, k, v, graph, bias=ga.TableBias(table, index[1:]))


def masked_attention(qkv: list[Tensor], graph: CSRGraph, m: int, **options: Any) -> Tensor:
    """The m largest logits of each row and head, chosen by a loop."""
    scores = ga.edge_scores(qkv[0], qkv[1], graph, impl="reference", **options).detach()
    target = graph.edge_index()[1]
    bias = torch.full_like(scores, -torch.inf)
    for row in range(graph.num_rows):
        mine = (target == row).nonzero().squeeze(1)
        source = graph.edge_index()[0, mine]
        for head in range(scores.shape[-1]):
            ranked = sorted(
                range(len(mine)),
                key=lambda e: (-float(scores[mine[e], head]), int(source[e]), int(mine[e])),
            )
            bias[mine[ranked[:m]], head] = 0.0
    if "bias" in options:
        bias = bias + options.pop("bias")[:, None]
    return ga.attention(*qkv, graph, bias=bias, impl="reference", **options)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("m", [1, 3, 1000])
def test_the_m_largest_logits_of_every_row_and_head(graph: CSRGraph, impl: str, m: int) -> None:
    qkv = make_qkv(graph)
    with torch.no_grad():
        qkv[0][4] = 0.0
    bias = torch.randn(graph.num_edges).double()
    bias[graph.edge_index()[1] == 4] = 0.25  # the hub row: nothing but ties
    options: dict[str, Any] = {"clamp": 1.5, "bias": bias}
    want = masked_attention(qkv, graph, m, **options)
    found = ga.attention(*qkv, graph, top_m=m, impl=impl, **options)
    torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-10)
    pull = torch.randn_like(want)
    for a, b in zip(
        torch.autograd.grad(found, qkv, pull), torch.autograd.grad(want, qkv, pull), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_values_of_dropped_edges_are_not_read(graph: CSRGraph) -> None:
    q, k, v = (t.detach() for t in make_qkv(graph, heads=1))
    kept, ids = ga.top_m(ga.edge_scores(q, k, graph)[:, 0], graph, 2)
    read = torch.zeros(graph.num_cols, dtype=torch.bool)
    read[graph.edge_index()[0, ids]] = True
    v[~read] = torch.nan
    assert kept.num_edges == len(ids) and not bool(read.all())
    assert bool(ga.attention(q, k, v, graph, top_m=2, impl="cpu").isfinite().all())


@pytest.mark.parametrize("m", [0, -1, 1.5, True])
def test_top_m_must_be_a_positive_integer(graph: CSRGraph, m: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="top_m"):
        ga.attention(*make_qkv(graph), graph, top_m=m)


@pytest.mark.parametrize("impl", IMPLS)
def test_edge_scores_and_their_gradients(graph: CSRGraph, impl: str) -> None:
    q, k, _ = make_qkv(graph, width=6, lead=(2, 2))
    source, target = graph.edge_index()
    attr = torch.randn(graph.num_edges, 2, dtype=torch.float64, requires_grad=True)
    proj = torch.randn(3, 6, 2, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(graph.num_edges, 3, dtype=torch.float64, requires_grad=True)
    keys = k[:, :, source] + torch.einsum("ef,hdf->ehd", attr, proj)
    want = (0.3 * (q[:, :, target] * keys).sum(-1)).clamp(-1, 1) + bias
    found = ga.edge_scores(
        q, k, graph, scale=0.3, clamp=1, bias=bias, edge_attr=attr, edge_proj=proj, impl=impl
    )
    torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-10)
    pull, leaves = torch.randn_like(want), [q, k, attr, proj, bias]
    for a, b in zip(
        torch.autograd.grad(found, leaves, pull),
        torch.autograd.grad(want, leaves, pull),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_scores_then_softmax_then_sum_is_attention(graph: CSRGraph) -> None:
    q, k, v = make_qkv(graph, value_width=5)
    weights = ga.edge_softmax(ga.edge_scores(q, k, graph), graph)
    torch.testing.assert_close(ga.aggregate(v, graph, weights), ga.attention(q, k, v, graph))


def test_edge_scores_gradgradcheck(graph: CSRGraph) -> None:
    q, k, _ = make_qkv(graph, heads=1, width=2)

    def scores(query: Tensor, key: Tensor) -> Tensor:
        return ga.edge_scores(query, key, graph, clamp=0.9, impl="cpu")

    torch.autograd.gradgradcheck(scores, (q, k), fast_mode=True)


def test_unknown_option_is_named(graph: CSRGraph) -> None:
    q, k, _ = make_qkv(graph)
    with pytest.raises(TypeError, match="dropout_p"):
        ga.edge_scores(q, k, graph, dropout_p=0.1)  # type: ignore[call-arg]
