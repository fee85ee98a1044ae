"""SINC, TANGNN and the isomorphic transformers beyond what all models have in common."""

import pytest
import torch

from graphattn import CSRGraph
from graphattn.models import SINC, TANGNN, IsomorphicTransformer


def ring(n: int = 30) -> CSRGraph:
    nodes = torch.arange(n)
    pairs = [torch.stack([nodes, (nodes + shift) % n]) for shift in range(1, 6)]
    return CSRGraph.from_edge_index(torch.cat(pairs, 1), n)


def test_sinc_for_arxiv_has_the_published_size() -> None:
    model = SINC(128, 75, 40, 4)
    assert sum(p.numel() for p in model.parameters()) == 103_915


def test_tangnn_draws_in_training_and_not_in_evaluation() -> None:
    model = TANGNN(3, 8, 2, 2, m=4, fanouts=(2,), dropout=0.0)
    x, graph = torch.randn(30, 3), ring()
    drawn, ids = model._drawn(graph, 1)
    assert drawn.degree().max() == 2 and drawn.num_edges == 60
    assert torch.equal(drawn.edge_index(), graph.edge_index()[:, ids])
    assert not torch.equal(model(x, graph), model(x, graph))
    model.eval()
    assert model._drawn(graph, 0) == (graph, None)
    assert torch.equal(model(x, graph), model(x, graph))


@pytest.mark.parametrize("weighted", [False, True])
def test_tangnn_equals_its_formula_in_dense_matrices(weighted: bool) -> None:
    graph, x = ring(), torch.randn(30, 3, dtype=torch.float64)
    model = TANGNN(3, 8, 2, 2, heads=2, m=4, norm="none", residual=False).double().eval()
    bias = torch.randn(graph.num_edges, dtype=torch.float64) if weighted else None
    source, target = graph.edge_index()
    mean = torch.zeros(30, 30, dtype=torch.float64)
    mean[target, source] = 0.2 if bias is None else 0.2 * bias.exp()
    h = model.lin_in(x)
    for layer in model.layers:
        near = (layer.lin_self(h) + layer.lin_near(mean @ h)).relu()
        cosine = torch.nn.functional.cosine_similarity(h.relu(), layer.top.vector[None])
        best = cosine.topk(4).indices
        query, key, value = (
            f(y).view(-1, 2, 4).transpose(0, 1)
            for f, y in zip(
                (layer.top.lin_query, layer.top.lin_key, layer.top.lin_value),
                (h, h[best], h[best]),
                strict=True,
            )
        )
        weight = (query @ key.mT / 2.0).softmax(-1)
        far = weight @ (value * cosine[best].sigmoid()[:, None])
        far = layer.top.lin_out(far.transpose(0, 1).flatten(1))
        h = layer.lin_mix(torch.cat([near, far], 1))
    torch.testing.assert_close(model(x, graph, bias=bias), model.head(h), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("kind", [TANGNN, SINC])
def test_the_order_of_nodes_does_not_matter(kind: type[torch.nn.Module]) -> None:
    graph, x, order = ring(), torch.randn(30, 3, dtype=torch.float64), torch.randperm(30)
    model = kind(3, 8, 2, 2).double().eval()
    turned = CSRGraph.from_edge_index(order.argsort()[graph.edge_index()], 30)
    found = model(x[order], turned)
    torch.testing.assert_close(found, model(x, graph)[order], rtol=1e-10, atol=1e-11)


def test_sinc_weighs_its_edges() -> None:
    graph, x = ring(), torch.randn(30, 3, dtype=torch.float64)
    model, bias = SINC(3, 8, 2, 2).double().eval(), torch.randn(graph.num_edges).double()
    h = model.lin_in(x)
    for conv, norm in zip(model.convs, model.norms, strict=True):
        h = h + torch.nn.functional.leaky_relu(norm(conv(h, graph, bias.exp())), 0.2)
    torch.testing.assert_close(model(x, graph, bias=bias), model.lin_out(h))


def test_tangnn_pools_each_graph_alone() -> None:
    model = TANGNN(3, 8, 2, 2, m=4, pool="mean").eval()
    one, x = ring(8), torch.randn(16, 3)
    both = CSRGraph.from_edge_index(torch.cat([one.edge_index(), one.edge_index() + 8], 1), 16)
    batch = torch.arange(16) // 8
    alone = torch.cat([model(x[:8], one), model(x[8:], one)])
    torch.testing.assert_close(model(x, both, batch=batch), alone)


def test_layer_options_reach_the_layers() -> None:
    model = IsomorphicTransformer(
        3, 8, 1, 2, 2, layer="pna", layer_options={"transform": "relu", "differential": True}
    )
    layers = [block.layer.weights for block in model.blocks]
    assert [weights.transform.kind for weights in layers] == ["relu"] * 2
    assert layers[0].first_mix < layers[1].first_mix


def test_refusals() -> None:
    for kind in (TANGNN, SINC):
        with pytest.raises(ValueError, match=r"bias must have shape \[150\]"):
            kind(3, 8, 2, 2)(torch.randn(30, 3), ring(), bias=torch.zeros(151))
    with pytest.raises(ValueError, match="fanouts must be numbers of at least 1"):
        TANGNN(3, 8, 1, 1, fanouts=(0,))
    with pytest.raises(ValueError, match="layer must be one of gin, pna"):
        IsomorphicTransformer(3, 8, 1, 1, 2, layer="gat")
