"""SparseGINAdapter: the edges it finds, what it leaves alone, causality, and its refusals."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphattn.nn import SparseGINAdapter
from graphattn.nn.sparse_gin_adapter import depth_scales

T, D, H = 12, 8, 2
BOUND = 0.1 + math.log(0.6 / 0.4) / 10


class Causal(nn.Module):
    """A causal attention layer that returns its weights, as Hugging Face's do."""

    def __init__(self, weights: bool = True) -> None:
        super().__init__()
        self.lin, self.weights = nn.Linear(D, 3 * D), weights

    def forward(self, hidden_states: Tensor) -> Any:
        q, k, v = self.lin(hidden_states).view(*hidden_states.shape[:2], 3, H, -1).unbind(2)
        logit = 3 * torch.einsum("bihd,bjhd->bhij", q, k)
        future = torch.ones(T, T, dtype=torch.bool).triu(1)
        attention = logit.masked_fill(future, -torch.inf).softmax(-1)
        out = torch.einsum("bhij,bjhd->bihd", attention, v).flatten(2)
        return (out, attention) if self.weights else out


def test_edges_are_those_above_the_bound() -> None:
    attention = torch.rand(3, H, T, T) * 0.15
    adapter = SparseGINAdapter(None, D)
    graph, weight = adapter.edges(attention)
    total = attention.sum(1).clamp(max=1.0)
    wanted = {
        (b * T + j, b * T + i)
        for b in range(3)
        for i in range(T)
        for j in range(i + 1)
        if float(total[b, i, j]) > BOUND
    }
    source, target = graph.edge_index()
    assert set(zip(source.tolist(), target.tolist(), strict=True)) == wanted
    assert 3 * T < graph.num_edges < 3 * T * T
    picked = total[target // T, target % T, source % T]
    torch.testing.assert_close(weight, torch.sigmoid(10 * (picked - 0.1)))
    assert bool((weight > 0.6).all())
    for options, kept in (
        ({"self_only": True}, source == target),
        ({"remove_self": True}, source != target),
    ):
        found, _ = SparseGINAdapter(None, D, **options).edges(attention)
        assert found.num_edges == int(kept.sum())


@pytest.mark.parametrize("combine", ["sum", "mean", "max", "mlp"])
def test_equals_dense(combine: str) -> None:
    adapter = SparseGINAdapter(None, D, hidden=5, heads=H, combine=combine, scale=0.7, eps=0.3)
    adapter = adapter.double().eval()
    h = torch.randn(2, T, D, dtype=torch.float64, requires_grad=True)
    attention = torch.rand(2, H, T, T, dtype=torch.float64)
    strength = torch.sigmoid(10 * (adapter._combined(attention) - 0.1))
    dense = torch.where((strength > 0.6) & torch.ones(T, T).tril().bool(), strength, 0.0)
    x = adapter.lin_in(h)
    z = adapter.eps * x + dense @ x
    z = adapter.outer(adapter.lin2(adapter.inner(adapter.lin1(z))) + z)
    want = adapter.scale * adapter.norm(adapter.lin_out(z))
    found = adapter.graft(h, attention)
    torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-10)
    leaves = [h, *adapter.parameters()]
    grads = [torch.autograd.grad(o.sin().sum(), leaves) for o in (found, want)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_without_scale_the_layer_is_left_alone_and_frozen() -> None:
    layer, x = Causal(), torch.randn(2, T, D)
    adapter = SparseGINAdapter(layer, D)
    out, attention = adapter(hidden_states=x)
    assert torch.equal(out, layer(x)[0]) and torch.equal(attention, layer(x)[1])
    assert not any(p.requires_grad for p in layer.parameters())
    out.sum().backward()
    assert adapter.scale.grad is not None
    before = layer.lin.weight.clone()
    adapter.reset_parameters()
    assert torch.equal(layer.lin.weight, before)


def test_causality_both_ways() -> None:
    adapter = SparseGINAdapter(Causal(), D, scale=1.0).eval()
    x = torch.randn(1, T, D)
    changed = x.clone()
    changed[:, 1] += 1.0
    (before, attention), (after, _) = adapter(x), adapter(changed)
    assert torch.equal(before[:, :1], after[:, :1])
    graph, _ = adapter.edges(attention)
    source, target = graph.edge_index()
    later = target[(source == 1) & (target > 1)]
    assert len(later) > 0 and (before[0, later] != after[0, later]).any(-1).all()
    alone = SparseGINAdapter(None, D, self_only=True).edges(attention)[0].edge_index()
    assert torch.equal(alone[0], alone[1])  # the published direction: nothing but itself


def test_wraps_torch_attention_and_refuses_what_returns_no_weights() -> None:
    layer = nn.MultiheadAttention(D, H, batch_first=True)
    x = torch.randn(2, T, D)
    out, weights = SparseGINAdapter(layer, D, scale=0.5, is_causal=False)(x, x, x)
    assert out.shape == x.shape and weights.shape == (2, H, T, T)
    with pytest.raises(ValueError, match=r"Causal must return .*got \(\[2, 12, 8\]\); ask for"):
        SparseGINAdapter(Causal(weights=False), D)(x)
    with pytest.raises(ValueError, match="wraps no layer"):
        SparseGINAdapter(None, D)(x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": -0.1}, r"threshold must lie in \[0, 1\]"),
        ({"cut": 0.2}, r"cut must lie in \[0.5, 1\)"),
        ({"steepness": 0.0}, "steepness must be positive"),
        ({"combine": "median"}, "combine must be one of"),
        ({"self_only": True, "remove_self": True}, "leave no edge"),
        ({"dropout": 2.0}, r"dropout must lie in \[0, 1\)"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SparseGINAdapter(None, D, **options)


def test_what_does_not_fit_together_is_said() -> None:
    with pytest.raises(ValueError, match=r"expected nn.MultiheadAttention\(batch_first=True\)"):
        SparseGINAdapter(nn.MultiheadAttention(D, H), D)
    attention = torch.rand(2, H, T, T)
    with pytest.raises(ValueError, match="attention of 1 heads, got 2; make the adapter with head"):
        SparseGINAdapter(None, D, combine="mlp").graft(torch.randn(2, T, D), attention)
    adapter = SparseGINAdapter(None, D)
    with pytest.raises(ValueError, match=r"of the same B and T, got \[2, 11, 8\] and \[2, 2, 12"):
        adapter.graft(torch.randn(2, T - 1, D), attention)
    with pytest.raises(ValueError, match="x must have 8 features"):
        adapter.graft(torch.randn(2, T, D + 1), attention)


def test_a_mixing_mlp_finds_no_edge_where_nobody_attends() -> None:
    torch.manual_seed(0)
    adapter = SparseGINAdapter(None, D, heads=H, combine="mlp", is_causal=False)
    nn.init.constant_(adapter.mix[2].bias, 5.0)  # every pair would be strong
    graph, _ = adapter.edges(torch.eye(5).expand(1, H, 5, 5))
    source, target = graph.edge_index()
    assert torch.equal(source, target) and graph.num_edges == 5


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_inside_torchs_encoder_no_fused_code_passes_it_by(norm_first: bool, training: bool) -> None:
    block = nn.TransformerEncoderLayer(
        D, H, 16, dropout=0.0, batch_first=True, norm_first=norm_first
    )
    encoder = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
    x = torch.randn(2, T, D)
    with torch.no_grad():
        before = encoder.train(training)(x)
        for layer in encoder.layers:
            layer.self_attn = SparseGINAdapter(
                layer.self_attn, D, is_causal=False, scale=0.0, dropout=0.0
            ).train(training)
        torch.testing.assert_close(encoder(x), before)
        for layer in encoder.layers:
            layer.self_attn.scale.fill_(0.5)
        assert (encoder(x) - before).abs().max() > 0.1


def test_scales_grow_with_depth() -> None:
    assert depth_scales(3) == [0.0, 0.25, 0.5] and depth_scales(1) == [0.0]


def test_trains_around_torch_attention_alone() -> None:
    """A causal language model's step with ``nn.MultiheadAttention``: only the adapter moves."""
    torch.manual_seed(3)
    attention = nn.MultiheadAttention(D, H, batch_first=True)
    before = [p.clone() for p in attention.parameters()]
    adapter = SparseGINAdapter(attention, D, hidden=16, scale=0.5, dropout=0.0)
    x, future = torch.randn(4, T, D), torch.ones(T, T, dtype=torch.bool).triu(1)
    # What came before, weighed by who attended to it: no map of the position alone has it.
    target = x.cumsum(1) / torch.arange(1, T + 1)[:, None]
    optimiser = torch.optim.Adam([p for p in adapter.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        out = adapter(x, x, x, attn_mask=future)[0]
        loss = (out - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(a, b) for a, b in zip(before, attention.parameters(), strict=True))


def hugging_face(kind: str, implementation: str = "eager") -> tuple[Any, list[Any], str]:
    """A small causal model with random weights, its blocks, and where these keep attention."""
    transformers = pytest.importorskip("transformers")
    if kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=40, n_positions=32, n_embd=32, n_layer=2, n_head=4
        )
        model = transformers.GPT2LMHeadModel._from_config(
            config, attn_implementation=implementation
        )
        return model, list(model.transformer.h), "attn"
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM._from_config(config, attn_implementation=implementation)
    return model, list(model.model.layers), "self_attn"


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_around_a_hugging_face_transformer(kind: str) -> None:
    torch.manual_seed(0)
    model, blocks, name = hugging_face(kind)
    model.eval().requires_grad_(False)
    tokens = torch.randint(0, 40, (3, 16))
    with torch.no_grad():
        want = model(input_ids=tokens, use_cache=False).logits
    adapters = [SparseGINAdapter(getattr(block, name), 32, hidden=24) for block in blocks]
    for block, adapter in zip(blocks, adapters, strict=True):
        setattr(block, name, adapter.eval())
    with torch.no_grad():
        assert torch.equal(model(input_ids=tokens, use_cache=False).logits, want)
    for adapter in adapters:
        nn.init.constant_(adapter.scale, 0.5)
    loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
    loss.backward()
    moved = {n for n, p in model.named_parameters() if p.grad is not None}
    assert moved and all(f".{name}." in n and f".{name}.layer." not in n for n in moved)
    changed = tokens.clone()
    changed[:, 9] = (changed[:, 9] + 1) % 40
    with torch.no_grad():
        first, second = (model(input_ids=t, use_cache=False).logits for t in (tokens, changed))
    torch.testing.assert_close(first[:, :9], second[:, :9], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(first[:, 9], second[:, 9], atol=1e-3)


def test_hugging_face_attention_without_weights_is_refused() -> None:
    model, blocks, name = hugging_face("gpt2", "sdpa")
    for block in blocks:
        setattr(block, name, SparseGINAdapter(getattr(block, name), 32))
    with pytest.raises(ValueError, match="attn_implementation='eager'"):
        model(input_ids=torch.zeros(1, 8, dtype=torch.int64), use_cache=False)
