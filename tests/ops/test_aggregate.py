"""aggregate: PyG as an independent oracle, and the operator as torch sees it."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch_geometric.nn import aggr

from graphattn import CSRGraph, as_graph
from graphattn.kernels.reference.aggregate import REDUCTIONS
from graphattn.ops.aggregate import aggregate
from graphattn.ops.aggregate_op import aggregate_op
from graphattn.ops.fused import flatten
from tests.ops.conftest import messy_graph

PYG = {
    "sum": aggr.SumAggregation(),
    "mean": aggr.MeanAggregation(),
    "min": aggr.MinAggregation(),
    "max": aggr.MaxAggregation(),
    "var": aggr.VarAggregation(),
    "std": aggr.StdAggregation(),
}
ALL = list(REDUCTIONS)


def features(graph: CSRGraph, *tail: int, lead: tuple[int, ...] = ()) -> Tensor:
    x = torch.randn(*lead, graph.num_cols, *tail, dtype=torch.float64)
    return x.requires_grad_()


def weights(graph: CSRGraph, *tail: int, lead: tuple[int, ...] = ()) -> Tensor:
    return torch.randn(*lead, graph.num_edges, *tail, dtype=torch.float64, requires_grad=True)


def by_pyg(x: Tensor, graph: CSRGraph, weight: Tensor | None, name: str) -> Tensor:
    source, target = graph.edge_index()
    message = x[source]
    if weight is not None:
        message = message * weight.view(*weight.shape, *[1] * (x.dim() - weight.dim()))
    flat = PYG[name](message.flatten(1), target, dim_size=graph.num_rows)
    return flat.view(graph.num_rows, *x.shape[1:])


@pytest.mark.parametrize("impl", ["reference", "cpu"])
@pytest.mark.parametrize(("tail", "factor"), [((5,), None), ((3, 4), ()), ((3, 4), (3,))])
def test_equals_pyg(
    graph: CSRGraph, impl: str, tail: tuple[int, ...], factor: tuple[int, ...] | None
) -> None:
    x = features(graph, *tail)
    weight = None if factor is None else weights(graph, *factor)
    leaves = [x] if weight is None else [x, weight]
    for name, found in zip(ALL, aggregate(x, graph, weight, ALL, impl=impl), strict=True):
        want = by_pyg(x, graph, weight, name)
        torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-11)
        pull = torch.randn_like(want)
        pull[graph.degree() == 1] = 0.0  # PyG's variance is rounding noise there
        for one, other in zip(
            torch.autograd.grad(found, leaves, pull, retain_graph=True),
            torch.autograd.grad(want, leaves, pull),
            strict=True,
        ):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("lead", [(), (2, 3)])
def test_all_at_once_equals_the_reference(
    graph: CSRGraph, weighted: bool, lead: tuple[int, ...]
) -> None:
    x = features(graph, 3, 7, lead=lead)
    weight = weights(graph, 3, lead=lead) if weighted else None
    leaves = [x] if weight is None else [x, weight]
    results = []
    for impl in ("reference", "cpu"):
        torch.manual_seed(1)
        outs = aggregate(x, graph, weight, ["std", "max", "sum", "min", "mean", "var"], impl=impl)
        loss = sum((out * torch.randn_like(out)).sum() for out in outs)
        results.append([*outs, *torch.autograd.grad(loss, leaves)])
    for found, want in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-11)


def test_torch_scatter_agrees(graph: CSRGraph) -> None:
    scatter = pytest.importorskip("torch_scatter").scatter
    source, target = graph.edge_index()
    x = features(graph, 5)
    for name in ("sum", "mean", "min", "max"):
        want = scatter(x[source], target, 0, dim_size=graph.num_rows, reduce=name)
        torch.testing.assert_close(aggregate(x, graph, reduce=name), want)


def test_a_list_gives_what_single_calls_give_in_its_order(graph: CSRGraph) -> None:
    x, weight = features(graph, 4), weights(graph)
    names = ["max", "sum", "max", "std"]
    for found, name in zip(aggregate(x, graph, weight, names), names, strict=True):
        assert torch.equal(found, aggregate(x, graph, weight, name))


@pytest.mark.parametrize("impl", ["reference", "cpu"])
@pytest.mark.parametrize("names", [["std", "sum", "max"], ["max", "max"], "mean"], ids=str)
@pytest.mark.parametrize("form", [(4,), (3, 4)], ids=str)
def test_side_by_side_is_a_concatenation(
    graph: CSRGraph, form: tuple[int, ...], names: list[str] | str, impl: str
) -> None:
    x = features(graph, *form, lead=(2,))
    options = {"heads": len(form) == 2, "impl": impl}
    found = aggregate(x, graph, reduce=names, cat=True, **options)
    apart = aggregate(x, graph, reduce=names, **options)
    want = apart if isinstance(names, str) else torch.cat(apart, -1)
    assert torch.equal(found, want)
    grads = (torch.autograd.grad(out.sin().sum(), x)[0] for out in (found, want))
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        assert torch.equal(aggregate(x, graph, reduce=names, cat=True, **options), want)


def test_side_by_side_under_vmap_and_twice(graph: CSRGraph) -> None:
    x = features(graph, 3, lead=(2,))
    mapped = torch.vmap(lambda t: aggregate(t, graph, reduce=["sum", "max"], cat=True))(x)
    assert torch.equal(mapped, aggregate(x, graph, reduce=["sum", "max"], cat=True))
    small = CSRGraph.from_edge_index(torch.tensor([[0, 1, 1], [1, 0, 1]]), 2)
    y = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)

    def call(t: Tensor) -> Tensor:
        return aggregate(t, small, reduce=["std", "sum"], cat=True)

    assert torch.autograd.gradcheck(call, (y,)) and torch.autograd.gradgradcheck(call, (y,))


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_graph(data: st.DataObject) -> None:
    rows, cols = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 5))
    pairs = st.tuples(st.integers(0, cols - 1), st.integers(0, rows - 1))
    edges = torch.tensor(data.draw(st.lists(pairs, max_size=30)), dtype=torch.int64).reshape(-1, 2)
    graph = CSRGraph.from_edge_index(edges.t(), (cols, rows))
    values = st.integers(-2, 2).map(float)  # small integers: many ties
    x = torch.tensor(data.draw(st.lists(values, min_size=3 * cols, max_size=3 * cols)))
    x, results = x.double().view(cols, 3).requires_grad_(), []
    for impl in ("reference", "cpu"):
        outs = aggregate(x, graph, reduce=ALL, impl=impl)
        loss = sum((n + 1) * out.sum() for n, out in enumerate(outs))
        results.append([*outs, torch.autograd.grad(loss, x)[0]])
    for found, want in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-10)


def test_direction_and_multiplicity() -> None:
    """0 -> 1 -> 2, the second edge twice: row 1 reads node 0, row 2 reads node 1 twice."""
    path = CSRGraph.from_edge_index(torch.tensor([[0, 1, 1], [1, 2, 2]]), 3)
    x = torch.tensor([[1.0], [10.0], [100.0]])
    assert aggregate(x, path).flatten().tolist() == [0.0, 1.0, 20.0]
    assert aggregate(x, path, torch.tensor([1.0, 2.0, 5.0])).flatten().tolist() == [0.0, 1.0, 70.0]


@pytest.mark.parametrize("impl", ["reference", "cpu"])
def test_ties_share_the_gradient_as_amax_does(impl: str) -> None:
    star = CSRGraph.from_edge_index(torch.stack([torch.arange(5), torch.zeros(5).long()]), (5, 2))
    x = torch.tensor([[1.0], [3.0], [3.0], [-2.0], [3.0]], requires_grad=True)
    for name, dense in (("max", torch.amax), ("min", torch.amin)):
        (found,) = torch.autograd.grad(aggregate(x, star, reduce=name, impl=impl).sum(), x)
        (want,) = torch.autograd.grad(dense(x, 0).sum(), x)
        assert torch.equal(found, want)


@pytest.mark.parametrize("names", [["sum"], ALL], ids=["sum", "all"])
def test_gradcheck_and_gradgradcheck(names: list[str]) -> None:
    graph = messy_graph(7, 6, 9)
    x, weight = features(graph, 2, 3), weights(graph, 2)

    def call(x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        return tuple(aggregate(x, graph, weight, names, impl="cpu"))

    assert torch.autograd.gradcheck(call, (x, weight))
    assert torch.autograd.gradgradcheck(call, (x, weight))


def test_double_backward_without_weights() -> None:
    graph = messy_graph(7, 6, 9)
    for names in ("sum", ["mean", "var"]):

        def call(x: Tensor, names: Any = names) -> Any:
            found = aggregate(x, graph, reduce=names, impl="cpu")
            return found if isinstance(found, Tensor) else tuple(found)

        assert torch.autograd.gradgradcheck(call, (features(graph, 3),))


def test_opcheck(graph: CSRGraph) -> None:
    x, weight = features(graph, 2, 3, lead=(2,)), weights(graph, 2, lead=(1,))
    rows, cols = (flatten(layout) for layout in graph.layout("cpu"))
    for factor, names, apart in ((weight, "sum,max,std", False), (None, "std,sum", True)):
        torch.library.opcheck(aggregate_op, (x, factor, rows, cols, names, apart, "cpu"))
    # Without columns nothing is kept for a backward pass.
    given = x.detach(), None, rows, [], "max,std", True, "cpu"
    assert aggregate_op(*given)[1].shape[0] == 0
    torch.library.opcheck(aggregate_op, given)


def test_compiles_to_one_graph_for_all_sizes() -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    weight = torch.randn(6, 6, requires_grad=True)

    def layer(x: Tensor, edge_index: Tensor, factor: Tensor) -> Tensor:
        graph = as_graph(edge_index, x.shape[0])
        return torch.cat(aggregate(x @ weight, graph, factor, ["mean", "max", "std"]), -1)

    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=counter)
    counts = []
    for nodes, edges in ((17, 60), (29, 150), (31, 170)):
        edge_index = torch.randint(0, nodes, (2, edges))
        inputs = torch.randn(nodes, 6), edge_index, torch.randn(edges)
        want = torch.autograd.grad(layer(*inputs).sin().sum(), weight)[0]
        found = torch.autograd.grad(compiled(*inputs).sin().sum(), weight)[0]
        torch.testing.assert_close(found, want)
        counts.append(counter.frame_count)
    assert counts[0] == counts[1] == counts[2], "other sizes must not compile again"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_accumulates_in_float32(graph: CSRGraph, dtype: torch.dtype) -> None:
    x = torch.randn(graph.num_cols, 2, 5).to(dtype).requires_grad_()
    weight = torch.randn(graph.num_edges, 2, requires_grad=True)
    wide = x.detach().float().requires_grad_()
    found, want = (aggregate(t, graph, weight, ALL) for t in (x, wide))
    for one, other in zip(found, want, strict=True):
        assert one.dtype == dtype
        assert torch.equal(one, other.to(dtype))
    grads, wanted = (
        torch.autograd.grad(sum(o.float().sum() for o in outs), leaves)
        for outs, leaves in ((found, (x, weight)), (want, (wide, weight)))
    )
    assert [g.dtype for g in grads] == [dtype, torch.float32]
    for one, other in zip(grads, wanted, strict=True):
        torch.testing.assert_close(one.float(), other, rtol=1e-2, atol=1e-2)


def test_variance_far_from_zero_does_not_cancel() -> None:
    """Mean of squares minus squared mean would leave nothing of it in float32."""
    star = CSRGraph.from_edge_index(torch.stack([torch.arange(999), torch.zeros(999).long()]), 999)
    x = (torch.randn(999, 3, dtype=torch.float64) + 1e4).float()
    x.requires_grad_()
    for impl in ("reference", "cpu"):
        found = aggregate(x, star, reduce="var", impl=impl)
        want = x.double().var(0, correction=0)
        torch.testing.assert_close(found[0].double(), want, rtol=2e-5, atol=0)
        (grad,) = torch.autograd.grad(found[0].sum(), x)
        (wanted,) = torch.autograd.grad(want.sum(), x)
        torch.testing.assert_close(grad, wanted.float(), rtol=1e-3, atol=1e-6)


def test_std_of_equal_messages_has_gradient_zero(graph: CSRGraph) -> None:
    x = torch.ones(graph.num_cols, 3, requires_grad=True)
    for impl in ("reference", "cpu"):
        found = aggregate(x, graph, reduce="std", impl=impl)
        assert not found.any() and not torch.autograd.grad(found.sum(), x)[0].any()


@pytest.mark.parametrize("impl", ["reference", "cpu"])
def test_nan_and_infinity_reach_their_rows_alone(graph: CSRGraph, impl: str) -> None:
    source, target = graph.edge_index()
    x = torch.randn(graph.num_cols, 4)
    x[7, 1], x[8, 2] = torch.nan, -torch.inf
    hit, low = (torch.zeros(graph.num_rows, dtype=torch.bool) for _ in range(2))
    hit[target[source == 7]], low[target[source == 8]] = True, True
    for name, out in zip(ALL, aggregate(x, graph, reduce=ALL, impl=impl), strict=True):
        assert torch.equal(out[:, 1].isnan(), hit), name
        assert not out[:, [0, 3]].isnan().any(), name
        if name in ("min", "sum", "mean"):
            assert torch.equal(out[:, 2].isneginf(), low), name
        if name in ("var", "std"):
            assert torch.equal(out[:, 2].isnan(), low), name


def test_empty_graphs_rows_and_widths() -> None:
    for rows, cols in ((0, 0), (4, 3), (4, 0)):
        none = CSRGraph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), (cols, rows))
        x = features(none, 2, 5)
        weight = torch.empty(0, 2, dtype=torch.float64, requires_grad=True)
        outs = aggregate(x, none, weight, ALL, heads=True)
        assert all(o.shape == (rows, 2, 5) and not o.any() for o in outs)
        assert not any(
            g.any() for g in torch.autograd.grad(sum(o.sum() for o in outs), [x, weight])
        )
    graph = messy_graph()
    for shape in ((19, 0), (0, 19, 4), (19, 0, 4)):
        out = aggregate(torch.randn(shape), graph, reduce="std")
        assert out.shape == tuple(23 if n == 19 else n for n in shape)


def test_non_contiguous_and_integer_width_of_indices(graph: CSRGraph) -> None:
    x, weight = features(graph, 6).detach(), weights(graph, 2).detach()
    strided = x.t().contiguous().t(), weight[:, 0]
    assert not strided[0].is_contiguous() and not strided[1].is_contiguous()
    want = aggregate(x, graph, weight[:, 0].contiguous(), ALL)
    wide = CSRGraph(graph.indptr, graph.indices.long(), graph.num_cols, graph.edge_perm)
    for where in (graph, wide):
        for one, other in zip(aggregate(*strided[:1], where, strided[1], ALL), want, strict=True):
            assert torch.equal(one, other)


def test_saved_for_backward_has_no_edge_by_width_tensor() -> None:
    for edges in (4_000, 16_000):
        graph = CSRGraph.from_edge_index(torch.randint(0, 200, (2, edges)), 200)
        x = torch.randn(200, 32, requires_grad=True)
        weight = torch.randn(edges, requires_grad=True)
        for factor, names, most in ((None, ["sum", "mean"], 0), (weight, ALL, 7 * 200 * 32)):
            saved: list[Tensor] = []

            def pack(tensor: Tensor, saved: list[Tensor] = saved) -> Tensor:
                saved.append(tensor)
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
                aggregate(x, graph, factor, names)
            floats = sum(t.numel() for t in saved if t.is_floating_point())
            assert floats <= most + (0 if factor is None else edges)
