"""The two ways into a fused operator, direct and through the dispatcher, and torch.vmap."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import graphattn as ga
from graphattn import CSRGraph
from graphattn.ops.fused import direct
from tests.ops.conftest import make_qkv

Call = Callable[..., Any]


class Listener(TorchDispatchMode):
    """Writes down which of our operators the dispatcher sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "graphattn":
            self.seen.append(func._opname)
        return func(*args, **(kwargs or {}))


def attention_call(graph: CSRGraph) -> Call:
    bias = torch.randn(graph.num_edges, 3, dtype=torch.float64)
    return lambda q, k, v: ga.attention(q, k, v, graph, bias=bias, return_lse=True)[0]


CALLS: dict[str, Callable[[CSRGraph], Call]] = {
    "attention": attention_call,
    "aggregate": lambda graph: lambda q, k, v: ga.aggregate(v, graph, reduce=["max", "std"])[1],
    "edge_softmax": lambda graph: (
        lambda q, k, v: ga.edge_softmax(ga.edge_scores(q, k, graph), graph, heads=True)
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_both_ways_give_the_same_bits(graph: CSRGraph, name: str) -> None:
    call, qkv = CALLS[name](graph), make_qkv(graph)
    plain = call(*qkv)
    grads = torch.autograd.grad(plain.sin().sum(), qkv, allow_unused=True)
    with Listener() as listener:
        seen = call(*qkv)
        found = torch.autograd.grad(seen.sin().sum(), qkv, allow_unused=True)
    assert {name, f"{name}_backward"} <= set(listener.seen)
    assert torch.equal(plain, seen)
    for mine, theirs in zip(grads, found, strict=True):
        assert (mine is None) == (theirs is None)
        assert mine is None or torch.equal(mine, theirs)


def test_subclasses_see_the_operator(graph: CSRGraph) -> None:
    class Marked(Tensor):
        seen: list[str] = []

        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            cls.seen.append(str(func))
            return super().__torch_function__(func, types, args, kwargs or {})

    q, k, v = make_qkv(graph)
    out = ga.attention(q.as_subclass(Marked), k, v, graph)
    assert any("graphattn.attention.default" in name for name in Marked.seen)
    assert torch.equal(out.as_subclass(Tensor), ga.attention(q, k, v, graph))


def test_subclasses_in_lists_see_the_operator() -> None:
    """The backward operators take their tensors in lists."""

    class Marked(Tensor):
        pass

    def through_operator(*inputs: Any) -> str:
        return "operator"

    call = direct(through_operator, lambda *inputs: "body")
    plain = torch.ones(2)
    assert call([plain, None], (plain,), 1.0) == "body"
    assert call([plain, None], (plain.as_subclass(Marked),), 1.0) == "operator"


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dim", [0, 1])
def test_vmap_is_the_batch(graph: CSRGraph, name: str, dim: int) -> None:
    call, qkv = CALLS[name](graph), make_qkv(graph, lead=(4,))
    want = call(*qkv)
    found = torch.vmap(call, in_dims=dim)(*(t.movedim(0, dim) for t in qkv))
    assert torch.equal(found, want)
    pair = (torch.autograd.grad(t.cos().sum(), qkv, allow_unused=True) for t in (found, want))
    for mine, theirs in zip(*pair, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            torch.testing.assert_close(mine, theirs)


def test_vmap_over_some_inputs(graph: CSRGraph) -> None:
    q, k, v = make_qkv(graph, lead=(2,))
    found = torch.vmap(lambda x: ga.attention(x, k[0], v[0], graph))(q)
    for n in range(2):
        assert torch.equal(found[n], ga.attention(q[n], k[0], v[0], graph))
    weight = torch.rand(2, graph.num_edges, dtype=torch.float64)
    found = torch.vmap(lambda x, w: ga.aggregate(x, graph, w))(v, weight)
    torch.testing.assert_close(found, ga.aggregate(v, graph, weight))


def test_vmap_over_a_bias_names_the_remedy(graph: CSRGraph) -> None:
    q, k, v = (t.detach() for t in make_qkv(graph))
    bias = torch.randn(4, graph.num_edges, dtype=torch.float64)
    with pytest.raises(ValueError, match="impl='reference'"):
        torch.vmap(lambda b: ga.attention(q, k, v, graph, bias=b))(bias)
    found = torch.vmap(lambda b: ga.attention(q, k, v, graph, bias=b, impl="reference"))(bias)
    torch.testing.assert_close(found[3], ga.attention(q, k, v, graph, bias=bias[3]))


CHECKPOINTED: dict[str, Callable[[Tensor, CSRGraph], Tensor]] = {
    "attention": lambda x, graph: ga.attention(x, x, x, graph),
    "additive attention": lambda x, graph: ga.additive_attention(x, x, x, x[0], graph),
    "additive scores": lambda x, graph: ga.additive_scores(x, x, x[0], graph),
    "aggregate": lambda x, graph: ga.aggregate(x, graph, reduce="max"),
    "messages": lambda x, graph: ga.message_aggregate(x, x, graph, activation="silu"),
    "shared keys": lambda x, graph: ga.shared_key_attention(x, x, x),
}


@pytest.mark.parametrize("name", CHECKPOINTED)
def test_gradients_under_checkpoint(name: str) -> None:
    """Checkpointing gives what was saved to the backward pass a single time."""
    source, target = torch.arange(12) % 5, torch.arange(12) % 7 % 5
    graph, x = ga.as_graph(torch.stack([source, target]), 5), torch.randn(5, 2, 4)

    def gradient(call: Callable[[Tensor], Tensor]) -> Tensor:
        leaf = x.clone().requires_grad_()
        (found,) = torch.autograd.grad(call(leaf).sin().sum(), leaf)
        return found

    plain = gradient(lambda leaf: CHECKPOINTED[name](leaf, graph))
    kept = gradient(
        lambda leaf: checkpoint(CHECKPOINTED[name], leaf, graph, use_reentrant=False)  # type: ignore[no-any-return]
    )
    assert torch.equal(plain, kept) and bool(plain.any())
