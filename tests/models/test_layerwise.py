from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import graphattn as ga
from graphattn.datasets.generated import power_law
from graphattn.models import (
    GAT,
    GCN,
    SAGE,
    SINC,
    TANGNN,
    GraphTransformer,
    IsomorphicTransformer,
    baselines,
)
from graphattn.models.layerwise import layerwise, supports

EDGES = power_law(200, 1500, 0.8, 0.5)  # directed, with duplicates, self-loops, isolated nodes
MODELS: dict[str, Callable[..., nn.Module]] = {
    "gt": lambda: GraphTransformer(5, 16, 4, 3, 2, variant="gt", norm="batch", pe_dim=3),
    "gt-sep": lambda: GraphTransformer(5, 16, 4, 3, 2, variant="gt-sep", norm="batch", pe_dim=3),
    "gin": lambda: IsomorphicTransformer(5, 16, 4, 2, 2, pe_dim=3),
    "pna": lambda: IsomorphicTransformer(5, 16, 4, 2, 2, layer="pna", pe_dim=3),
    "gcn": lambda: GCN(5, 16, 4, 3, pe_dim=3),
    "gcn jumping": lambda: GCN(5, 16, 4, 3, pe_dim=3, jumping=True, input_linear=True),
    "sage": lambda: SAGE(5, 16, 4, 3, pe_dim=3),
    "sage jumping": lambda: SAGE(5, 16, 4, 2, pe_dim=3, jumping=True, residual=False),
    "gat": lambda: GAT(5, 16, 4, 3, 2, pe_dim=3),
    "sinc": lambda: SINC(5, 16, 4, 3, pe_dim=3),
    "sinc sym": lambda: SINC(5, 16, 4, 3, pe_dim=3, aggr="sym"),
    "sinc max": lambda: SINC(5, 16, 4, 2, pe_dim=3, aggr="max", context="max"),
    "sir": lambda: SINC(5, 16, 4, 2, pe_dim=3, context=None),
}


def check(model: nn.Module, *folders: Path | None) -> None:
    x, pe = torch.randn(210, 5), torch.randn(210, 3)
    model.train()(x, EDGES, pe)  # running statistics that are not 0 and 1
    want = model.eval()(x, EDGES, pe)
    model.train()
    for folder in folders:
        out = layerwise(model, x, EDGES, pe, rows=37, folder=folder)
        torch.testing.assert_close(out, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_equals_the_full_graph(name: str, tmp_path: Path) -> None:
    check(MODELS[name](), None, tmp_path)


def test_degrees_are_counted_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "_ROWS", 7)
    graph, (source, target) = ga.as_graph(EDGES, 210), EDGES
    degree = torch.bincount(target[source != target], minlength=210) + 1
    found = baselines._root_degrees(graph, torch.float64)
    torch.testing.assert_close(found, degree.double().rsqrt())


def small(count: int = 4) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 5), torch.zeros(2, 0, dtype=torch.int64)


@pytest.mark.parametrize("option", ["is_causal", "rotary"])
@pytest.mark.parametrize("layer", ["gin", "pna"])
def test_refuses_layers_that_read_the_numbers_of_nodes(option: str, layer: str) -> None:
    model = IsomorphicTransformer(5, 16, 4, 2, 2, layer=layer, layer_options={option: True})
    assert not supports(model)
    with pytest.raises(ValueError, match=r"read the numbers of nodes \(is_causal, rotary\); run"):
        layerwise(model, *small())


def test_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="TANGNN has no encode, blocks and decode"):
        layerwise(TANGNN(5, 8, 2, 2), *small())
    with pytest.raises(ValueError, match="GCN pools the nodes of a graph; run it on the full"):
        layerwise(GCN(5, 8, 2, 2, pool="mean"), *small())
    with pytest.raises(ValueError, match="rows of a block must be at least 1, got 0"):
        layerwise(GCN(5, 8, 2, 2), *small(), rows=0)
    with pytest.raises(ValueError, match="at least one node per process, got 0 for 1"):
        layerwise(GCN(5, 8, 2, 2), *small(0))
    with pytest.raises(ValueError, match="needs pe of shape"):
        layerwise(GraphTransformer(5, 8, 2, 2, 2, pe_dim=3), *small())
