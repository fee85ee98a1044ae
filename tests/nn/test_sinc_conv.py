"""SINCConv against edge lists, SIR as its special case, and UniqueSignature without training."""

from itertools import product

import pytest
import torch
from torch import Tensor

from graphattn import CSRGraph
from graphattn.datasets.generated import unique_signature
from graphattn.nn import SINCConv
from graphattn.nn.sinc_conv import REDUCTIONS
from tests.ops.conftest import messy_graph

IN, HIDDEN, OUT = 4, 6, 3


def square() -> CSRGraph:
    source, target = messy_graph(19, 19).edge_index()
    return CSRGraph.from_edge_index(torch.stack([source, target]), 19)


def reduced(messages: Tensor, graph: CSRGraph, how: str) -> Tensor:
    """Messages [E, d] of the caller's edges, row by row in plain Python."""
    source, target = graph.edge_index()
    n = graph.num_rows
    out_degree = torch.bincount(source, minlength=n).clamp(min=1).to(messages.dtype)
    in_degree = torch.bincount(target, minlength=n).clamp(min=1).to(messages.dtype)
    rows = []
    for u in range(n):
        mine, near = messages[target == u], source[target == u]
        if how == "sym":
            mine = mine * (out_degree[near] * in_degree[u]).rsqrt()[:, None]
        if len(mine) == 0:
            rows.append(torch.zeros_like(messages[0]))
        else:
            rows.append({"max": mine.amax, "mean": mine.mean}.get(how, mine.sum)(0))
    return torch.stack(rows)


def by_edges(conv: SINCConv, x: Tensor, graph: CSRGraph, weight: Tensor | float = 1.0) -> Tensor:
    source, target = graph.edge_index()
    own = conv.lin_query(x)
    if conv.lin_context is not None:
        own = own + conv.lin_context(reduced(weight * x[source], graph, str(conv.context)))
    phi = torch.nn.functional.leaky_relu(own[target] + conv.lin_key(x)[source], conv.slope)
    if conv.aggr == "max":
        return reduced(weight * conv.lin_out(phi), graph, "max")
    return conv.lin_out(reduced(weight * phi, graph, conv.aggr))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("aggr", "context"), [*product(REDUCTIONS, REDUCTIONS)])
def test_all_pairs_equal_the_edge_list(aggr: str, context: str, weighted: bool) -> None:
    graph = square()
    weight = torch.rand(graph.num_edges, dtype=torch.float64, requires_grad=weighted)
    conv = SINCConv(IN, HIDDEN, OUT, aggr=aggr, context=context).double()
    x = torch.randn(19, IN, dtype=torch.float64, requires_grad=True)
    found, want = conv(x, graph), by_edges(conv, x, graph)
    if weighted:
        found, want = conv(x, graph, weight), by_edges(conv, x, graph, weight[:, None])
    torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-11)
    leaves, pull = [x, *conv.parameters(), *[weight] * weighted], torch.randn_like(want)
    for one, other in zip(
        torch.autograd.grad(found, leaves, pull),
        torch.autograd.grad(want, leaves, pull),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_without_context_it_is_sir() -> None:
    graph, x = square(), torch.randn(19, IN)
    sinc, sir = SINCConv(IN, HIDDEN, OUT), SINCConv(IN, HIDDEN, OUT, context=None)
    torch.nn.init.zeros_(sinc.lin_context.weight)
    sir.load_state_dict({k: v for k, v in sinc.state_dict().items() if "context" not in k})
    assert torch.equal(sinc(x, graph), sir(x, graph))


@pytest.mark.parametrize("p", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("r", [3, 5, 7])
def test_unique_signature_by_hand(p: float, r: int) -> None:
    """relu(z + 1) - 2 relu(z) + relu(z - 1) is 1 exactly where x_v equals the sum of N(u)."""
    conv = SINCConv(1, 3, 1, activation="relu", aggr="sum", context="sum")
    with torch.no_grad():
        conv.lin_query.weight.zero_()
        conv.lin_query.bias.copy_(torch.tensor([1.0, 0.0, -1.0]))
        conv.lin_key.weight.fill_(1.0)
        conv.lin_context.weight.fill_(-1.0)
        conv.lin_out.weight.copy_(torch.tensor([[1.0, -2.0, 1.0]]))
        conv.lin_out.bias.zero_()
    positives = total = 0
    for seed in range(30):
        x, edge_index, label = unique_signature(p, r, seed)
        with torch.no_grad():
            found = conv(x, CSRGraph.from_edge_index(edge_index, len(x)))[:, 0] > 0.5
        assert torch.equal(found, label.bool())
        positives, total = positives + int(label.sum()), total + len(label)
    expected = {(0.3, 3): 0.371, (0.7, 7): 0.235}.get((p, r))
    assert expected is None or abs(positives / total - expected) < 0.05


def test_refusals() -> None:
    with pytest.raises(ValueError, match="aggr must be one of sum, mean, sym, max"):
        SINCConv(IN, HIDDEN, OUT, aggr="min")
    with pytest.raises(ValueError, match="context must be one of"):
        SINCConv(IN, HIDDEN, OUT, context="min")
    with pytest.raises(ValueError, match="activation must be one of"):
        SINCConv(IN, HIDDEN, OUT, activation="elu")
    with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\), got 2.0"):
        SINCConv(IN, HIDDEN, OUT, dropout=2.0)
    with pytest.raises(ValueError, match=f"x must have {IN} features per node"):
        SINCConv(IN, HIDDEN, OUT)(torch.randn(3, IN + 1), torch.tensor([[0], [1]]))
    for aggr in ("sum", "max"):
        with pytest.raises(ValueError, match=r"edge_weight must have shape \[1\].* got \[2\]"):
            conv, edges = SINCConv(IN, HIDDEN, OUT, aggr=aggr), torch.tensor([[0], [1]])
            conv(torch.randn(3, IN), edges, torch.ones(2))
