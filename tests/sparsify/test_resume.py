"""Masks and schedules are state: they are saved, loaded and moved with the model."""

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphattn import CSRGraph
from graphattn.models import GraphTransformer, LargeGT
from graphattn.nn import GATv2Conv, TokenTransformer, TransformerConv
from graphattn.sparsify import HeadMasks, Sparsified, WeightMasks

N, F_IN = 20, 5


def graph() -> CSRGraph:
    pairs = torch.randint(0, N, (2, 90), generator=torch.Generator().manual_seed(2))
    return CSRGraph.from_edge_index(pairs, N).add_self_loops()


def pruned() -> Sparsified:
    model = GraphTransformer(F_IN, 16, 3, 2, 4, dropout=0.0, impl="reference")
    return Sparsified(
        model, F_IN, nodes=0.8, edges=0.5, heads=0.5, weights=0.5,
        head_options={"every": 2}, weight_options={"end": 8, "every": 2},
    ).double()  # fmt: skip


def train(model: Sparsified, steps: int, x: Tensor) -> None:
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    for seed in range(steps):
        torch.manual_seed(seed)
        optimiser.zero_grad()
        model.train()(x, graph()).square().mean().backward()
        model.step()
        optimiser.step()


@pytest.mark.parametrize("assign", [False, True])
def test_a_run_goes_on_from_its_state_dict(assign: bool) -> None:
    first, second, x = pruned(), pruned(), torch.randn(N, F_IN, dtype=torch.float64)
    train(first, 3, x)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True), assign=assign)
    assert first.heads is not None and second.heads is not None
    assert second.heads.steps == 3 and second.weights.steps == 3
    assert torch.equal(second.eval()(x, graph()), first.eval()(x, graph()))
    for model in (first, second):  # an exchange of heads and a pruning of weights are due
        train(model, 3, x)
    for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(second.eval()(x, graph()), first.eval()(x, graph()))


def test_masks_move_with_the_model_and_still_learn() -> None:
    model = pruned().float()
    masks = model.heads
    assert masks is not None
    assert [mask.dtype for mask in masks.masks] == [torch.float32] * 2
    assert not {id(mask) for mask in masks.masks} & {id(p) for p in model.parameters()}
    model(torch.randn(N, F_IN), graph()).square().mean().backward()
    model.step()
    assert all(bool(total.any()) for total in masks.importance)
    assert {t.device.type for t in model.to("meta").state_dict().values() if t.dim()} == {"meta"}


def edge_layer(kind: str) -> tuple[nn.Module, tuple[Any, ...], str]:
    x = torch.randn(N, F_IN)
    if kind == "tokens":
        inputs: tuple[Any, ...] = (torch.randn(N, 2, F_IN), torch.randint(0, N, (6, 3)))
        return TokenTransformer(F_IN, 4), inputs, "lin_read"
    layer = {"transformer": TransformerConv, "gatv2": GATv2Conv}[kind]
    made = layer(F_IN, 4, 2, edge_dim=3, impl="reference")
    return made, (x, graph(), torch.randn(graph().num_edges, 3)), "lin_edge"


@pytest.mark.parametrize("kind", ["transformer", "gatv2", "tokens"])
def test_weights_that_are_read_without_a_call_are_masked_in_every_step(kind: str) -> None:
    layer, inputs, name = edge_layer(kind)
    masks = WeightMasks(layer.eval(), 0.5, end=2, every=1)
    optimiser = torch.optim.SGD(layer.parameters(), 0.1)
    for _ in range(3):
        optimiser.zero_grad()
        layer(*inputs).square().sum().backward()
        masks.step()
        optimiser.step()
    place = masks.maps.index(getattr(layer, name))
    assert not masks.masks[place].all() and masks.weights[place].grad is not None
    found = layer(*inputs)
    masks.compact()
    assert torch.equal(layer(*inputs), found)
    assert not any("parametrizations" in key for key in layer.state_dict())


def test_masked_heads_of_large_gt_equal_deleted_heads() -> None:
    model = LargeGT(F_IN, 4, 3, heads=4, num_nodes=N, num_codes=6, norm="none", global_dim=4)
    inputs = (torch.randn(N, 3, F_IN), torch.randint(0, N, (6, 3)), None, torch.arange(6))
    model.double().eval()
    features = inputs[0].double()
    whole = model(features, *inputs[1:])
    masks = HeadMasks(model, 0.5)
    assert len(masks.masks) == 2
    masked = model(features, *inputs[1:])
    assert not torch.allclose(masked, whole)
    masks.compact()
    torch.testing.assert_close(model(features, *inputs[1:]), masked, rtol=1e-11, atol=1e-12)


def test_lazy_and_masked_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="run it once"):
        WeightMasks(TransformerConv(-1, 4), 0.5)
    model = nn.Sequential(nn.Linear(3, 3))
    WeightMasks(model, 0.5)
    with pytest.raises(ValueError, match="have masks or other parametrizations already"):
        WeightMasks(model, 0.5)
    conv = TransformerConv(3, 4, 2)
    heads, weights = HeadMasks(conv, 0.5), WeightMasks(conv, 0.5)
    with pytest.raises(ValueError, match="WeightMasks before HeadMasks"):
        heads.compact()
    weights.compact()
    heads.compact()
