"""Heads of layers without an output projection: deleted heads leave zeros in their place."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphattn import CSRGraph
from graphattn.models import TANGNN
from graphattn.nn import GATv2Conv, GINAttention, TransformerConv
from graphattn.nn.blocks import JoinHeads
from graphattn.sparsify import HeadMasks

N, D, H = 12, 16, 4


def graph() -> CSRGraph:
    pairs = torch.randint(0, N, (2, 50), generator=torch.Generator().manual_seed(2))
    return CSRGraph.from_edge_index(pairs, N)


CONV = {"heads": H, "impl": "reference"}
LAYERS = {
    "conv": lambda: TransformerConv(D, 3, **CONV),
    "conv-mean": lambda: TransformerConv(D, 3, concat=False, edge_dim=2, **CONV),
    "conv-beta": lambda: TransformerConv(D, 3, beta=True, edge_dim=2, **CONV),
    "gatv2": lambda: GATv2Conv(D, 3, residual=True, edge_dim=2, **CONV),
    "gatv2-shared": lambda: GATv2Conv(D, 3, share_weights=True, concat=False, **CONV),
    "gin": lambda: GINAttention(D, H, impl="reference"),
    "gin-out": lambda: GINAttention(D, H, out_proj=True, transform="relu", impl="reference"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_masked_heads_equal_deleted_heads(name: str) -> None:
    layer: Any = LAYERS[name]().double().eval()
    x = torch.randn(N, D, dtype=torch.float64)
    edges = [] if getattr(layer, "edge_dim", None) is None else [torch.randn(50, 2).double()]

    def call() -> Tensor:
        out: Tensor = layer(x, graph(), *edges)
        return out

    whole, size = call(), sum(p.numel() for p in layer.parameters())
    masks = HeadMasks(layer, 0.5, every=1)
    call().square().sum().backward()
    masks.step()
    assert int(masks.masks[0].sum()) == 2
    masked = call()
    assert masked.shape == whole.shape and not torch.allclose(masked, whole)
    masks.compact()
    torch.testing.assert_close(call(), masked, rtol=1e-11, atol=1e-12)
    assert layer.heads == 2 and sum(p.numel() for p in layer.parameters()) < size
    call().sum().backward()
    again = HeadMasks(layer, 0.5)  # of those that are left
    masked = call()
    again.compact()
    torch.testing.assert_close(call(), masked, rtol=1e-11, atol=1e-12)


def test_heads_are_joined_in_their_places() -> None:
    join, x = JoinHeads(4), torch.randn(3, 16)
    assert torch.equal(join(join.split(x)), x) and not join.state_dict()
    join.keep(torch.tensor([True, False, True, True]))
    join.keep(torch.tensor([False, True, True]))
    want = x.clone()
    want[:, :8] = 0.0
    assert torch.equal(join(join.split(x)), want)
    mean = JoinHeads(4, concat=False)
    mean.keep(torch.tensor([True, False, False, True]))
    torch.testing.assert_close(mean(torch.ones(3, 2, 5)), torch.full((3, 5), 0.5))


@pytest.mark.parametrize("model", [TANGNN(3, 8, 2, 1, 4, form="pooled"), nn.Linear(3, 3)])
def test_layers_whose_heads_cannot_be_masked_are_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match="no heads that can be masked; expected a model of Graph"):
        HeadMasks(model, 0.5)
