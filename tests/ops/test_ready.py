"""Calls whose shapes a graph has seen: the same answers, and the long way where it is needed."""

import gc
import pickle
import sys
import weakref
from typing import Any

import pytest
import torch
import torch._dynamo.compiled_autograd
import torch.utils.checkpoint
from torch import Tensor

import graphattn as ga
from graphattn import CSRGraph
from graphattn.ops import ready
from tests.ops.conftest import messy_graph


def tensors(graph: CSRGraph, lead: tuple[int, ...] = (), seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(*lead, n, 2, 4) for n in (graph.num_rows, graph.num_cols, graph.num_cols)]
    return [torch.randn(s, generator=generator, requires_grad=True) for s in shapes]


def results(qkv: list[Tensor], graph: CSRGraph, impl: str) -> list[Tensor]:
    out, lse = ga.attention(*qkv, graph, return_lse=True, impl=impl)
    total = out.sin().sum() + lse.masked_fill(lse.isinf(), 0).square().sum()
    return [out.detach(), lse.detach(), *torch.autograd.grad(total, qkv)]


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
def test_later_calls_answer_for_their_own_tensors(graph: CSRGraph, lead: tuple[int, ...]) -> None:
    for seed in range(3):
        qkv = tensors(graph, lead, seed)
        found, want = results(qkv, graph, "auto"), results(qkv, graph, "reference")
        for a, b in zip(found, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert len(graph.ready) == 1


def test_what_is_wrong_is_said_after_a_right_call(graph: CSRGraph) -> None:
    query, key, value = tensors(graph)
    ga.attention(query, key, value, graph)
    with pytest.raises(ValueError, match="nodes but the graph has"):
        ga.attention(query[1:], key, value, graph)
    with pytest.raises(TypeError, match="must share a dtype"):
        ga.attention(query, key.double(), value, graph)
    for wrong in (torch.tensor(1.0), [1.0]):
        with pytest.raises(TypeError, match="scale must be a number"):
            ga.attention(query, key, value, graph, scale=wrong)  # type: ignore[arg-type]
    for wrong in (torch.zeros(3), None):
        with pytest.raises(TypeError, match="eps must be a number"):
            ga.attention(query, key, value, graph, eps=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="impl must be one of"):
        ga.attention(query, key, value, graph, impl=["cpu"])  # type: ignore[arg-type]


def test_strided_and_misaligned_tensors(graph: CSRGraph) -> None:
    query, key, value = (t.detach() for t in tensors(graph))
    want = ga.attention(query, key, value, graph)
    strided = query.transpose(0, 1).contiguous().transpose(0, 1)
    torch.testing.assert_close(ga.attention(strided, key, value, graph), want)
    shifted = torch.empty(key.numel() + 1)[1:].view_as(key).copy_(key)
    torch.testing.assert_close(ga.attention(query, shifted, value, graph), want)


def test_saved_tensors_may_come_back_in_another_form(graph: CSRGraph) -> None:
    """Offloading and compressing hooks return what they like."""

    def strided(tensor: Tensor) -> Tensor:
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)

    qkv = tensors(graph, (2, 2))
    want = results(qkv, graph, "auto")
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, strided):
        found = results(qkv, graph, "auto")
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("bias", [False, True])
def test_backward_pass_is_compiled_alone(graph: CSRGraph, bias: bool) -> None:
    qkv = tensors(graph)
    given = {"bias": torch.randn(graph.num_edges)} if bias else {}
    pull = torch.randn(graph.num_rows, 2, 4)
    want = torch.autograd.grad(ga.attention(*qkv, graph, **given), qkv, pull)
    out = ga.attention(*qkv, graph, **given)
    compiler = torch.compile(backend="eager", fullgraph=False)
    with torch._dynamo.compiled_autograd._enable(compiler):
        out.backward(pull)
    for leaf, grad in zip(qkv, want, strict=True):
        assert leaf.grad is not None
        torch.testing.assert_close(leaf.grad, grad)


def test_checkpoint(graph: CSRGraph) -> None:
    qkv = tensors(graph)
    pull = torch.randn(graph.num_rows, 2, 4)
    want = torch.autograd.grad(ga.attention(*qkv, graph), qkv, pull)
    out = torch.utils.checkpoint.checkpoint(ga.attention, *qkv, graph, use_reentrant=False)
    for a, b in zip(torch.autograd.grad(out, qkv, pull), want, strict=True):
        assert torch.equal(a, b)


def test_what_is_never_ready_is_prepared_once(
    graph: CSRGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graphattn.ops import attention, inputs

    calls = []

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(1)
        return inputs.prepare(*args, **options)

    for module in (sys.modules[attention.__module__], ready):
        monkeypatch.setattr(module, "prepare", counted)
    query, key, value = (t.detach() for t in tensors(graph))
    ga.attention(query.repeat(1, 2, 1), key, value, graph)  # grouped heads
    ga.attention(query, key, value, graph, impl="reference")
    with torch.autocast("cpu", torch.bfloat16):
        ga.attention(query, key, value, graph)
    assert len(calls) == 3 and not graph.ready


def test_gradients_that_are_expanded_or_partly_missing(graph: CSRGraph) -> None:
    qkv = tensors(graph)
    for pick in (0, 1):
        found, want = (
            torch.autograd.grad(
                ga.attention(*qkv, graph, return_lse=True, impl=impl)[pick][4:9].sum(), qkv[:2]
            )
            for impl in ("auto", "reference")
        )
        for a, b in zip(found, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_second_derivative(graph: CSRGraph) -> None:
    qkv = [t.detach().double().requires_grad_() for t in tensors(graph, (2,))]
    torch.autograd.gradgradcheck(lambda *t: ga.attention(*t, graph, impl="cpu"), qkv, atol=1e-4)


def test_autocast_casts_after_a_call_without(graph: CSRGraph) -> None:
    qkv = tensors(graph)
    assert ga.attention(*qkv, graph).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert ga.attention(*qkv, graph).dtype == torch.bfloat16
    assert ga.attention(*qkv, graph).dtype == torch.float32


def test_a_graph_forgets_and_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "MOST", 2)
    graph = messy_graph()
    for batch in range(1, 5):
        results(tensors(graph, (batch,)), graph, "auto")
        assert len(graph.ready) <= 2
    assert not pickle.loads(pickle.dumps(graph)).ready
    gc.disable()
    try:
        alive = weakref.ref(graph)
        del graph
        assert alive() is None, "what is kept with a graph must not keep the graph"
    finally:
        gc.enable()
