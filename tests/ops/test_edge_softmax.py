"""edge_softmax: PyG as an independent oracle, and the operator as torch sees it."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch_geometric.utils import softmax

from graphattn import CSRGraph, as_graph
from graphattn.ops.edge_softmax import edge_softmax, edge_softmax_op
from graphattn.ops.fused import flatten
from tests.ops.conftest import messy_graph

IMPLS = ["reference", "cpu"]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (8,), (20,)])
@pytest.mark.parametrize("lead", [(), (2,)])
def test_equals_pyg(
    graph: CSRGraph, impl: str, shape: tuple[int, ...], lead: tuple[int, ...]
) -> None:
    scores = torch.randn(*lead, graph.num_edges, *shape, dtype=torch.float64, requires_grad=True)
    found = edge_softmax(scores, graph, impl=impl)
    edge = len(lead)
    want = softmax(scores, graph.edge_index()[1], num_nodes=graph.num_rows, dim=edge)
    torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-13)
    pull = torch.randn_like(want)
    (one,) = torch.autograd.grad(found, scores, pull)
    (other,) = torch.autograd.grad(want, scores, pull)
    torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masks_infinities_and_nan(graph: CSRGraph, impl: str, dtype: torch.dtype) -> None:
    target = graph.edge_index()[1]
    scores = torch.randn(graph.num_edges, 3, dtype=dtype)
    scores[target == 4, 0] = -torch.inf
    scores[::3, 1] = -torch.inf
    scores[(target == 6).nonzero()[0], 2] = torch.nan
    scores[(target == 7).nonzero()[0], 2] = torch.inf
    scores[target == 8] = torch.finfo(dtype).min
    scores.requires_grad_()
    found = edge_softmax(scores, graph, impl=impl)
    assert not found[target == 4, 0].any() and not found[::3, 1].any()
    bad = (target == 6) | (target == 7)
    assert torch.equal(found[:, 2].isnan(), bad) and not found[:, :2].isnan().any()
    torch.testing.assert_close(found[target == 8, 0].sum(), torch.ones((), dtype=dtype))
    (grad,) = torch.autograd.grad(found[~bad].square().sum(), scores)
    assert grad[~bad].isfinite().all() and not grad[target == 4, 0].any()


@pytest.mark.parametrize("impl", IMPLS)
def test_extreme_scores_keep_the_count(impl: str) -> None:
    """Subtracting a log-sum-exp of 1e30 would lose log 3."""
    star = CSRGraph.from_edge_index(torch.stack([torch.arange(3), torch.zeros(3).long()]), 3)
    found = edge_softmax(torch.full((3,), 1e30), star, impl=impl)
    torch.testing.assert_close(found, torch.full((3,), 1 / 3))


def test_long_rows_cross_blocks() -> None:
    edges = 1000
    star = CSRGraph.from_edge_index(torch.stack([torch.arange(edges), torch.zeros(edges).long()]))
    for heads in (1, 5, 16, 33):
        scores = 5.0 * torch.randn(edges, heads, requires_grad=True)
        found = edge_softmax(scores, star, heads=True, impl="cpu")
        want = torch.softmax(scores.double(), 0)
        torch.testing.assert_close(found.double(), want, rtol=1e-5, atol=1e-9)
        pull = torch.randn_like(found)
        (one,) = torch.autograd.grad(found, scores, pull)
        (other,) = torch.autograd.grad(want, scores, pull.double())
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_gradcheck_gradgradcheck_and_opcheck() -> None:
    graph = messy_graph(7, 6, 9)
    scores = torch.randn(2, graph.num_edges, 2, dtype=torch.float64, requires_grad=True)

    def call(scores: Tensor) -> Tensor:
        return edge_softmax(scores, graph, impl="cpu")

    assert torch.autograd.gradcheck(call, scores)
    assert torch.autograd.gradgradcheck(call, scores)
    torch.library.opcheck(edge_softmax_op, (scores, flatten(graph.rows_layout("cpu")), "cpu"))


def test_compiles(graph: CSRGraph) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda s, e: edge_softmax(s, as_graph(e, (19, 23))),
        fullgraph=True, dynamic=True, backend="aot_eager",
    )  # fmt: skip
    scores = torch.randn(graph.num_edges, 2, requires_grad=True)
    found, want = compiled(scores, graph.edge_index()), edge_softmax(scores, graph)
    torch.testing.assert_close(found, want)
    pull = torch.randn_like(want)
    for one, other in zip(
        torch.autograd.grad(found, scores, pull),
        torch.autograd.grad(want, scores, pull),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_strides(graph: CSRGraph, dtype: torch.dtype) -> None:
    scores = torch.randn(3, graph.num_edges).to(dtype).t()
    assert not scores.is_contiguous()
    found = edge_softmax(scores, graph)
    assert found.dtype == dtype
    assert torch.equal(found, edge_softmax(scores.float().contiguous(), graph).to(dtype))


def test_no_edges_and_wrong_input(graph: CSRGraph) -> None:
    none = CSRGraph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), (3, 4))
    assert edge_softmax(torch.zeros(0, 2), none).shape == (0, 2)
    cases: list[tuple[Any, type[Exception], str]] = [
        (torch.zeros(5), ValueError, r"scores must have shape \[..., 135\] or .*135 edges"),
        (torch.zeros(135, 135), ValueError, "with and without heads"),
        (torch.zeros(135).long(), TypeError, "floating point"),
        ([0.0], TypeError, "scores must be a tensor, got list"),
    ]
    for scores, error, words in cases:
        with pytest.raises(error, match=words):
            edge_softmax(scores, graph)
