"""GINAttention, PNAAttention and the transforms of their weights, against dense matrices."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import graphattn as ga
from graphattn import CSRGraph
from graphattn.nn import TRANSFORMS, AdjacencyTransform, GINAttention, PNAAttention
from graphattn.nn.sequences import sequence_graph

N, D, H = 9, 8, 2
THETA = 0.25  # exact in float32, as which modules keep it


def support(seed: int = 0) -> CSRGraph:
    """Random, without duplicates; row 3 has no neighbour, row 5 one."""
    mask = torch.rand(N, N, generator=torch.Generator().manual_seed(seed)) < 0.5
    mask[3], mask[5] = False, False
    mask[5, 2] = True
    target, source = mask.nonzero().t()
    order = torch.randperm(target.numel(), generator=torch.Generator().manual_seed(seed))
    return CSRGraph.from_edge_index(torch.stack([source, target])[:, order], N)


def dense_mask(graph: CSRGraph) -> Tensor:
    source, target = graph.edge_index()
    mask = torch.zeros(N, N, dtype=torch.bool)
    mask[target, source] = True
    return mask


def dense_transform(kind: str, a: Tensor, mask: Tensor, theta: float) -> Tensor:
    """f_theta of dense weights [H, N, N], written row by row for the choices."""
    z = a - theta
    smooth = {
        "none": lambda: a,
        "relu": lambda: z.relu(),
        "silu": lambda: z * z.sigmoid(),
        "softplus": lambda: (1 + z.exp()).log(),
        "sharp-softplus": lambda: (1 + (10 * z).exp()).log() / 10,
        "sigmoid": lambda: (10 * z).sigmoid(),
        "flow": lambda: (5 * a).sigmoid() * (50 * z).sigmoid(),
        "binary": lambda: (z > 0).to(a.dtype),
        "silu+binary": lambda: z * z.sigmoid() + (z > 0),
        "relu-below": lambda: torch.where(z > 0, torch.ones_like(z), z.relu()),
        "silu-below": lambda: torch.where(z > 0, torch.ones_like(z), z * z.sigmoid()),
        "sigmoid-below": lambda: torch.where(z > 0, torch.ones_like(z), (10 * z).sigmoid()),
    }
    if kind in smooth:
        return smooth[kind]() * mask
    out = torch.zeros_like(a)
    for h in range(H):
        for i in range(N):
            row = mask[i].clone()
            count = max(int(0.5 * int(row.sum())), 1)
            if kind == "causal-top-k":
                row[i:] = False
                count = -(-int(row.sum()) // 2)
                row &= z[h, i] > 0
            for j in sorted(
                row.nonzero()[:, 0].tolist(), key=lambda j: -float(a.detach()[h, i, j])
            )[:count]:
                out[h, i, j] = 1.0
    return out


def dense_weights(layer: Any, x: Tensor, mask: Tensor) -> Tensor:
    """The adjacency [H, N, N] of a layer on a dense mask."""
    found = []
    for lin_query, lin_key in zip(layer.weights.lin_query, layer.weights.lin_key, strict=True):
        q, k = (lin(x).view(N, H, D // H).transpose(0, 1) for lin in (lin_query, lin_key))
        logit = layer.weights.sharpness * q @ k.mT / (D // H) ** 0.5
        if layer.weights.normaliser == "relu":
            return dense_transform(layer.weights.transform.kind, logit.relu() * mask, mask, THETA)
        found.append(logit.masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num())
    a = found[0] if len(found) == 1 else found[0] - layer.weights.mix * found[1]
    return dense_transform(layer.weights.transform.kind, a, mask, THETA)


def dense_gin(layer: GINAttention, x: Tensor, mask: Tensor) -> Tensor:
    value = x.view(N, H, D // H)
    total = torch.einsum("hij,jhd->ihd", dense_weights(layer, x, mask), value)
    if layer.head_norm:
        eps = torch.finfo(total.dtype).eps
        total = total / (total.square().mean(-1, keepdim=True) + eps).sqrt()
        total = total * (1.0 - (0.8 - 0.6 * math.exp(-0.3 * 2)))
    return layer.lin_out(layer.mlp(layer.eps[:, None] * value + total).flatten(1))


def dense_pna(layer: PNAAttention, x: Tensor, mask: Tensor) -> Tensor:
    a = dense_weights(layer, x, mask)
    value = layer.lin_value(x).view(N, H, D // H)
    degree = a.sum(-1).t()[..., None]
    degree = torch.where(degree == 0, 1.0, degree)
    total = torch.einsum("hij,jhd->ihd", a, value)
    mean = total / degree
    square = torch.einsum("hij,ijhd->ihd", a, (value[None] - mean[:, None]) ** 2) / degree
    rows = value.transpose(0, 1)[:, None].expand(H, N, N, D // H)
    best = rows.masked_fill(~(a > 0)[..., None], -torch.inf).amax(2).transpose(0, 1)
    best = torch.where(best == -torch.inf, 0.0, best)
    parts = [total, mean, best, square.clamp(min=0)]
    if layer.variant == "pna-lm":
        allowed, norm = a > THETA, value.detach().norm(dim=-1).t()[:, None].expand(H, N, N)
        picked = []
        for sign in (1, -1):
            j = (sign * norm).masked_fill(~allowed, -torch.inf).argmax(-1)
            found = torch.stack([value[j[h], h] for h in range(H)], 1)
            picked.append(torch.where(allowed.any(-1).t()[..., None], found, value))
        parts = [mean, picked[0], square.clamp(min=0), picked[1]]
    found = torch.cat(parts, -1)
    if len(layer.scalers) > 1:
        log = (mask.sum(1) + 1).to(x.dtype).log()[:, None, None]
        inverse = torch.where(log > 0, layer.delta / torch.where(log > 0, log, 1), 0)
        found = torch.cat([found, found * log / layer.delta, found * inverse], -1)
    return layer.lin_out(layer.mlp(found).flatten(1))


def assert_equals_dense(layer: Any, dense: Any, graph: CSRGraph) -> None:
    layer = layer.double().eval()
    x = torch.randn(N, D, dtype=torch.float64, requires_grad=True)
    found, want = layer(x, graph), dense(layer, x, dense_mask(graph))
    torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-10)
    leaves = [x, *layer.parameters()]
    pull = torch.randn_like(want)
    grads = [torch.autograd.grad(o, leaves, pull, allow_unused=True) for o in (found, want)]
    for one, other in zip(*grads, strict=True):
        one, other = (torch.zeros(()).double() if g is None else g for g in (one, other))
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)
        assert not one.isnan().any()


@pytest.mark.parametrize("kind", TRANSFORMS)
def test_gin_equals_dense(kind: str) -> None:
    transform = AdjacencyTransform(kind, threshold=THETA, share=0.5)
    assert_equals_dense(GINAttention(D, H, transform=transform, eps=0.3), dense_gin, support())


def test_gin_with_normalised_heads_equals_dense() -> None:
    layer = GINAttention(D, H, differential=True, layer=3, head_norm=True)
    assert_equals_dense(layer, dense_gin, support())
    with pytest.raises(ValueError, match="set differential=True"):
        GINAttention(D, H, head_norm=True)


@pytest.mark.parametrize(
    "options",
    [
        *({"transform": kind} for kind in TRANSFORMS),
        {"transform": "relu", "variant": "pna-lm"},
        {"transform": "relu", "normaliser": "relu", "scalers": ga.nn.pna_attention.SCALERS},
        {"transform": "silu", "differential": True},
    ],
    ids=str,
)
def test_pna_equals_dense(options: dict[str, Any]) -> None:
    options = dict(options)
    transform = AdjacencyTransform(options.pop("transform"), threshold=THETA, share=0.5)
    layer = PNAAttention(D, H, transform=transform, **options)
    assert_equals_dense(layer, dense_pna, support())


@pytest.mark.parametrize("options", [{"transform": "relu"}, {"dropout": 0.3}], ids=str)
def test_pna_in_float16_is_that_of_float32(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer, x, graph = PNAAttention(D, H, **options), torch.randn(N, D), support()
    assert torch.isfinite(layer.half()(x.half(), graph)).all()
    found = layer.eval()(x.half(), graph)
    torch.testing.assert_close(found.float(), layer.float()(x, graph), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("lead", [(), (3,)], ids=str)
@pytest.mark.parametrize("transform", ["none", "relu"])
@pytest.mark.parametrize("variant", ["pna", "pna-lm"])
def test_pna_without_edges(variant: str, transform: str, lead: tuple[int, ...]) -> None:
    layer = PNAAttention(D, H, variant=variant, transform=transform)
    x = torch.randn(*lead, N, D, requires_grad=True)
    out = layer(x, torch.empty(2, 0, dtype=torch.int64))
    out.sum().backward()
    assert out.shape == x.shape and x.grad is not None and torch.isfinite(x.grad).all()


def test_gin_without_mlp_is_attention_with_raw_values() -> None:
    layer = GINAttention(D, H, mlp_ratio=0).double()
    x, graph = torch.randn(N, D, dtype=torch.float64), support()
    ((query, key),) = layer.weights.projections(x)
    want = ga.attention(query, key, x.view(N, H, D // H), graph).flatten(1)
    torch.testing.assert_close(layer(x, graph), want, rtol=1e-12, atol=1e-12)
    step = AdjacencyTransform("binary", threshold=0.0)
    layer = GINAttention(D, H, mlp_ratio=0, transform=step).double()
    torch.testing.assert_close(layer(x, graph), ga.aggregate(x, graph))


@pytest.mark.parametrize("kind", [GINAttention, PNAAttention])
def test_causality_both_ways(kind: Any) -> None:
    layer = kind(D, H, is_causal=True, transform="sigmoid", rotary=True).double().eval()
    x = torch.randn(2, N, D, dtype=torch.float64)
    changed = x.clone()
    changed[:, 4] += 1.0
    with torch.no_grad():
        before, after = layer(x), layer(changed)
        whole = layer(x, sequence_graph(N, causal=False))
    assert torch.equal(before[:, :4], after[:, :4])
    assert (before[:, 5:] != after[:, 5:]).any(-1).all()
    torch.testing.assert_close(before, whole)


def test_permutation_equivariance() -> None:
    graph, x = support(), torch.randn(N, D, dtype=torch.float64)
    order = torch.randperm(N)
    moved = CSRGraph.from_edge_index(order.argsort()[graph.edge_index()], N)
    for layer in (GINAttention(D, H, transform="relu"), PNAAttention(D, H, transform="relu")):
        layer = layer.double().eval()
        torch.testing.assert_close(layer(x[order], moved), layer(x, graph)[order])


def test_hard_transforms_pass_a_gradient_only_when_asked() -> None:
    weight = torch.rand(support().num_edges, H, dtype=torch.float64, requires_grad=True)
    for kind in ("binary", "top-k", "causal-top-k"):
        assert not AdjacencyTransform(kind)(weight, support()).requires_grad
        through = AdjacencyTransform(kind, straight_through=True)(weight, support())
        torch.testing.assert_close(through, AdjacencyTransform(kind)(weight, support()))
        (grad,) = torch.autograd.grad(through.sum(), weight)
        assert torch.equal(grad, torch.ones_like(grad))
    learned = AdjacencyTransform("sigmoid", learn_threshold=True).double()
    (grad,) = torch.autograd.grad(learned(weight, support()).sum(), learned.threshold)
    assert grad < 0


@pytest.mark.parametrize("kind", [GINAttention, PNAAttention])
@pytest.mark.parametrize("options", [{"transform": "silu"}, {"differential": True}], ids=str)
def test_weights_are_not_kept_for_backward(kind: Any, options: dict[str, Any]) -> None:
    graph, kept = sequence_graph(64, causal=False), []
    layer, x = kind(D, H, **options), torch.randn(64, D, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        out = layer(x, graph)
    assert max(t.numel() for t in kept if t.is_floating_point()) < graph.num_edges
    out.sum().backward()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transform": "cubic"}, "transform must be one of none, relu"),
        ({"normaliser": "linear"}, "normaliser must be one of"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"heads": 3}, "multiple of heads"),
        ({"heads": 8, "rotary": True}, "even head width"),
        ({"differential": True, "normaliser": "relu"}, "subtracts softmaxes"),
        ({"mlp_ratio": -1.0}, "mlp_ratio must be at least 0"),
        ({"mlp_dropout": 2.0}, r"mlp_dropout must lie in \[0, 1\), got 2.0"),
        ({"dropout": -0.5}, r"dropout must lie in \[0, 1\), got -0.5"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GINAttention(D, **{"heads": H} | options)


@pytest.mark.parametrize("kind", [GINAttention, PNAAttention])
@pytest.mark.parametrize("transform", ["none", "relu"])
def test_a_bias_of_edges_is_added_to_the_logits(kind: Any, transform: str) -> None:
    """Exact gradient; and where it is far below the others, the edge is not there."""
    made = AdjacencyTransform(transform, threshold=0.0)
    layer = kind(D, H, transform=made, impl="reference").double().eval()
    pairs = torch.cartesian_prod(torch.arange(4), torch.arange(4)).T
    graph, x = CSRGraph.from_edge_index(pairs, 4), torch.randn(4, D, dtype=torch.float64)
    bias = torch.randn(16, H, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda b: layer(x, graph, bias=b), bias, fast_mode=True)
    if kind is GINAttention or transform == "relu":  # softmax's maximum is over all edges
        left = torch.arange(16) % 3 > 0
        gone = torch.where(left, 0.0, -1e4).double()
        want = layer(x, graph.filter(left))
        torch.testing.assert_close(layer(x, graph, bias=gone), want, rtol=1e-9, atol=1e-10)
    causal = kind(D, H, is_causal=True)
    with pytest.raises(ValueError, match="build the layer without is_causal"):
        causal(x.float(), graph, bias=bias)


def test_transform_refusals() -> None:
    with pytest.raises(ValueError, match=r"threshold must lie in \[0, 1\]"):
        AdjacencyTransform("relu", threshold=1.5)
    with pytest.raises(ValueError, match="learn_threshold works with relu"):
        AdjacencyTransform("binary", learn_threshold=True)
    with pytest.raises(ValueError, match="a gradient of its own"):
        AdjacencyTransform("relu", straight_through=True)
    with pytest.raises(ValueError, match="beta must be positive, got 0.0"):
        AdjacencyTransform("sigmoid", beta=0.0)
    with pytest.raises(ValueError, match="variant must be one of"):
        PNAAttention(D, H, variant="x")
    with pytest.raises(ValueError, match=r"scalers must be a sequence of .*got \[\]"):
        PNAAttention(D, H, scalers=())
    with pytest.raises(ValueError, match="scalers must be a sequence of .*got 'identity'"):
        PNAAttention(D, H, scalers="identity")


@pytest.mark.parametrize("kind", [GINAttention, PNAAttention])
def test_features_that_do_not_fit(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"x must have 8 features per node.*got \[9, 7\]"):
        kind(D, H)(torch.randn(N, 7), support())
    with pytest.raises(TypeError, match=r"floating point, got torch.int64; pass x.float\(\)"):
        kind(D, H)(torch.ones(N, D, dtype=torch.int64), support())
