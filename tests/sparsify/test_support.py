"""Every model and dimension works as a whole, or is refused before anything is built."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphattn import CSRGraph
from graphattn.models import (
    GCN,
    MODELS,
    SINC,
    TANGNN,
    GraphTransformer,
    IsomorphicTransformer,
    LaplacianTransformer,
)
from graphattn.sparsify import LayerSkips, Sparsified, drop_layers
from graphattn.sparsify.support import DIMENSIONS

N, F_IN = 18, 5
BATCH = torch.arange(N) // 9
SUPPORTED = {
    "gt": {*DIMENSIONS},
    "gt-sep": {*DIMENSIONS},
    "gcn": {"nodes", "weights"},
    "sage": {"nodes", "weights"},
    "gat": {"nodes", "weights"},
    "large-gt": set(),
    "gin-attention": {*DIMENSIONS},
    "pna-attention": {*DIMENSIONS},
    "tangnn": {"nodes", "edges", "heads", "skip", "weights"},
    "sinc": {"nodes", "edges", "skip", "weights"},
}


def graph() -> CSRGraph:
    pairs = torch.randint(0, 9, (2, 60), generator=torch.Generator().manual_seed(2))
    return CSRGraph.from_edge_index(torch.cat([pairs, pairs + 9], 1), N).add_self_loops()


def build(name: str, pool: str | None = "mean") -> nn.Module:
    kind, fixed = MODELS[name]
    if name == "large-gt":
        return kind(F_IN, 4, 3, num_nodes=N, num_codes=4)
    impl = {} if name in ("gcn", "sage", "gat") else {"impl": "reference"}
    return kind(F_IN, 8, 3, 4, 4, pool=pool, **impl, **fixed).double()


def near(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("pool", ["mean", None])
@pytest.mark.parametrize("dimension", DIMENSIONS)
@pytest.mark.parametrize("name", MODELS)
def test_a_dimension_works_or_is_refused(name: str, dimension: str, pool: str | None) -> None:
    model, x = build(name, pool), torch.randn(N, F_IN, dtype=torch.float64)
    able = SUPPORTED[name] - ({"nodes"} if name == "tangnn" and pool is None else set())
    if dimension not in able:
        tail = "work on the model itself"
        if able:
            listed = ", ".join(d for d in DIMENSIONS if d in able)
            tail = re.escape(f"{type(model).__name__} supports {listed}") + "$"
        with pytest.raises(ValueError, match=tail):
            Sparsified(model, F_IN, **{dimension: 0.5})
        return
    options = {"head_options": {"every": 1}, "weight_options": {"end": 2, "every": 1}}
    pruned = Sparsified(model, F_IN, **{dimension: 0.5}, **options).double()
    for _ in range(2):
        pruned(x, graph(), batch=BATCH).square().sum().backward()
        pruned.step()
    if dimension in ("nodes", "edges"):
        selector = getattr(pruned, dimension)
        assert all(p.grad is not None for p in selector.parameters())
        assert any(bool(p.grad.any()) for p in selector.parameters())
    want = pruned.eval()(x, graph(), batch=BATCH)
    small, smaller, nodes = pruned.compact(x, graph(), BATCH)
    found = small(x[nodes], smaller, batch=BATCH[nodes])
    near(found, want if pool else want[nodes])
    if dimension == "nodes":
        assert smaller.num_rows == len(nodes) == len(found if pool is None else nodes) == 10
    small.train()(x[nodes], smaller, batch=BATCH[nodes]).sum().backward()
    assert torch.equal(pruned(x, graph(), batch=BATCH), want)


def test_heads_layers_and_weights_of_the_laplacian_transformer() -> None:
    model = LaplacianTransformer(F_IN, 8, 3, 3, 4, dropout=0.0, impl="reference")
    options = {"head_options": {"every": 1}, "weight_options": {"end": 2, "every": 1}}
    pruned = Sparsified(model, 1, heads=0.5, skip=0.5, weights=0.5, **options).double()
    x = torch.randint(0, F_IN, (N,))
    for _ in range(2):
        pruned(x, graph(), batch=BATCH).square().sum().backward()
        pruned.step()
    want = pruned.eval()(x, graph(), batch=BATCH)
    small, smaller, _ = pruned.compact(x, graph())
    near(small(x, smaller, batch=BATCH), want)


def test_compaction_of_nodes_runs_on_their_rows_alone() -> None:
    model = build("gt", pool=None)
    pruned, x = Sparsified(model, F_IN, nodes=0.5).double().eval(), torch.randn(N, F_IN).double()
    small, smaller, nodes = pruned.compact(x, graph(), BATCH)
    rows: list[int] = []
    for block in small.blocks:
        block.feed_forward.register_forward_hook(lambda m, i, o: rows.append(len(o)))
    small(x[nodes], smaller)
    assert rows == [10] * 4
    keep = pruned.nodes.keep(x, BATCH)[0]
    source, target = graph().edge_index()
    assert torch.equal(nodes, keep.nonzero()[:, 0])
    inner = keep[source] & keep[target]
    assert torch.equal(nodes[smaller.edge_index()], graph().edge_index()[:, inner])


@pytest.mark.parametrize("name", ["gt", "gin-attention", "pna-attention", "tangnn", "sinc", "lt"])
@pytest.mark.parametrize("per_graph", [False, True])
def test_a_skipped_layer_leaves_its_input(name: str, per_graph: bool) -> None:
    """Skipped everywhere, a model is that of no layers; kept, its steps count 1 / (1 - p)."""
    if name == "lt":
        model: nn.Module = LaplacianTransformer(
            F_IN, 8, 3, 3, 2, edge_types=4, dropout=0.0, impl="reference"
        ).double()
        types = {"edge_attr": torch.randint(0, 4, (graph().num_edges,))}
        x: Tensor = torch.randint(0, F_IN, (N,))
    else:
        kind, fixed = MODELS[name]
        options: dict[str, Any] = {"norm": "layer", "dropout": 0.0, "impl": "reference", **fixed}
        if name == "tangnn":
            options["fanouts"] = None
        if name == "sinc":
            options["inner_dropout"] = 0.0
        if name == "gin-attention":
            options["layer_options"] = {"mlp_dropout": 0.0}
        model, types = kind(F_IN, 8, 3, 3, 2, **options).double(), {}
        x = torch.randn(N, F_IN, dtype=torch.float64)
    model.train()
    whole = model(x, graph(), **types)
    skips = LayerSkips(model, 1.0 - 1e-12)
    skips.batch = BATCH if per_graph else None
    none = model(x, graph(), **types)
    skips.remove()
    skips = LayerSkips(model, 1e-12)
    skips.batch = BATCH if per_graph else None
    near(model(x, graph(), **types), whole)
    skips.remove()
    for blocks in _lists(model):
        del blocks[:]
    near(none, model(x, graph(), **types))


def _lists(model: nn.Module) -> list[nn.ModuleList]:
    found = [getattr(model, name, None) for name in ("blocks", "layers", "convs", "norms")]
    return [part for part in found if part is not None]


@pytest.mark.parametrize(
    "model", [TANGNN(F_IN, 8, 3, 4, fanouts=(1, 2, 3, 4)), SINC(F_IN, 8, 3, 4)]
)
def test_layers_of_steps_are_dropped_with_what_belongs_to_them(model: nn.Module) -> None:
    assert drop_layers(model, 2) == [0, 3]
    assert [len(part) for part in _lists(model)] == [2] * len(_lists(model))
    assert getattr(model, "fanouts", (1, 4)) == (1, 4)
    model(torch.randn(N, F_IN), graph())


class Steps(nn.Module):
    """A model of one's own, whose layers return the step."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4)])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LayerSkips(Steps(), 0.5), "x \\+ step or the step alone"),
        (lambda: LayerSkips(GCN(3, 4, 2, 1), 0.5), "expected GraphTransformer, Isomorphic"),
        (lambda: LayerSkips(SINC(3, 4, 2, 1, residual=False), 0.5), "residual=True"),
        (lambda: drop_layers(build("gt"), 1.5), "count must be a whole number of blocks .* 1.5"),
        (lambda: Sparsified(build("gt"), F_IN, weights=2.0), r"weights must lie in \(0, 1\]"),
        (lambda: Sparsified(build("gt"), F_IN, heads=2.0), r"heads must lie in \(0, 1\]"),
        (lambda: Sparsified(build("gt"), 7), "in_channels=5, got 7"),
        (lambda: Sparsified(build("sinc"), 7), "in_channels=5, got 7"),
        (lambda: Sparsified(nn.Linear(3, 3), 3), "takes no pe and no batch"),
        (lambda: Sparsified(LaplacianTransformer.zinc(), 3), "needs edge_attr"),
        (lambda: Sparsified(LaplacianTransformer.pattern(), 3, nodes=0.5), "integer types"),
    ],
)
def test_refusals(call: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"is_causal": True}, "leaves out edges itself"),
        ({"transform": "binary"}, "straight_through=True"),
    ],
)
def test_edges_without_gradient_are_refused(options: dict[str, Any], message: str) -> None:
    model = IsomorphicTransformer(F_IN, 8, 3, 1, 2, layer_options=options)
    with pytest.raises(ValueError, match=message):
        Sparsified(model, F_IN, edges=0.5)
    with pytest.raises(ValueError, match="takes no edge bias"):
        plain = GraphTransformer(F_IN, 8, 3, 1, 2, make_layer=lambda _: nn.Linear(8, 8))
        Sparsified(plain, F_IN, edges=0.5)
