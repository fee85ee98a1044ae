"""TopMAttention: the choice against a sort, full attention at m = N, and what learns."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from graphattn.nn import TopMAttention, TransformerConv
from graphattn.ops import attention

N, D, H = 17, 8, 2


def test_choice_equals_a_full_sort_with_ties_by_index() -> None:
    layer = TopMAttention(D, H, m=5)
    scores = torch.tensor([0.1, 0.7, 0.7, -0.2, 0.7, 0.3, 0.9, 0.7])
    assert layer.choose(scores, None)[0].tolist() == [1, 2, 4, 6, 7]
    batch = torch.tensor([0, 0, 0, 1, 1, 1, 1, 3])
    layer.m = 2
    chosen, owner = layer.choose(scores, batch)
    assert chosen.tolist() == [1, 2, 4, 6, 7] and owner.tolist() == [0, 0, 1, 1, 3]
    x = torch.randn(N, D)
    want = F.cosine_similarity(x.relu(), layer.vector[None]).argsort(descending=True)[:2]
    assert set(layer.choose(layer.scores(x), None)[0].tolist()) == set(want.tolist())


def dense(layer: TopMAttention, x: Tensor, nodes: Tensor) -> Tensor:
    gate = layer.scores(x)[nodes].sigmoid()[:, None]
    q, k, v = layer.lin_query(x), layer.lin_key(x[nodes]), layer.lin_value(x[nodes]) * gate
    q, k, v = (t.view(-1, H, D // H).transpose(0, 1) for t in (q, k, v))
    out = (q @ k.mT / (D // H) ** 0.5).softmax(-1) @ v
    return layer.lin_out(out.transpose(0, 1).flatten(1))


@pytest.mark.parametrize("m", [1, 4, N, N + 9])
def test_equals_dense_attention_over_the_chosen(m: int) -> None:
    layer = TopMAttention(D, H, m=m).double()
    x = torch.randn(N, D, dtype=torch.float64, requires_grad=True)
    nodes = layer.scores(x).argsort(descending=True)[:m].sort().values
    found, want = layer(x), dense(layer, x, nodes)
    torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-11)
    leaves, pull = [x, *layer.parameters()], torch.randn_like(want)
    grads = [torch.autograd.grad(o, leaves, pull, allow_unused=True) for o in (found, want)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)
    if m == 1:
        torch.testing.assert_close(found, found[:1].expand(N, -1))


@pytest.mark.parametrize("form", ["attention", "pooled"])
def test_batch_is_each_graph_alone_and_order_does_not_matter(form: str) -> None:
    layer = TopMAttention(D, H, m=3, form=form).double()
    x, batch = torch.randn(N, D, dtype=torch.float64), torch.randint(0, 3, (N,))
    found = layer(x, batch)
    for g in range(3):
        torch.testing.assert_close(found[batch == g], layer(x[batch == g]))
    order = torch.randperm(N)
    torch.testing.assert_close(layer(x[order], batch[order]), found[order])
    torch.testing.assert_close(layer(x[order]), layer(x)[order])


@pytest.mark.parametrize("gate", ["sigmoid", "straight-through", "none"])
@pytest.mark.parametrize("form", ["attention", "pooled"])
def test_the_vector_learns_through_the_gate(gate: str, form: str) -> None:
    layer = TopMAttention(D, H, m=4, gate=gate, form=form)
    layer(torch.randn(N, D)).square().sum().backward()
    grad = layer.vector.grad
    assert grad is None if gate == "none" else bool(grad.any())


def test_turning_away_removes_the_mean_direction() -> None:
    layer, x = TopMAttention(D, H), F.normalize(torch.randn(1, D)).expand(N, D)
    layer.turn_away(x)
    vector = layer.vector.detach()
    assert abs(float(vector @ x[0])) < 1e-5 and abs(float(vector.norm()) - 1) < 1e-5


def test_top_m_as_a_layers_option() -> None:
    conv, x = TransformerConv(D, 4, heads=H, top_m=2), torch.randn(N, D)
    edge_index = torch.randint(0, N, (2, 120))
    query, key, value = (
        lin(x).view(N, H, 4) for lin in (conv.lin_query, conv.lin_key, conv.lin_value)
    )
    from graphattn import as_graph

    want = attention(query, key, value, as_graph(edge_index, N), top_m=2).flatten(1)
    torch.testing.assert_close(conv(x, edge_index), want + conv.lin_skip(x))


def test_scores_that_are_not_numbers_show_in_the_result() -> None:
    layer = TopMAttention(D, H, m=3)
    scores = torch.tensor([0.1, torch.nan, 0.7, torch.nan, torch.nan, torch.nan])
    assert layer.choose(scores, None)[0].tolist() == [1, 3, 4]
    assert layer.choose(scores, torch.zeros(6, dtype=torch.int64))[0].tolist() == [1, 3, 4]


@pytest.mark.parametrize("form", ["attention", "pooled"])
def test_no_nodes_and_features_that_do_not_fit(form: str) -> None:
    layer = TopMAttention(D, H, m=3, form=form)
    for batch in (None, torch.empty(0, dtype=torch.int64)):
        assert layer(torch.randn(0, D), batch).shape == (0, D)
    with pytest.raises(ValueError, match=r"x must have 8 features per node.*got \[17, 7\]"):
        layer(torch.randn(N, 7))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"m": 0}, "m must be at least 1, got 0"),
        ({"m": 2.0}, "m must be an integer"),
        ({"form": "max"}, "form must be one of"),
        ({"gate": "relu"}, "gate must be one of"),
        ({"heads": 3}, "multiple of heads"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        TopMAttention(D, **{"heads": H} | options)
