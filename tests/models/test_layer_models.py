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
    drawn = model._drawn(graph, 1)
    assert drawn.degree().max() == 2 and drawn.num_edges == 60
    assert not torch.equal(model(x, graph), model(x, graph))
    model.eval()
    assert model._drawn(graph, 0) is graph
    assert torch.equal(model(x, graph), model(x, graph))


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
    with pytest.raises(ValueError, match="fanouts must be numbers of at least 1"):
        TANGNN(3, 8, 1, 1, fanouts=(0,))
    with pytest.raises(ValueError, match="layer must be one of gin, pna"):
        IsomorphicTransformer(3, 8, 1, 1, 2, layer="gat")
