"""Masks, schedules and compaction: exact where nothing is pruned, and real where something is."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphattn import CSRGraph
from graphattn.models import GCN, GraphTransformer, IsomorphicTransformer
from graphattn.models.graph_transformer import PreNormBlock
from graphattn.nn import GraphTransformerLayer, PNAAttention
from graphattn.nn.sequences import sequence_graph
from graphattn.sparsify import (
    EdgeSelector,
    HeadMasks,
    LayerSkips,
    NodeSelector,
    Sparsified,
    WeightMasks,
    cubic_sparsity,
    drop_layers,
)
from graphattn.sparsify.head_layers import heads_of

N, F_IN, D, H = 20, 5, 16, 4


def graph(n: int = N, edges: int = 90) -> CSRGraph:
    generator = torch.Generator().manual_seed(2)
    pairs = torch.randint(0, n, (2, edges), generator=generator)
    return CSRGraph.from_edge_index(pairs, n).add_self_loops()


def transformer(**options: Any) -> GraphTransformer:
    return GraphTransformer(F_IN, D, 3, 4, H, dropout=0.0, impl="reference", **options).double()


def make(shape: tuple[int, ...] = (N, F_IN)) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def test_shares_of_one_are_the_model_bit_for_bit() -> None:
    model, x = transformer(), make()
    want = model.eval()(x, graph())
    sparse = Sparsified(model, F_IN).double().eval()
    assert torch.equal(sparse(x, graph()), want)
    masks = HeadMasks(model, 1.0)
    weights = WeightMasks(model, 1.0, end=1, every=1)
    weights.step()
    LayerSkips(model, 0.5)
    assert all(bool(mask.all()) for mask in masks.masks) and weights.measured() == 1.0
    assert torch.equal(model(x, graph()), want)


@pytest.mark.parametrize("kind", ["gt", "gt-sep", "pna", "edges"])
def test_masked_heads_equal_deleted_heads(kind: str) -> None:
    x, inputs = make(), []
    if kind == "edges":
        model: nn.Module = GraphTransformerLayer(D, H, edge_dim=3, impl="reference").double()
        x, inputs = make((N, D)), [make((graph().num_edges, 3))]
    elif kind == "pna":
        model = IsomorphicTransformer(
            F_IN, D, 3, 2, H, layer="pna", dropout=0.0, impl="reference"
        ).double()
    else:
        model = transformer(variant=kind)

    def call() -> Tensor:
        found = model(x, graph(), *inputs)
        return torch.cat([part.flatten() for part in found]) if inputs else found

    model.eval()
    whole = call()
    size = sum(p.numel() for p in model.parameters())
    masks = HeadMasks(model, 0.5, generator=torch.Generator().manual_seed(1))
    masked = call()
    assert not torch.allclose(masked, whole)
    masks.compact()
    torch.testing.assert_close(call(), masked, rtol=1e-11, atol=1e-12)
    assert sum(p.numel() for p in model.parameters()) < size
    call().sum().backward()


def dyadic(shape: torch.Size | tuple[int, ...]) -> Tensor:
    return torch.randint(-3, 4, shape).double() / 4


@pytest.mark.parametrize("kind", ["gt", "gt-sep", "edges", "pna"])
def test_masked_heads_equal_deleted_heads_bit_for_bit(kind: str) -> None:
    """In layers whose products with matrices round nothing.

    A BLAS adds in another order when a matrix has fewer rows (MKL's float64 does, in the last bit,
    for 8 of 16), so that bits can only be compared where order does not matter: projections of
    small multiples of 1/4, and an output projection that reads each column once.
    """
    inputs: list[Tensor] = []
    if kind == "edges":
        layer: nn.Module = GraphTransformerLayer(
            D, H, edge_dim=3, batch_norm=False, impl="reference"
        )
        inputs = [dyadic((graph().num_edges, 3))]
    elif kind == "pna":
        layer = PNAAttention(D, H, impl="reference")
    else:
        options = {"separate": kind == "gt-sep", "norm": "none", "dropout": 0.0, "residual": True}
        layer = PreNormBlock(D, H, **options, impl="reference")
    found = heads_of(layer.double().eval())
    assert found is not None
    with torch.no_grad():
        for linear in found.made_by:
            for parameter in linear.parameters():
                parameter.copy_(dyadic(parameter.shape))
        for linear, _ in found.read_by:
            linear.weight.zero_()
            columns = torch.randperm(linear.in_features)
            linear.weight[torch.arange(linear.in_features) % linear.out_features, columns] = 0.5
            linear.bias.zero_()
    masks, x = HeadMasks(layer, 0.5), dyadic((N, D))
    masked = layer(x, graph(), *inputs)
    masks.compact()
    deleted = layer(x, graph(), *inputs)
    for one, other in zip(
        *([t] if isinstance(t, Tensor) else t for t in (masked, deleted)), strict=True
    ):
        assert bool(one.any()) and torch.equal(one, other)


def test_heads_are_exchanged_by_importance() -> None:
    model, x = transformer(), make()
    masks = HeadMasks(model, 0.5, exchange=0.5, every=2)
    wanted = [int(mask.sum()) for mask in masks.masks]
    for _ in range(2):
        model(x, graph()).square().sum().backward()
        totals = [t + m.grad.abs() for t, m in zip(masks.importance, masks.masks, strict=True)]
        before = [mask.detach() > 0 for mask in masks.masks]
        masks.step()
    assert [int(mask.sum()) for mask in masks.masks] == wanted
    for total, old, mask in zip(totals, before, masks.masks, strict=True):
        weakest = total.masked_fill(~old, torch.inf).argmin()
        off = ~old
        off[weakest] = True
        best = total.masked_fill(~off, -torch.inf).argmax()
        want = old.clone()
        want[weakest] = False
        want[best] = True
        assert torch.equal(mask > 0, want)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.8])
def test_nodes_are_counted_per_graph_and_gone(ratio: float) -> None:
    selector = NodeSelector(F_IN, ratio).double()
    batch = torch.cat([torch.full((n,), g) for g, n in enumerate((3, 7, 10))])[torch.randperm(N)]
    x = make().requires_grad_()
    for training in (True, False):
        keep, soft = selector.train(training).keep(x, batch)
        counts = torch.bincount(batch[keep], minlength=3)
        assert counts.tolist() == [-int(-ratio * n // 1) for n in (3, 7, 10)]
        total = torch.zeros(3, dtype=torch.float64).index_add(0, batch, soft)
        torch.testing.assert_close(total, torch.ones_like(total))
    assert torch.equal(selector.keep(x, batch)[0], selector.keep(x, batch)[0])
    scaled, smaller, left = selector(x, sequence_graph(N, causal=False), batch)
    assert torch.equal(scaled, x) and smaller.num_edges == int(keep.sum()) ** 2 == int(left.sum())
    (grad,) = torch.autograd.grad((scaled * make()).sum(), selector.lin.weight)
    assert bool(grad.any())


def test_edges_are_counted_per_row_and_learn() -> None:
    selector, x = EdgeSelector(F_IN, 0.3).double().eval(), make()
    smaller, bias = selector(x, graph())
    assert smaller.degree().tolist() == [-(-3 * n // 10) for n in graph().degree().tolist()]
    assert bias is not None and not bias.any()
    model = Sparsified(transformer(), F_IN, edges=0.5).double()
    model(x, graph()).square().sum().backward()
    assert bool(model.edges.vector.grad.any()) and bool(model.edges.lin_col.weight.grad.any())


def test_evaluation_is_deterministic_and_compaction_keeps_it() -> None:
    options = {"nodes": 0.9, "edges": 0.5, "heads": 0.5, "weights": 0.5, "skip": 0.3}
    weight_options = {"end": 2, "every": 1}
    model = Sparsified(transformer(), F_IN, **options, weight_options=weight_options).double()
    x = make()
    for _ in range(2):
        model(x, graph()).sum().backward()
        model.step()
    model.eval()
    found = model(x, graph())
    assert torch.equal(found, model(x, graph()))
    plain, smaller, nodes = model.compact(x, graph())
    assert len(nodes) == 18 == smaller.num_rows
    kept = plain.eval()(x[nodes], smaller)
    torch.testing.assert_close(kept, found[nodes], rtol=1e-10, atol=1e-11)
    assert not any("orig" in name for name, _ in plain.named_parameters())
    assert smaller.num_edges < graph().num_edges
    assert torch.equal(model(x, graph()), found)
    shallow, *_ = model.compact(x, graph(), layers=2)
    assert len(shallow.blocks) == 2


def test_cubic_schedule() -> None:
    values = [cubic_sparsity(t, 10, 50, 0.1, 0.75) for t in range(60)]
    assert values[10] == 0.1 and values[50] == values[59] == 0.75 and values[0] == 0.1
    assert all(a <= b for a, b in zip(values, values[1:], strict=False))
    assert values[50] - values[49] < 1e-4
    with pytest.raises(ValueError, match="end must lie after start"):
        cubic_sparsity(0, 5, 5, 0.0, 1.0)


@pytest.mark.parametrize("density", [0.25, 0.5, 0.75])
def test_weights_end_at_their_density_by_magnitude(density: float) -> None:
    model = nn.Sequential(nn.Linear(7, 11), nn.Tanh(), nn.Linear(11, 5))
    masks = WeightMasks(model, density, start=0, end=20, every=5)
    total = sum(m.numel() for m in masks.masks)
    seen = []
    for _ in range(20):
        model.zero_grad()
        model(torch.randn(4, 7)).square().sum().backward()
        masks.step()
        seen.append(masks.measured())
    assert abs(seen[-1] - density) <= 1 / total
    assert all(a >= b - 1e-9 for a, b in zip(seen, seen[1:], strict=False))
    before = model(torch.ones(1, 7))
    masks.compact()
    assert torch.equal(model(torch.ones(1, 7)), before)
    assert (model[0].weight == 0).any()


def test_zeros_of_largest_gradient_are_set_free_and_others_stay() -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(60, 1, bias=False), torch.randn(60)
    masks, freed = WeightMasks(linear, 0.4, start=0, end=12, every=3), 0
    optimiser = torch.optim.SGD(linear.parameters(), lr=0.01, momentum=0.9)
    for _ in range(12):
        optimiser.zero_grad()
        linear(x[None]).sum().backward()  # the gradient is x, whatever the weights are
        before = masks.masks[0].clone()[0] == 0
        masks.step()
        still = masks.masks[0][0] == 0
        assert not masks.weights[0].grad[0][still].any()
        optimiser.step()
        fresh = before & ~still
        freed += int(fresh.sum())
        if fresh.any():
            assert x[fresh].abs().min() >= x[before & still].abs().max()
    assert freed > 0


def test_layers_are_skipped_in_training_and_dropped_for_good() -> None:
    model, x = transformer().train(), make()
    want = model(x, graph())
    skips = LayerSkips(model, 0.5)
    mean = torch.stack([model(x, graph()) for _ in range(8)])
    assert not torch.equal(mean[0], mean[1]) or not torch.equal(mean[1], mean[2])
    skips.batch = torch.arange(N) % 2
    model(x, graph())
    skips.remove()
    assert torch.equal(model(x, graph()), want)
    assert drop_layers(model, 2) == [0, 3] and len(model.blocks) == 2
    model(x, graph())
    assert drop_layers(model, 1) == [0]
    with pytest.raises(ValueError, match=r"count must lie in \[0, 1\)"):
        drop_layers(model, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: NodeSelector(F_IN, 0.0), "0 would prune everything"),
        (lambda: EdgeSelector(F_IN, 1.2), r"ratio must lie in \(0, 1\]"),
        (lambda: HeadMasks(transformer(), 0.1), "leaves none of 4 heads"),
        (lambda: HeadMasks(GCN(3, 4, 2, 1), 0.5), "no heads that can be masked"),
        (lambda: LayerSkips(transformer(), 1.0), "would prune every layer"),
        (lambda: WeightMasks(transformer(), 0.0), "would prune everything"),
        (lambda: WeightMasks(nn.Identity(), 0.5), "no linear maps"),
        (lambda: Sparsified(GCN(3, 4, 2, 1), 3, edges=0.5), "takes no edge bias"),
        (lambda: drop_layers(nn.Linear(2, 2), 1), "no list of residual blocks"),
    ],
)
def test_refusals(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
