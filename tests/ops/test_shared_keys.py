"""shared_key_attention against the dense formula, and against attention on the complete graph."""

import pytest
import torch
from torch import Tensor

import graphattn as ga
from graphattn import CSRGraph
from graphattn.ops import shared_keys


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def complete(rows: int, cols: int) -> CSRGraph:
    return CSRGraph(torch.arange(rows + 1) * cols, torch.arange(cols).repeat(rows), cols)


@pytest.mark.parametrize("lead", [(), (2,)])
@pytest.mark.parametrize("weights", [(), (7,), (7, 3)])
def test_equals_attention_on_the_complete_graph(
    lead: tuple[int, ...], weights: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_keys, "BLOCK_NUMBERS", 50)  # several blocks
    query, key, value = leaf(*lead, 11, 3, 4), leaf(*lead, 7, 3, 4), leaf(*lead, 7, 3, 5)
    weight = leaf(*weights) if weights else None
    bias = None if weight is None else weight.expand(3, 7).t() if weight.dim() == 1 else weight
    bias = None if bias is None else bias.repeat(11, 1)
    wanted = ga.attention(
        query, key, value, complete(11, 7), bias=bias, return_lse=True, impl="reference"
    )
    found = ga.shared_key_attention(query, key, value, weight, return_lse=True)
    leaves = [t for t in (query, key, value, weight) if t is not None]
    pulls = [torch.randn_like(t) for t in wanted]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)
    for one, other in zip(
        torch.autograd.grad(found, leaves, pulls),
        torch.autograd.grad(wanted, leaves, pulls),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


def test_keys_that_are_left_out() -> None:
    query, key, value = leaf(5, 2, 4), leaf(3, 2, 4), leaf(3, 2, 4)
    weight = torch.tensor([0.3, -torch.inf, 0.0], dtype=torch.float64)
    kept = torch.tensor([0, 2])
    found = ga.shared_key_attention(query, key, value, weight)
    want = ga.shared_key_attention(query, key[kept], value[kept], weight[kept])
    torch.testing.assert_close(found, want)
    gone = torch.full((3,), -torch.inf, dtype=torch.float64)
    out, lse = ga.shared_key_attention(query, key, value, gone, return_lse=True)
    assert not out.any() and torch.isneginf(lse).all()
    grads = torch.autograd.grad(out.sum(), [query, key, value])
    assert not any(g.any() for g in grads)
    assert not ga.shared_key_attention(query, key[:0], value[:0]).any()


def test_derivatives_and_operator() -> None:
    query, key, value, weight = leaf(4, 2, 3), leaf(3, 2, 3), leaf(3, 2, 2), leaf(3)
    assert torch.autograd.gradcheck(ga.shared_key_attention, (query, key, value, weight))
    assert torch.autograd.gradgradcheck(ga.shared_key_attention, (query, key, value, weight))
    given = leaf(1, 2, 4, 3), leaf(1, 2, 3, 3), leaf(1, 2, 3, 2), leaf(2, 3), 0.5
    torch.library.opcheck(shared_keys.shared_op, given)


def test_refusals() -> None:
    query, key = torch.zeros(4, 2, 3), torch.zeros(5, 2, 3)
    with pytest.raises(ValueError, match="log_weight must have one entry per key"):
        ga.shared_key_attention(query, key, key, torch.zeros(4))
    with pytest.raises(ValueError, match=r"key must have shape \[5, 2, 3\]"):
        ga.shared_key_attention(query, key[..., :2], key)
    with pytest.raises(TypeError, match="floating point"):
        ga.shared_key_attention(query.long(), key, key)
