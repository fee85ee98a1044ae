"""GATv2Conv against PyG's layer: weights, outputs, gradients, self-loops, refusals."""

from typing import Any

import pytest
import torch
from torch import Tensor

from graphattn.nn import GATv2Conv
from tests.nn.test_transformer_conv import assert_same, gradients, multigraph

pyg = pytest.importorskip("torch_geometric.nn")


def pair(impl: str, **options: Any) -> tuple[GATv2Conv, torch.nn.Module]:
    ours, theirs = GATv2Conv(7, 5, **options, impl=impl), pyg.GATv2Conv(7, 5, **options)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("impl", ["reference", "auto"])
@pytest.mark.parametrize(
    "options",
    [
        {"heads": 3},
        {"heads": 2, "concat": False, "edge_dim": 4, "residual": True, "bias": False},
        {"heads": 3, "edge_dim": 4, "add_self_loops": False, "share_weights": True},
        {"heads": 1, "edge_dim": 4, "fill_value": "max", "negative_slope": 0.5},
        {"heads": 1, "edge_dim": 4, "fill_value": 0.5},
    ],
    ids=str,
)
def test_equals_pyg(impl: str, options: dict[str, Any]) -> None:
    ours, theirs = pair(impl, **options)
    edge_index = multigraph()
    x, inputs = torch.randn(13, 7), []
    if "edge_dim" in options:
        inputs = [torch.randn(edge_index.shape[1], 4)]
    mine = gradients(ours, [x, *inputs], edge_index, *inputs)
    assert_same(mine, gradients(theirs, [x, *inputs], edge_index, *inputs))


def test_bipartite_weights_and_initial_values() -> None:
    edge_index = torch.tensor([[0, 3, 3, 4, 1], [1, 0, 0, 1, 1]])
    x = torch.randn(5, 7), torch.randn(2, 6)
    convs = []
    for kind in (GATv2Conv, pyg.GATv2Conv):
        torch.manual_seed(4)
        convs.append(kind((7, 6), 5, heads=2))
    states = [conv.state_dict() for conv in convs]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])
    mine, theirs = (conv(x, edge_index, return_attention_weights=True) for conv in convs)
    torch.testing.assert_close(mine[0], theirs[0])
    assert torch.equal(mine[1][0], theirs[1][0])
    torch.testing.assert_close(mine[1][1], theirs[1][1])


def test_lazy_widths_and_refusals() -> None:
    conv = GATv2Conv(-1, 5, heads=2, edge_dim=-1)
    x, edge_index = torch.randn(13, 7), multigraph()
    attr: Tensor = torch.randn(edge_index.shape[1])
    assert conv(x, edge_index, attr).shape == (13, 10)
    assert conv.lin_l.weight.shape == (10, 7) and conv.lin_edge.weight.shape == (10, 1)
    with pytest.raises(ValueError, match="one row per edge"):
        conv(x, edge_index, attr[1:])
    with pytest.raises(ValueError, match="without edge features"):
        GATv2Conv(7, 5)(x, edge_index, attr)
    with pytest.raises(ValueError, match="GATv2Conv supports flow"):
        GATv2Conv(7, 5, flow="target_to_source")
