"""message_aggregate and additive attention: the reference by hand, and kernels against it."""

from typing import Any

import pytest
import torch
from torch import Tensor

import graphattn as ga
from graphattn import CSRGraph
from graphattn.kernels.reference.aggregate import REDUCTIONS
from graphattn.kernels.reference.message import ACTIVATIONS
from graphattn.nn import SINCConv
from graphattn.ops.additive_op import attend_backward_op, attend_op
from graphattn.ops.fused import flatten
from graphattn.ops.message_op import message_op
from tests.ops.conftest import messy_graph

ALL = list(REDUCTIONS)


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def make(
    graph: CSRGraph, heads: int, width: int, weighted: bool, features: int, lead: tuple[int, ...]
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    options: dict[str, Any] = {}
    if weighted:
        options["weight"] = leaf(graph.num_edges, heads)
    if features:
        options["edge_attr"] = leaf(graph.num_edges, features)
        options["edge_proj"] = leaf(heads, width, features)
    a, b = leaf(*lead, graph.num_rows, heads, width), leaf(*lead, graph.num_cols, heads, width)
    return a, b, options


def results(
    call: Any, tensors: list[Tensor], impls: tuple[str, ...] = ("reference", "cpu")
) -> list[list[Tensor]]:
    """Outputs and the gradients of a fixed random weighting of them, for each implementation."""
    found = []
    for impl in impls:
        torch.manual_seed(1)
        outs = call(impl)
        loss = sum((out * torch.randn_like(out)).sum() for out in outs)
        found.append([*outs, *torch.autograd.grad(loss, tensors)])
    return found


def assert_equal(found: list[list[Tensor]], tolerance: float = 1e-11) -> None:
    for other, first in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(other, first, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("activation", "heads", "width", "weighted", "features", "lead", "reduce"),
    [
        ("gelu", 3, 5, True, 3, (), ALL),
        ("leaky_relu", 2, 19, False, 2, (2,), ALL),
        ("tanh", 3, 4, True, 0, (2,), ["sum"]),
    ],
)
def test_equals_the_reference(
    graph: CSRGraph,
    activation: str,
    heads: int,
    width: int,
    weighted: bool,
    features: int,
    lead: tuple[int, ...],
    reduce: list[str],
) -> None:
    a, b, options = make(graph, heads, width, weighted, features, lead)

    def call(impl: str) -> list[Tensor]:
        return ga.message_aggregate(
            a, b, graph, reduce=reduce, activation=activation, slope=0.2, impl=impl, **options
        )

    assert_equal(results(call, [a, b, *options.values()]))


@pytest.mark.slow
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_every_activation(graph: CSRGraph, activation: str, dtype: torch.dtype) -> None:
    a, b, options = make(graph, 2, 9, True, 0, ())
    a, b = (t.detach().to(dtype).requires_grad_() for t in (a * 4, b * 4))
    weight = options["weight"].detach().float().requires_grad_()

    def call(impl: str) -> list[Tensor]:
        return ga.message_aggregate(a, b, graph, weight, ["sum"], activation=activation, impl=impl)

    bound = {torch.float64: 1e-9, torch.float32: 2e-5, torch.bfloat16: 0.1}[dtype]
    assert_equal(results(call, [a, b, weight]), bound)


def test_reference_spelled_out() -> None:
    """0 -> 1 twice and 1 -> 2: direction, multiplicity, weight and edge feature by hand."""
    graph = CSRGraph.from_edge_index(torch.tensor([[0, 0, 1], [1, 1, 2]]), 3)
    a, b = torch.tensor([[9.0], [1.0], [-5.0]]), torch.tensor([[2.0], [1.0], [7.0]])
    weight = torch.tensor([1.0, 10.0, 2.0])
    attr, proj = torch.tensor([[0.0], [1.0], [1.0]]), torch.tensor([[3.0]])
    options = {"activation": "leaky_relu", "slope": 0.5, "edge_attr": attr, "edge_proj": proj}
    for impl in ("reference", "cpu"):
        out = ga.message_aggregate(a, b, graph, weight, heads=False, impl=impl, **options)
        # row 1: 1 * (1 + 2) + 10 * (1 + 2 + 3); row 2: 2 * leaky(-5 + 1 + 3)
        assert out.flatten().tolist() == [0.0, 63.0, -1.0]


def test_bits_do_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphattn.kernels.cpu import threads

    monkeypatch.setattr(threads, "INLINE_WORK", 0)
    graph = messy_graph(300, 200, 4000)
    a, b, options = make(graph, 3, 5, True, 3, ())
    found = []
    for count in (1, 2):
        monkeypatch.setattr(threads, "threads_for", lambda work, count=count: count)
        found += results(
            lambda impl: ga.message_aggregate(
                a, b, graph, reduce=ALL, activation="gelu", impl=impl, **options
            ),
            [a, b, *options.values()],
            ("cpu",),
        )
    assert all(torch.equal(x, y) for x, y in zip(*found, strict=True))


def test_gradcheck_and_gradgradcheck() -> None:
    graph = messy_graph(7, 6, 9)
    a, b, options = make(graph, 3, 4, True, 0, ())

    def call(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
        return ga.message_aggregate(a, b, graph, weight, activation="tanh", impl="cpu")

    assert torch.autograd.gradcheck(call, (a, b, options["weight"]))
    assert torch.autograd.gradgradcheck(call, (a, b, options["weight"]))


def test_operators_are_sound(graph: CSRGraph) -> None:
    rows, cols = (flatten(layout) for layout in graph.layout("cpu"))
    a, b, options = make(graph, 3, 4, True, 0, (1,))
    given = (a, b, leaf(1, graph.num_edges, 3), None, None)
    torch.library.opcheck(message_op, (*given, rows, cols, "tanh", 0.0, "sum", "cpu"))
    query, key, extra = make(graph, 3, 5, False, 0, (1,))
    given = (query, key, leaf(1, graph.num_cols, 3, 4), leaf(3, 5), None, None, None)
    options = rows, cols, "leaky_relu", 0.2, 0.0, "cpu"
    torch.library.opcheck(attend_op, (*given, *options))
    plain = [t if t is None else t.detach() for t in given]
    out, lse = attend_op(*plain, *options)
    for needs in ([True, True, True, True, False, False], [False, True, True, False, False, False]):
        pulled = torch.randn_like(out), None, out, lse, *plain, *options, needs
        torch.library.opcheck(attend_backward_op, pulled)


def test_compiles_in_one_piece(graph: CSRGraph) -> None:
    a, b, options = make(graph, 3, 4, True, 0, ())

    @torch.compile(fullgraph=True, backend="aot_eager")
    def call(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
        return ga.message_aggregate(a, b, graph, weight, activation="tanh") * 2

    graph.layout("cpu")
    want = 2 * ga.message_aggregate(a, b, graph, options["weight"], activation="tanh")
    assert torch.equal(call(a, b, options["weight"]), want)


def test_vmap(graph: CSRGraph) -> None:
    a, b, options = make(graph, 3, 4, True, 0, (2,))
    found = torch.vmap(
        lambda a, b: ga.message_aggregate(a, b, graph, options["weight"], activation="tanh")
    )(a, b)
    want = ga.message_aggregate(a, b, graph, options["weight"], activation="tanh")
    assert torch.equal(found, want)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "elu"}, "activation must be one of identity"),
        ({"slope": torch.ones(1)}, "slope must be a number"),
        ({"edge_attr": torch.zeros(102, 2)}, "go together"),
        ({"a": torch.zeros(22, 3, 5)}, r"a must have shape \[23, 3, 5\]"),
        ({"a": torch.zeros(23, 3, 5, dtype=torch.float64)}, "share a dtype"),
        ({"edge_attr": torch.zeros(135, 2), "edge_proj": torch.zeros(2, 2)}, "edge_proj must have"),
    ],
)
def test_refusals(graph: CSRGraph, changes: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"a": torch.zeros(23, 3, 5), "b": torch.zeros(19, 3, 5)}
    with pytest.raises((ValueError, TypeError), match=message):
        ga.message_aggregate(**given | changes, graph=graph)


@pytest.mark.parametrize(("lead", "features"), [((), 3), ((2,), 0)])
def test_additive_attention(graph: CSRGraph, lead: tuple[int, ...], features: int) -> None:
    query, key, edge = make(graph, 3, 5, False, features, lead)
    value, att = leaf(*lead, graph.num_cols, 3, 4), leaf(3, 5)

    def call(impl: str) -> list[Tensor]:
        torch.manual_seed(3)
        out, lse = ga.additive_attention(
            query, key, value, att, graph, dropout_p=0.2, return_lse=True, impl=impl, **edge
        )
        scores = ga.additive_scores(query, key, att, graph, impl=impl, **edge)
        return [out, torch.where(lse == -torch.inf, 0.0, lse), scores.sin()]

    assert_equal(results(call, [query, key, value, att, *edge.values()]), 1e-10)


@pytest.mark.parametrize("kind", ["message_aggregate", "SINCConv"])
def test_memory_has_no_rows_of_edges(kind: str) -> None:
    """What a step allocates may grow by a few numbers per edge, not by one per channel of it."""
    width, sizes = 64, []
    for edges in (2000, 16000):
        whole = CSRGraph.from_edge_index(torch.randint(0, 200, (2, edges)), 200)
        whole.layout("cpu"), whole.t()
        x = torch.randn(200, width, requires_grad=True)
        conv = SINCConv(width, width, width, impl="cpu")

        def step(whole: CSRGraph = whole, x: Tensor = x, conv: SINCConv = conv) -> None:
            if kind == "SINCConv":
                outs = [conv(x, whole)]
            else:
                several = ("sum", "mean", "max", "min", "std")
                outs = ga.message_aggregate(x, x, whole, reduce=several, impl="cpu")
            torch.autograd.grad([out.sum() for out in outs], x)

        step()  # what is kept with the graph
        with torch.profiler.profile(profile_memory=True) as profile:
            step()
        used = [e.self_cpu_memory_usage for e in profile.key_averages()]
        sizes.append(sum(n for n in used if n > 0))
    assert (sizes[1] - sizes[0]) / 14000 < 4 * 4


def test_additive_attention_is_attention_with_its_scores_as_bias(graph: CSRGraph) -> None:
    query, key, _ = make(graph, 3, 5, False, 0, ())
    value, att = leaf(graph.num_cols, 3, 4), leaf(3, 5)
    scores = ga.additive_scores(query, key, att, graph)
    want = ga.attention(0 * query, key, value, graph, bias=scores)
    found = ga.additive_attention(query, key, value, att, graph)
    torch.testing.assert_close(found, want)
    for one, other in zip(
        torch.autograd.grad(found.sin().sum(), [query, key, att], create_graph=True),
        torch.autograd.grad(want.sin().sum(), [query, key, att]),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)
    with pytest.raises(ValueError, match=r"att must have shape \[H, D\] = \[3, 5\]"):
        ga.additive_attention(query, key, value, att[0], graph)
    with pytest.raises(ValueError, match="att is on meta but the graph is on cpu"):
        ga.additive_attention(query, key, value, att.to("meta"), graph)
