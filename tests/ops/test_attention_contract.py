"""The fused operator as torch sees it: gradients, opcheck, compilation, autocast, memory."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import graphattn as ga
from graphattn import CSRGraph
from graphattn.ops.attention_op import TENSORS, attention_op
from graphattn.ops.fused import flatten
from tests.ops.conftest import make_qkv, messy_graph

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bias per head": {"bias": ("edges", 3)},
    "bias": {"bias": ("edges",), "null_logit": 0.2},
    "gate and clamp": {"gate": ("edges", 3, 5), "clamp": 0.8, "eps": 1e-6},
    "edge features": {"edge_attr": ("edges", 6), "edge_proj": (3, 5, 6), "dropout_p": 0.3},
}


def fill(options: dict[str, Any], graph: CSRGraph) -> dict[str, Any]:
    """Turn shapes into tensors that require gradients."""
    made = {}
    for name, option in options.items():
        if isinstance(option, tuple):
            shape = [graph.num_edges if s == "edges" else s for s in option]
            option = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        made[name] = option
    return made


def run(impl: str, qkv: list[Tensor], graph: CSRGraph, options: dict[str, Any]) -> list[Tensor]:
    torch.manual_seed(11)  # the same dropout streams
    out, lse = ga.attention(*qkv, graph, return_lse=True, impl=impl, **options)
    lse = torch.where(lse.isfinite(), lse, torch.zeros_like(lse))
    leaves = [*qkv, *(t for t in options.values() if isinstance(t, Tensor))]
    seen = (out.sin().sum() + (lse * lse).sum()) / out.shape[0]
    return [out, lse, *torch.autograd.grad(seen, leaves)]


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("lead", [(), (2,)])
def test_every_gradient_equals_the_reference(
    graph: CSRGraph, name: str, lead: tuple[int, ...]
) -> None:
    qkv, options = make_qkv(graph, value_width=5, lead=lead), fill(OPTIONS[name], graph)
    want = run("reference", qkv, graph, options)
    for found, wanted in zip(run("cpu", qkv, graph, options), want, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-11)


def test_gated_products_and_their_gradient(graph: CSRGraph) -> None:
    results = []
    for impl in ("reference", "cpu"):
        torch.manual_seed(1)
        q, k, v = make_qkv(graph)
        gate = torch.randn(graph.num_edges, 3, 5, dtype=torch.float64, requires_grad=True)
        out, gated = ga.attention(
            q, k, v, graph, gate=gate, clamp=0.7, return_gated=True, impl=impl
        )
        loss = out.square().sum() + gated.cos().sum()
        results.append([out, gated, *torch.autograd.grad(loss, [q, k, v, gate])])
    for found, want in zip(*results, strict=True):
        torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-11)


def test_gradcheck_and_gradgradcheck() -> None:
    graph = messy_graph(7, 6, 9)
    qkv = make_qkv(graph, heads=2, width=3, value_width=2)
    bias = torch.randn(graph.num_edges, 2, dtype=torch.float64, requires_grad=True)

    def call(q: Tensor, k: Tensor, v: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        out, lse = ga.attention(q, k, v, graph, bias=b, null_logit=0.1, return_lse=True, impl="cpu")
        return out, lse

    assert torch.autograd.gradcheck(call, (*qkv, bias))
    assert torch.autograd.gradgradcheck(call, (*qkv, bias))


@pytest.mark.parametrize("kind", ["gate", "features", "table", "dropout", "top_m", "grouped"])
def test_gradgradcheck_of_every_option(kind: str) -> None:
    graph = messy_graph(7, 6, 9)
    heads = 1 if kind == "grouped" else 2
    query = make_qkv(graph, heads=2, width=2, value_width=2)[0]
    qkv = [query, *make_qkv(graph, heads=heads, width=2, value_width=2)[1:]]

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    tensors = {
        "gate": {"gate": leaf(graph.num_edges, 2, 2)},
        "features": {"edge_attr": leaf(graph.num_edges, 3), "edge_proj": leaf(2, 2, 3)},
        "table": {"bias": leaf(2, 4)},
    }.get(kind, {})
    numbers: dict[str, Any] = {"dropout": {"dropout_p": 0.3}, "top_m": {"top_m": 1}}.get(kind, {})
    index = torch.randint(0, 4, (graph.num_edges,))

    def call(q: Tensor, k: Tensor, v: Tensor, *given: Tensor) -> tuple[Tensor, Tensor]:
        options: dict[str, Any] = dict(zip(tensors, given, strict=True)) | numbers
        options["null_logit"] = 0.1  # the LSE of an empty row has no numerical derivative
        if kind == "table":
            options["bias"] = ga.TableBias(options["bias"], index)
        torch.manual_seed(7)  # the same weights are dropped at every call
        out, lse = ga.attention(q, k, v, graph, return_lse=True, impl="cpu", **options)
        return out, lse

    assert torch.autograd.gradcheck(call, (*qkv, *tensors.values()))
    assert torch.autograd.gradgradcheck(call, (*qkv, *tensors.values()))


def test_opcheck(graph: CSRGraph) -> None:
    q, k, v = (t.unsqueeze(0).detach().requires_grad_() for t in make_qkv(graph))
    rows, cols = (flatten(layout) for layout in graph.layout("cpu"))
    bias = torch.randn(graph.num_edges, dtype=torch.float64, requires_grad=True)
    streams = torch.randint(0, 2**32, (3, 2))
    table = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    index = torch.randint(0, 4, (graph.num_edges,))
    mask = torch.randint(0, 8, (1, graph.num_edges, 1), dtype=torch.int32)
    cases: list[tuple[Tensor | None, dict[str, Any], tuple[Any, ...]]] = [
        (v, {}, (0.4, None, 0.0, False, "cpu")),
        (v, {"bias": bias, "streams": streams}, (0.4, 1.0, 0.2, True, "cpu")),
        (v, {"bias": table, "bias_index": index, "mask": mask}, (0.4, None, 0.0, False, "cpu")),
        (None, {"bias": bias}, (0.4, 1.0, 0.0, False, "cpu")),
    ]
    for value, given, numbers in cases:
        tensors = [given.get(name) for name in TENSORS]
        torch.library.opcheck(attention_op, (q, k, value, *tensors, rows, cols, *numbers))


def test_compiles_to_one_graph_for_all_sizes() -> None:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    weight = torch.randn(6, 6, requires_grad=True)

    def layer(x: Tensor, edge_index: Tensor) -> Tensor:
        h = (x @ weight).view(-1, 2, 3)
        out = ga.attention(h, h, h, ga.as_graph(edge_index, x.shape[0]))
        assert isinstance(out, Tensor)
        return out.flatten(1)

    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=counter)
    counts = []
    for nodes, edges in ((17, 60), (29, 150), (31, 170)):
        x, edge_index = torch.randn(nodes, 6), torch.randint(0, nodes, (2, edges))
        want = torch.autograd.grad(layer(x, edge_index).sin().sum(), weight)[0]
        found = torch.autograd.grad(compiled(x, edge_index).sin().sum(), weight)[0]
        torch.testing.assert_close(found, want)
        counts.append(counter.frame_count)
    assert counts[0] == counts[1] == counts[2], "other sizes must not compile again"


def test_inference_mode_first_then_training() -> None:
    edge_index = torch.randint(0, 9, (2, 30))
    q = torch.randn(9, 3, 4, dtype=torch.float64)
    with torch.inference_mode():
        ga.attention(q, q, q, ga.as_graph(edge_index, 9))
        ga.as_graph(edge_index, 9).degree()
    q.requires_grad_()
    out = ga.attention(q, q, q, ga.as_graph(edge_index, 9))
    assert torch.autograd.grad(out.sum(), q)[0].isfinite().all()


@pytest.mark.parametrize("impl", ["cpu", "reference"])
def test_compiles_with_a_graph_object(graph: CSRGraph, impl: str) -> None:
    torch._dynamo.reset()
    q, k, v = (t.detach().float().requires_grad_() for t in make_qkv(graph))
    compiled = torch.compile(
        lambda q, k, v: ga.attention(q, k, v, graph, impl=impl), fullgraph=True, backend="aot_eager"
    )
    want = ga.attention(q, k, v, graph, impl=impl)
    found = compiled(q, k, v)
    torch.testing.assert_close(found, want)
    wanted = torch.autograd.grad(want.sum(), [q, k, v])
    for one, other in zip(torch.autograd.grad(found.sum(), [q, k, v]), wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_autocast_follows_sdpa(graph: CSRGraph) -> None:
    q, k, v = (t.detach().float() for t in make_qkv(graph))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, lse = ga.attention(q, k, v, graph, return_lse=True)
        double = ga.attention(q.double(), k.double(), v.double(), graph)
    assert (out.dtype, lse.dtype, double.dtype) == (torch.bfloat16, torch.float32, torch.float64)
    torch.testing.assert_close(out.float(), ga.attention(q, k, v, graph), rtol=2e-2, atol=2e-2)


def test_non_contiguous_inputs_and_empty_graphs(graph: CSRGraph) -> None:
    q, k, v = (t.detach() for t in make_qkv(graph))
    strided = [t.transpose(0, 1).contiguous().transpose(0, 1) for t in (q, k, v)]
    assert not strided[0].is_contiguous()
    assert torch.equal(ga.attention(*strided, graph), ga.attention(q, k, v, graph))
    for rows, cols in ((0, 0), (4, 3)):
        none = CSRGraph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), (cols, rows))
        q, k, v = make_qkv(none)
        out, lse = ga.attention(q, k, v, none, return_lse=True)
        assert out.shape == (rows, 3, 4)
        assert not out.any()
        assert bool((lse == -torch.inf).all())
        assert not torch.autograd.grad(out.sum(), q)[0].any()


def test_saved_for_backward_has_no_edge_by_head_tensor() -> None:
    """Inputs, output, LSE and the graph's own index arrays: nothing of size E x H."""
    for edges in (4_000, 16_000):
        graph = CSRGraph.from_edge_index(torch.randint(0, 200, (2, edges)), 200)
        q, k, v = (torch.randn(200, 8, 4, requires_grad=True) for _ in range(3))
        saved: list[Tensor] = []

        def pack(tensor: Tensor, saved: list[Tensor] = saved) -> Tensor:
            saved.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            ga.attention(q, k, v, graph).sum()
        floats = sum(t.numel() for t in saved if t.is_floating_point())
        assert floats <= 4 * 200 * 32 + 200 * 8 + 200 * 32
        assert all(t.numel() <= edges for t in saved if not t.is_floating_point())
