"""The gradient that rows hand to their columns: equal to the reference and free of threads."""

import pytest
import torch
from torch import Tensor

from graphattn.graph.csr import CSRGraph
from graphattn.kernels.cpu import aggregate
from graphattn.kernels.cpu.push import push_gradient, push_pays
from graphattn.kernels.reference import aggregate as reference
from graphattn.ops import aggregate_op
from graphattn.ops.fused import flatten

ALL = reference.REDUCTIONS
NAMES = [ALL, ("sum", "mean", "max", "min", "std"), ("var", "max"), ("mean", "std"), ("min", "max")]


def graph_with_hubs(rows: int = 61, columns: int = 47, edges: int = 700) -> CSRGraph:
    """Bipartite, with a hub row and column, empty rows and columns, and duplicate edges."""
    source, target = torch.randint(0, columns, (edges,)), torch.randint(0, rows, (edges,))
    target[: edges // 5], source[edges // 2 : edges // 2 + edges // 5] = 3, 2
    target[target == 7], source[source == 4] = 8, 5
    source[5:9], target[5:9] = 6, 9
    return CSRGraph.from_edge_index(torch.stack([source, target]), (columns, rows))


def both(x: Tensor, graph: CSRGraph, names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """By the kernel, and by the reference from the same statistics."""
    rows, cols = graph.layout("cpu")
    out, stats = aggregate.aggregate_forward(x, None, rows, reduce=names)
    # Rows far apart in memory, as where results lie side by side.
    pull = torch.randn(*out.shape[1:3], len(names), *out.shape[3:], dtype=x.dtype)
    pull = pull.permute(2, 0, 1, 3, 4)
    found = push_gradient(pull, stats, x, rows, reduce=names)
    pulls = reference.message_pulls(pull.contiguous(), stats, rows.indptr, reduce=names)
    want = reference.aggregate_backward(
        pulls, x, None, cols, reduce=names, dtype=x.dtype, needs=(True, False)
    )[0]
    assert want is not None
    return found, want


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("names", NAMES, ids=str)
@pytest.mark.parametrize("size", [(1, 64), (1, 71), (3, 45)], ids=str)
def test_equals_the_reference(size: tuple[int, int], names: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    # Quarters, so that extremes are reached more than once.
    x = torch.randint(-9, 10, (2, 47, *size), dtype=torch.float64) / 4
    found, want = both(x, graph_with_hubs(), names)
    torch.testing.assert_close(found, want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_stored_as_given(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 47, 1, 70).to(dtype)
    found, want = both(x, graph_with_hubs(), ALL)
    assert found.dtype == dtype
    rtol = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(found.float(), want.float(), rtol=rtol, atol=rtol)


def test_threads_and_slices_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphattn.kernels.cpu.threads.INLINE_WORK", 0)
    graph, found = graph_with_hubs(700, 500, 9001), []
    x = torch.randn(2, 500, 1, 101)
    for threads in (1, 3, 40):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        torch.manual_seed(1)
        found.append(both(x, graph, ALL)[0])
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_nan_reaches_the_columns_of_its_row_alone() -> None:
    x = torch.randn(1, 3, 1, 64, dtype=torch.float64)
    x[0, 0, 0, 5] = torch.nan
    edges = torch.tensor([[0, 1, 1, 2], [0, 0, 1, 1]])
    found, want = both(x, CSRGraph.from_edge_index(edges, 3), ALL)
    assert torch.equal(found.isnan(), want.isnan())
    assert bool(found[0, :2, 0, 5].isnan().all()) and not bool(found[0, 2].isnan().any())


def test_long_columns_keep_their_digits() -> None:
    count = 50_000
    star = CSRGraph.from_edge_index(torch.stack([torch.zeros(count).long(), torch.arange(count)]))
    x = torch.randn(1, count, 1, 64)
    rows, _ = star.layout("cpu")
    names = ("sum", "max", "min")
    _, stats = aggregate.aggregate_forward(x, None, rows, reduce=names)
    pull = torch.rand(3, 1, count, 1, 64)
    found = push_gradient(pull, stats, x, rows, reduce=names)[0, 0, 0]
    torch.testing.assert_close(found.double(), pull.double().sum((0, 2))[0, 0], rtol=2e-5, atol=0)


def test_shapes_alone_choose_the_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    stats = torch.empty(6, 1, 9, 1, 128)
    assert push_pays(("sum", "std", "max", "min"), stats, None)
    assert not push_pays(("sum",), stats[:0], None)
    assert not push_pays(("max",), stats[:2], None)
    assert not push_pays(("sum", "max"), stats[..., :40], None)
    assert not push_pays(ALL, stats, torch.empty(1, 9, 1))
    walked = []
    monkeypatch.setattr(
        "graphattn.kernels.cpu.push.push_gradient",
        lambda *given, **_: walked.append(1) or given[2].clone(),
    )
    graph, x = graph_with_hubs(), torch.randn(1, 47, 1, 64, requires_grad=True)
    layouts = (flatten(layout) for layout in graph.layout("cpu"))
    rows, cols = layouts
    out = aggregate_op.reduce_messages(x, None, rows, cols, "max,std", False, "cpu")[0]
    out.sum().backward()
    assert walked == [1]
