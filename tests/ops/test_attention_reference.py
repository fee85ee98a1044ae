"""The definition itself, against loops over dense rows and torch's own attention."""

import pytest
import torch

import graphattn as ga
from graphattn import CSRGraph
from tests.ops.conftest import dense_weights, make_qkv


def loop_attention(q, k, v, graph, *, scale, gate=None, clamp=None, bias=None):  # type: ignore[no-untyped-def]
    """One row at a time, straight from the formula."""
    source, target = graph.edge_index()
    gated = scale * q[target] * k[source]
    logit = (gated if gate is None else gated * gate).sum(-1)
    if clamp is not None:
        logit = logit.clamp(-clamp, clamp)
    if bias is not None:
        logit = logit + (bias if bias.dim() == 2 else bias[:, None])
    weight = dense_weights(logit, graph)
    out = torch.zeros(graph.num_rows, *v.shape[1:], dtype=v.dtype)
    return out.index_add(0, target, weight[..., None] * v[source]), weight, logit


def test_against_loops_with_every_option(graph: CSRGraph) -> None:
    q, k, v = make_qkv(graph)
    edges = graph.num_edges
    for options in (
        {},
        {"bias": torch.randn(edges, dtype=torch.float64)},
        {"bias": torch.randn(edges, 3, dtype=torch.float64), "clamp": 0.3},
        {"gate": torch.randn(edges, 3, 5, dtype=torch.float64), "clamp": 0.5},
    ):
        want, weight, _ = loop_attention(q, k, v, graph, scale=5**-0.5, **options)
        out = ga.attention(q, k, v, graph, impl="reference", **options)
        torch.testing.assert_close(out, want, rtol=1e-12, atol=1e-12)
        found = ga.attention_weights(q, k, graph, **options)
        torch.testing.assert_close(found, weight, rtol=1e-12, atol=1e-12)


def test_complete_graph_is_dense_attention() -> None:
    nodes = torch.arange(7)
    complete = CSRGraph.from_edge_index(torch.cartesian_prod(nodes, nodes).t(), 7)
    q, k, v = (torch.randn(2, 7, 4, 6) for _ in range(3))
    dense = torch.nn.functional.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    ).transpose(1, 2)
    torch.testing.assert_close(ga.attention(q, k, v, complete, impl="reference"), dense)


def test_empty_rows_and_masked_rows(graph: CSRGraph) -> None:
    q, k, v = make_qkv(graph)
    bias = torch.zeros(graph.num_edges, dtype=torch.float64)
    bias[graph.edge_index()[1] == 7] = -torch.inf
    bias.requires_grad_()
    out, lse = ga.attention(q, k, v, graph, bias=bias, return_lse=True, impl="reference")
    for row in (0, 1, 7):
        assert not out[row].any()
        assert bool((lse[row] == -torch.inf).all())
    grads = torch.autograd.grad(out.sum(), [q, k, v, bias])
    assert all(bool(g.isfinite().all()) for g in grads)
    assert not grads[0][7].any()


def test_eps_and_null_logit_join_the_denominator(graph: CSRGraph) -> None:
    q, k, v = make_qkv(graph)
    plain, lse = ga.attention(q, k, v, graph, return_lse=True, impl="reference")
    total = lse.exp()
    eps, eps_lse = ga.attention(q, k, v, graph, eps=0.5, return_lse=True, impl="reference")
    torch.testing.assert_close(eps, plain * (total / (total + 0.5))[..., None])
    torch.testing.assert_close(eps_lse, (total + 0.5).log())
    for null in (0.3, torch.randn(3), torch.randn(23, 3)):
        out, null_lse = ga.attention(
            q, k, v, graph, null_logit=null, return_lse=True, impl="reference"
        )
        weight = torch.as_tensor(null).double().exp()
        torch.testing.assert_close(null_lse, (total + weight).log())
        torch.testing.assert_close(out, plain * (total / (total + weight))[..., None])


def test_edge_features_are_added_to_key_and_value(graph: CSRGraph) -> None:
    q, k, v = make_qkv(graph, width=5, value_width=5)
    attr = torch.randn(graph.num_edges, 6, dtype=torch.float64)
    proj = torch.randn(3, 5, 6, dtype=torch.float64)
    source, target = graph.edge_index()
    feature = torch.einsum("hdf,ef->ehd", proj, attr)
    logit = (q[target] * (k[source] + feature)).sum(-1) * 0.7
    weight = dense_weights(logit, graph)
    want = torch.zeros_like(q).index_add(0, target, weight[..., None] * (v[source] + feature))
    out = ga.attention(q, k, v, graph, edge_attr=attr, edge_proj=proj, scale=0.7, impl="reference")
    torch.testing.assert_close(out, want, rtol=1e-12, atol=1e-12)


def test_grouped_heads_and_zero_scale(graph: CSRGraph) -> None:
    q, k, v = make_qkv(graph, heads=6)
    k, v = k[:, :2], v[:, :2]
    spread = [t.repeat_interleave(3, dim=1) for t in (k, v)]
    torch.testing.assert_close(
        ga.attention(q, k, v, graph, impl="reference"),
        ga.attention(q, *spread, graph, impl="reference"),
    )
    uniform = ga.attention(q, k, v, graph, scale=0.0, impl="reference")
    degree = graph.degree().clamp(min=1)[:, None, None]
    source, target = graph.edge_index()
    mean = torch.zeros_like(uniform).index_add(0, target, spread[1][source]) / degree
    torch.testing.assert_close(uniform, mean)


def test_dropout_is_unbiased_seeded_and_keeps_lse() -> None:
    star = CSRGraph.from_edge_index(
        torch.stack([torch.arange(4000), torch.zeros(4000).long()]), 4000
    )
    q = torch.zeros(4000, 2, 3)
    v = torch.ones(4000, 2, 1)
    torch.manual_seed(5)
    first, lse = ga.attention(q, q, v, star, dropout_p=0.25, return_lse=True, impl="reference")
    torch.manual_seed(5)
    again = ga.attention(q, q, v, star, dropout_p=0.25, impl="reference")
    assert torch.equal(first, again)
    assert not torch.equal(first[0, 0], first[0, 1]), "heads draw their own masks"
    assert (first[0] - 1).abs().max() < 0.05
    torch.testing.assert_close(lse[0], torch.full((2,), 4000.0).log())


def test_merge_of_many_parts_rounds_once() -> None:
    torch.manual_seed(0)
    outs, lses = torch.randn(64, 5, 2, 8).bfloat16(), torch.randn(64, 5, 2)
    found, _ = ga.merge((out, lse) for out, lse in zip(outs, lses, strict=True))
    want = torch.einsum("pnh,pnhd->nhd", lses.softmax(0), outs.float())
    assert found.dtype == torch.bfloat16
    assert (found.float() - want).norm() <= 4e-3 * want.norm()


@pytest.mark.parametrize("seed", range(4))
def test_merge_is_attention_over_the_union(graph: CSRGraph, seed: int) -> None:
    q, k, v = make_qkv(graph)
    mask = torch.rand(graph.num_edges, generator=torch.Generator().manual_seed(seed)) < 0.4
    parts = [
        ga.attention(q, k, v, graph.filter(m), return_lse=True, impl="reference")
        for m in (mask, ~mask)
    ]
    want = ga.attention(q, k, v, graph, return_lse=True, impl="reference")
    for found, whole in zip(ga.merge(parts), want, strict=True):
        torch.testing.assert_close(found, whole)


def test_weights_accumulate_in_float32_under_half_and_autocast() -> None:
    star = torch.stack([torch.arange(3000), torch.zeros(3000, dtype=torch.int64)])
    graph = CSRGraph.from_edge_index(star, 3000)
    q, k = torch.randn(3000, 2, 8), torch.randn(3000, 2, 8)
    half = ga.attention_weights(q.bfloat16(), k.bfloat16(), graph)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = ga.attention_weights(q, k, graph)
    for weight in (half, cast):
        torch.testing.assert_close(weight.sum(0), torch.ones(2))
