"""The networks published for ZINC, PATTERN and CLUSTER."""

import pytest
import torch

from graphattn.graph import CSRGraph
from graphattn.models import GraphTransformer, LaplacianTransformer


def molecules() -> tuple[CSRGraph, torch.Tensor]:
    """Two small graphs in one batch (3 and 5 nodes), edges not in CSR order."""
    edges = [(1, 0), (0, 1), (2, 1), (1, 2), (6, 7), (3, 4), (4, 3), (5, 3), (3, 5), (7, 6)]
    batch = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])
    return CSRGraph.from_edge_index(torch.tensor(edges).t(), 8), batch


@pytest.mark.parametrize(
    "name, count", [("zinc", 588_929), ("pattern", 522_982), ("cluster", 524_026)]
)
def test_published_parameter_counts(name: str, count: int) -> None:
    model = getattr(GraphTransformer, name)()
    assert isinstance(model, LaplacianTransformer)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count
    assert len(model.layers) == 10 and model.self_loops is False


def test_zinc_pools_each_graph_by_itself() -> None:
    model = GraphTransformer.zinc(num_layers=2, impl="reference").eval()
    graph, batch = molecules()
    x, pe = torch.randint(28, (8, 1)), torch.randn(8, 8)
    edge_attr = torch.randint(4, (graph.num_edges,))
    out = model(x, graph, pe, batch, edge_attr)
    assert out.shape == (2, 1)
    ids = (graph.edge_index()[1] < 3).nonzero().squeeze(1)
    alone = CSRGraph.from_edge_index(graph.edge_index()[:, ids], 3)
    torch.testing.assert_close(
        model(x[:3], alone, pe[:3], None, edge_attr[ids]), out[:1], rtol=1e-5, atol=1e-6
    )


def test_zinc_last_edge_path_alone_has_no_gradient() -> None:
    model = GraphTransformer.zinc(num_layers=2, impl="reference")
    graph, batch = molecules()
    out = model(torch.arange(8), graph, torch.randn(8, 8), batch, torch.arange(10) % 4)
    out.sum().backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without and all(name.startswith("layers.1.edge_update.") for name in without)


@pytest.mark.parametrize("name, types, k, out", [("pattern", 3, 2, 2), ("cluster", 7, 10, 6)])
def test_sbm_networks_predict_per_node(name: str, types: int, k: int, out: int) -> None:
    model = getattr(GraphTransformer, name)(num_layers=2, impl="reference")
    graph, _ = molecules()
    found = model(torch.randint(types, (8,)), graph, torch.randn(8, k))
    assert found.shape == (8, out)
    found.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_input_dropout_is_before_the_encoding_with_edges_only() -> None:
    """All inputs dropped: the encoding survives for ZINC and not for SBM graphs."""
    pe = torch.randn(8, 8)
    for edge_types, survives in ((4, True), (None, False)):
        model = LaplacianTransformer(
            28, 16, 1, 0, edge_types=edge_types, pe_dim=8, input_dropout=1.0
        )
        h = model._embed(torch.arange(8), pe)
        assert torch.equal(h, model.lin_pe(pe)) is survives
        assert bool((h == 0).all()) is not survives


def test_other_norms_and_reset() -> None:
    model = GraphTransformer.zinc(num_layers=1, layer_norm=True, batch_norm=False)
    assert [type(m).__name__ for m in model.layers[0].node_update.norm1] == ["LayerNorm"]
    before = model.layers[0].lin_query.weight.clone()
    model.reset_parameters()
    assert not torch.equal(before, model.layers[0].lin_query.weight)


def test_wrong_input() -> None:
    graph, batch = molecules()
    model = GraphTransformer.zinc(num_layers=1, impl="reference")
    pe = torch.randn(8, 8)
    with pytest.raises(TypeError, match="x must hold integer types.*got torch.float32"):
        model(torch.randn(8, 1), graph, pe, batch, torch.zeros(10, dtype=torch.int64))
    with pytest.raises(TypeError, match="edge_attr must hold integer types.*got none"):
        model(torch.arange(8), graph, pe, batch)
    with pytest.raises(ValueError, match="pe_dim=8"):
        model(torch.arange(8), graph)
