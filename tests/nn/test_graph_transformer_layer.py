"""GraphTransformerLayer against a dense masked formula in float64."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphattn.graph import CSRGraph
from graphattn.nn import GraphTransformerLayer

N, D, HEADS = 11, 12, 2
IMPLS = ("reference", "auto")


@pytest.fixture(autouse=True)
def float64() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def graph() -> Tensor:
    """Unsorted simple graph with a hub (node 0), a self-loop and two rows without edges."""
    gen = torch.Generator().manual_seed(3)
    adj = torch.rand(N, N, generator=gen) < 0.3
    adj[0] = True
    adj[-2:] = False
    edges = adj.nonzero().t().flip(0)
    return edges[:, torch.randperm(edges.shape[1], generator=gen)]


def dense(layer: GraphTransformerLayer, x: Tensor, edges: Tensor, e: Tensor | None) -> Any:
    """The published formulas on N x N tensors: row i receives from column j."""
    source, target = edges
    width = D // HEADS
    mask = torch.zeros(N, N, 1).index_put((target, source), torch.ones(()))
    q, k, v = (lin(x).view(N, HEADS, width) for lin in projections(layer))
    u = q[:, None] * k[None] / width**0.5
    if e is not None:
        full = torch.zeros(N, N, e.shape[1]).index_put((target, source), e)
        u = u * layer.lin_edge(full).view(N, N, HEADS, width)
    w = u.sum(-1).clamp(-5, 5).exp() * mask
    total = w.sum(1) + (0.0 if e is None else 1e-6)
    o = torch.einsum("ijh,jhc->ihc", w, v) / torch.where(total == 0, 1.0, total)[..., None]
    x = update(layer.node_update, x, o.reshape(N, D))
    if e is None:
        return (x,)
    return x, update(layer.edge_update, e, u[target, source].flatten(1))


def projections(layer: GraphTransformerLayer) -> tuple[nn.Linear, ...]:
    return layer.lin_query, layer.lin_key, layer.lin_value


def update(part: nn.Module, x: Tensor, message: Tensor) -> Tensor:
    """Output projection, norms (LayerNorm first), feed-forward, norms again."""
    keep = 1.0 if part.residual else 0.0
    w1, _, _, w2 = part.feed_forward
    h = keep * x + message @ part.lin_out.weight.t() + part.lin_out.bias
    h = normalise(part.norm1, h)
    f = (h @ w1.weight.t() + w1.bias).relu() @ w2.weight.t() + w2.bias
    return normalise(part.norm2, keep * h + f)


def normalise(norms: nn.Sequential, h: Tensor) -> Tensor:
    for one in norms:
        batch = isinstance(one, nn.BatchNorm1d)
        if batch and not one.training:
            mean, var = one.running_mean, one.running_var
        else:
            mean = h.mean(0 if batch else 1, keepdim=True)
            var = ((h - mean) ** 2).mean(0 if batch else 1, keepdim=True)
        h = (h - mean) / (var + one.eps).sqrt() * one.weight + one.bias
    return h


def outputs_and_gradients(run: Any, layer: nn.Module, inputs: list[Tensor]) -> list[Tensor]:
    inputs = [x.clone().requires_grad_() for x in inputs]
    outs = run(*inputs)
    weighted = sum((o * torch.linspace(-1, 1, o.numel()).view_as(o)).sum() for o in outs)
    grads = torch.autograd.grad(weighted, [*inputs, *layer.parameters()])
    return [*outs, *grads]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("edge_dim", [None, D, 5])
@pytest.mark.parametrize(
    "layer_norm, batch_norm, residual, training",
    [c for c in product([True, False], repeat=4) if c[1] or c[3]],
)
def test_equals_dense_formula(
    layer_norm: bool,
    batch_norm: bool,
    residual: bool,
    training: bool,
    edge_dim: int | None,
    impl: str,
) -> None:
    layer = GraphTransformerLayer(
        D,
        HEADS,
        edge_dim=edge_dim,
        layer_norm=layer_norm,
        batch_norm=batch_norm,
        residual=residual,
        impl=impl,
    ).train(training)
    with torch.no_grad():
        layer.lin_query.weight.mul_(12)  # so that many logits reach the clamp
    edges = graph()
    inputs = [torch.randn(N, D)]
    if edge_dim is not None:
        inputs.append(torch.randn(edges.shape[1], edge_dim))

    def ours(x: Tensor, e: Tensor | None = None) -> tuple[Tensor, ...]:
        out = layer(x, edges, e)
        return out if isinstance(out, tuple) else (out,)

    expected = outputs_and_gradients(lambda x, e=None: dense(layer, x, edges, e), layer, inputs)
    found = outputs_and_gradients(ours, layer, inputs)
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)


def test_some_logits_are_clamped_in_the_test_above() -> None:
    layer = GraphTransformerLayer(D, HEADS)
    x = torch.randn(N, D)
    q, k = (lin(x).view(N, HEADS, -1) for lin in (layer.lin_query, layer.lin_key))
    logit = 12 * torch.einsum("ihc,jhc->ijh", q, k) / 6**0.5
    assert 0.02 < (logit.abs() > 5).double().mean() < 0.9


@pytest.mark.parametrize("edge_dim, impl", [(None, "reference"), (None, "auto"), (5, "reference")])
def test_clamped_edges_have_gradient_zero(edge_dim: int | None, impl: str) -> None:
    layer = GraphTransformerLayer(D, HEADS, edge_dim=edge_dim, update_edges=False, impl=impl)
    with torch.no_grad():
        layer.lin_query.weight.mul_(1e9)
    edges = graph()
    attr = () if edge_dim is None else (torch.randn(edges.shape[1], edge_dim),)
    out = layer(torch.randn(N, D), edges, *attr)
    out = out if isinstance(out, Tensor) else out[0]
    out.square().sum().backward()
    clamped = [layer.lin_query, layer.lin_key, *([layer.lin_edge] if edge_dim else [])]
    assert all(torch.count_nonzero(lin.weight.grad) == 0 for lin in clamped)
    assert torch.count_nonzero(layer.lin_value.weight.grad) > 0


def test_row_without_neighbours_attends_to_nothing() -> None:
    layer = GraphTransformerLayer(D, HEADS, batch_norm=False, residual=False, impl="reference")
    out = layer(torch.randn(N, D), graph())
    expected = layer.node_update.feed_forward(layer.node_update.lin_out.bias)
    torch.testing.assert_close(out[-2:], expected.expand(2, -1))
    assert torch.isfinite(out).all()


def test_epsilon_is_in_the_edge_variant_only() -> None:
    """One neighbour: the weight is 1 without epsilon and e^s / (e^s + 1e-6) with it."""
    edges = torch.tensor([[1], [0]])
    x = torch.randn(2, D)
    for edge_dim in (None, D):
        layer = GraphTransformerLayer(
            D, 1, edge_dim=edge_dim, batch_norm=False, residual=False, impl="reference"
        )
        with torch.no_grad():
            layer.lin_query.weight.mul_(1e4)
        attr = () if edge_dim is None else (torch.randn(1, D),)
        message: list[Tensor] = []
        layer.node_update.register_forward_pre_hook(lambda _, a, m=message: m.append(a[1]))
        layer(x, edges, *attr)
        ratio = (message[0][0] / layer.lin_value(x)[1]).flatten()
        s = torch.tensor(float("inf"))
        if edge_dim is not None:
            u = layer.lin_query(x)[0] * layer.lin_key(x)[1] * layer.lin_edge(attr[0])[0] / D**0.5
            s = u.sum().clamp(-5, 5)
        weight = 1 / (1 + 1e-6 * (-s).exp())
        torch.testing.assert_close(ratio, weight.expand(D), rtol=1e-12, atol=0)


def test_edge_update_can_be_left_out() -> None:
    edges = graph()
    x, attr = torch.randn(N, D), torch.randn(edges.shape[1], D)
    layer = GraphTransformerLayer(D, HEADS, edge_dim=D, impl="reference").eval()
    out, new_attr = layer(x, edges, attr)
    again, same_attr = layer(x, edges, attr, need_edges=False)
    torch.testing.assert_close(out, again)
    assert same_attr is attr and not torch.equal(new_attr, attr)
    without = GraphTransformerLayer(D, HEADS, edge_dim=D, update_edges=False, impl="reference")
    assert without.edge_update is None
    without.load_state_dict(layer.state_dict(), strict=False)
    torch.testing.assert_close(without.eval()(x, edges, attr)[0], out)


def test_dropout_sits_before_the_output_projection_and_in_the_feed_forward() -> None:
    layer = GraphTransformerLayer(D, HEADS, dropout=0.5, batch_norm=False, impl="reference")
    x, edges = torch.randn(N, D), graph()
    torch.manual_seed(1)
    first = layer(x, edges)
    torch.manual_seed(1)
    assert torch.equal(first, layer(x, edges))
    assert not torch.equal(first, layer(x, edges))
    rows = layer(x, edges)[-2:]  # no neighbours: only the feed-forward dropout can act
    assert not torch.equal(rows, layer(x, edges)[-2:])
    layer.eval()
    assert torch.equal(layer(x, edges), layer(x, edges))


def test_edge_order_is_the_callers() -> None:
    edges = graph()
    x, attr = torch.randn(N, D), torch.randn(edges.shape[1], D)
    layer = GraphTransformerLayer(D, HEADS, edge_dim=D, impl="reference").eval()
    perm = torch.randperm(edges.shape[1])
    out, new_attr = layer(x, edges, attr)
    again, permuted = layer(x, CSRGraph.from_edge_index(edges[:, perm], N), attr[perm])
    torch.testing.assert_close(out, again)
    torch.testing.assert_close(new_attr[perm], permuted)


def test_compiles_without_graph_breaks() -> None:
    edges = graph()
    layer = GraphTransformerLayer(D, HEADS, edge_dim=D).eval()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    args = torch.randn(N, D), CSRGraph.from_edge_index(edges, N), torch.randn(edges.shape[1], D)
    for mine, other in zip(compiled(*args), layer(*args), strict=True):
        torch.testing.assert_close(mine, other)


def test_reset_and_repr() -> None:
    layer = GraphTransformerLayer(D, HEADS, edge_dim=5, layer_norm=True)
    before = {name: p.clone() for name, p in layer.named_parameters() if "norm" not in name}
    with torch.no_grad():
        layer.node_update.norm1[0].weight.fill_(3)
    layer.reset_parameters()
    after = dict(layer.named_parameters())
    assert all(not torch.equal(p, after[name]) for name, p in before.items())
    assert torch.equal(layer.node_update.norm1[0].weight, torch.ones(D))
    assert repr(layer) == "GraphTransformerLayer(12, heads=2, edge_dim=5)"


def test_wrong_input() -> None:
    edges = graph()
    x = torch.randn(N, D)
    with pytest.raises(ValueError, match="12 channels and 5 heads"):
        GraphTransformerLayer(D, 5)
    with pytest.raises(ValueError, match="without edge features"):
        GraphTransformerLayer(D, 3)(x, edges, torch.randn(edges.shape[1], D))
    with pytest.raises(ValueError, match=r"edge_attr \[E, 4\] is needed"):
        GraphTransformerLayer(D, 3, edge_dim=4)(x, edges)
    with pytest.raises(ValueError, match=r"x must be node features \[N, F\], got \[2, "):
        GraphTransformerLayer(D, 3)(torch.stack([x, x]), edges)
    with pytest.raises(ValueError, match="heads must be at least 1, got 0"):
        GraphTransformerLayer(D, 0)


@pytest.mark.parametrize(
    "change, remedy",
    [
        (lambda e: e[:-1], "features of this graph's edges"),
        (lambda e: e[:, 0], r"unsqueeze\(1\)"),
        (lambda e: e[:, :3], "edge_dim=3"),
    ],
)
def test_wrong_edge_features(change: Callable[[Tensor], Tensor], remedy: str) -> None:
    edges = graph()
    count = edges.shape[1]
    layer = GraphTransformerLayer(D, 3, edge_dim=4)
    came = change(torch.randn(count, 4))
    expected = rf"edge_attr must have shape \[{count}, 4\] .*got \[{came.shape[0]}.*{remedy}"
    with pytest.raises(ValueError, match=expected):
        layer(torch.randn(N, D), edges, came)
