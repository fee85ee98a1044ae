"""GT and GT-sep against the published formulas; the public contract of the models."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from graphattn.graph import CSRGraph
from graphattn.models import MODELS, GraphTransformer

N, F_IN, D, OUT, HEADS = 11, 7, 10, 3, 2
VARIANTS = ("gt", "gt-sep")

# large-gt reads batches of tokens instead; see test_large_gt.py
ON_A_GRAPH = [name for name, (kind, _) in MODELS.items() if not hasattr(kind, "batched")]


def graph(n: int = N) -> CSRGraph:
    """A path in both directions, a hub and two isolated nodes at the end."""
    nodes = torch.arange(n - 3)
    edges = torch.cat([torch.stack([nodes, nodes + 1]), torch.stack([nodes + 1, nodes])], dim=1)
    hub = torch.stack([nodes, torch.full_like(nodes, 3)])
    return CSRGraph.from_edge_index(torch.cat([edges, hub], dim=1), n)


def published(model: GraphTransformer, x: Tensor, edge_index: Tensor, pe: Tensor | None) -> Tensor:
    """The network of the heterophilous benchmark (eval mode), edge by edge."""
    source, target = edge_index
    h = F.gelu(model.input[0](x))
    if pe is not None:
        h = h + model.lin_pe(pe)
    for block in model.blocks:
        z = block.norm1(h)
        q, k, v = (
            lin(z).view(N, HEADS, -1) for lin in (block.lin_query, block.lin_key, block.lin_value)
        )
        s = ((q[target] * k[source]).sum(-1) / math.sqrt(D // HEADS)).exp()
        total = torch.zeros(N, HEADS).index_add(0, target, s)
        message = torch.zeros(N, HEADS, D // HEADS).index_add(0, target, s[..., None] * v[source])
        message = (message / total.clamp(min=1e-30)[..., None]).reshape(N, D)
        if model.variant == "gt-sep":
            message = torch.cat([z, message], dim=1)
        h = h + block.lin_out(message)
        first, _, _, second, _ = block.feed_forward
        h = h + second(F.gelu(first(block.norm2(h))))
    return model.lin_out(model.norm(h))


@pytest.mark.parametrize("impl", ["reference", "auto"])
@pytest.mark.parametrize("norm", ["layer", "batch", "none"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_published_network(variant: str, norm: str, impl: str) -> None:
    model = GraphTransformer(
        F_IN, D, OUT, 2, HEADS, variant=variant, norm=norm, pe_dim=2, impl=impl
    ).eval()
    csr = graph()
    if model.self_loops:
        csr = csr.add_self_loops()
    x, pe = torch.randn(N, F_IN), torch.randn(N, 2)
    expected = published(model, x, csr.edge_index(), pe)
    params = list(model.parameters())
    weight = torch.randn(N, OUT)
    grads = torch.autograd.grad((expected * weight).sum(), params)
    out = model(x, csr, pe)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    for mine, other in zip(torch.autograd.grad((out * weight).sum(), params), grads, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def test_parameter_counts_of_the_published_size() -> None:
    """Width 512: 9 or 10 blocks of 512 x 512 weights and their biases per layer, and the norms."""
    for variant, wide in (("gt", 6), ("gt-sep", 7)):
        model = GraphTransformer(7, 512, 1, 3, variant=variant)
        layer = wide * 512 * 512 + 6 * 512 + 4 * 512
        count = 7 * 512 + 512 + 3 * layer + 2 * 512 + 512 + 1
        assert sum(p.numel() for p in model.parameters()) == count


def test_self_loops_are_per_variant() -> None:
    assert GraphTransformer(3, 8, 1, 1, 2, variant="gt").self_loops is True
    assert GraphTransformer(3, 8, 1, 1, 2, variant="gt-sep").self_loops is False


@pytest.mark.parametrize("name", ON_A_GRAPH)
def test_every_model_has_one_shape(name: str) -> None:
    cls, fixed = MODELS[name]
    options = {"norm": "batch", "dropout": 0.1, "residual": True, "pe_dim": 2}
    model = cls(F_IN, D, OUT, 2, heads=2, **options, **fixed)
    assert isinstance(model.self_loops, bool)
    x, pe = torch.randn(N, F_IN), torch.randn(N, 2)
    out = model(x, graph(), pe=pe)
    assert out.shape == (N, OUT)
    out.square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())
    with pytest.raises(ValueError, match=r"pe_dim=2 and needs pe of shape \[N, 2\], got none"):
        model(x, graph())
    with pytest.raises(ValueError, match=r"got shape \[11, 3\]"):
        model(x, graph(), pe=torch.randn(N, 3))
    pooled = cls(F_IN, D, OUT, 2, heads=2, pool="mean", norm="layer", **fixed)
    batch = torch.tensor([0] * 4 + [1] * (N - 4))
    assert pooled(x, graph(), batch=batch).shape == (2, OUT)
    with pytest.raises(ValueError, match="pool must be 'mean' or None, got 'max'"):
        cls(F_IN, D, OUT, 2, heads=2, pool="max", **fixed)


@pytest.mark.parametrize("name", ON_A_GRAPH)
def test_reset_follows_the_seed_and_forgets_training(name: str) -> None:
    cls, fixed = MODELS[name]
    model = cls(F_IN, D, OUT, 2, heads=2, norm="batch", **fixed)
    model(torch.randn(N, F_IN), graph())
    torch.manual_seed(4)
    model.reset_parameters()
    first = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    model(torch.randn(N, F_IN), graph())
    torch.manual_seed(4)
    model.reset_parameters()
    for key, value in model.state_dict().items():
        assert torch.equal(value, first[key]), key


@pytest.mark.parametrize("name", ON_A_GRAPH)
def test_learns_a_label_that_needs_the_graph(name: str) -> None:
    """Label = sign of a neighbour's feature: 60 steps must fit a small cycle."""
    cls, fixed = MODELS[name]
    n = 40
    nodes = torch.arange(n)
    csr = CSRGraph.from_edge_index(torch.stack([nodes, (nodes + 1) % n]), n)
    x = torch.randn(n, 2)
    label = (x.roll(1, 0)[:, 0] > 0).float()
    options = {"norm": "layer", "dropout": 0.0}
    model = cls(2, D, 1, 2, heads=2, **options, **fixed)
    csr = csr.add_self_loops() if model.self_loops else csr
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-2)
    for _ in range(60):
        loss = F.binary_cross_entropy_with_logits(model(x, csr).squeeze(1), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.3


@pytest.mark.parametrize("variant", VARIANTS)
def test_compiles_without_graph_breaks(variant: str) -> None:
    model = GraphTransformer(F_IN, D, OUT, 2, HEADS, variant=variant).eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(N, F_IN)
    torch.testing.assert_close(compiled(x, graph()), model(x, graph()))


def test_wrong_input() -> None:
    with pytest.raises(ValueError, match="variant must be one of gt, gt-sep, got 'gtx'"):
        GraphTransformer(3, 8, 1, 1, 2, variant="gtx")
    with pytest.raises(ValueError, match="8 channels and 3 heads"):
        GraphTransformer(3, 8, 1, 1, 3)
    with pytest.raises(ValueError, match="needs no pe"):
        GraphTransformer(3, 8, 1, 1, 2)(torch.randn(N, 3), graph(), torch.randn(N, 2))
