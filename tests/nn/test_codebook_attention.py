"""CodebookAttention against attention over all nodes, and its statistics against their formula."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import graphattn as ga
from graphattn.nn import CodebookAttention, TokenTransformer


def make(nodes: int, codes: int, **options: object) -> CodebookAttention:
    layer = CodebookAttention(
        6, 3, head_dim=5, heads=2, num_nodes=nodes, num_codes=codes, **options
    )
    return layer.double()


def full_attention(layer: CodebookAttention, u: Tensor) -> Tensor:
    split = (2, 5)
    q, k, v = (
        part.unflatten(1, split).transpose(0, 1)
        for part in (layer.lin_query(u), layer.lin_key(u), layer.lin_value(u[:, :6]))
    )
    weights = torch.softmax(q @ k.transpose(1, 2) / 5**0.5, -1)
    return (weights @ v).transpose(0, 1).flatten(1)


def test_every_node_its_own_centroid_is_full_attention() -> None:
    layer = make(30, 30).eval()
    u = torch.randn(30, 9, dtype=torch.float64)
    layer.codes_out.copy_(u)
    layer.assignment.copy_(torch.arange(30))
    layer._count_all()
    out = layer(u[:, :6], u[:, 6:], torch.arange(30))
    torch.testing.assert_close(out, full_attention(layer, u), rtol=1e-6, atol=1e-9)


def test_counts_stand_for_equal_nodes() -> None:
    """Ten nodes on each of three places: three codes with count 10 give full attention."""
    layer = make(30, 5).eval()
    places = torch.randn(3, 9, dtype=torch.float64)
    u = places.repeat(10, 1)
    layer.codes_out[:3] = places
    layer.assignment.copy_(torch.arange(30) % 3)
    layer._count_all()
    out = layer(u[:, :6], u[:, 6:], torch.arange(30))
    torch.testing.assert_close(out, full_attention(layer, u), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("legacy", [False, True])
def test_update_is_the_published_rule(legacy: bool) -> None:
    layer = make(40, 4, legacy_init=legacy, reseed=0.0)
    u = torch.randn(20, 9, dtype=torch.float64)
    if not legacy:
        layer.start(u)
    codes, counts, sums = (t.clone() for t in (layer.codes, layer.counts, layer.sums))
    norm = F.batch_norm(u, None, None, training=True)
    nearest = torch.cdist(norm, codes).argmin(1)
    hist = torch.bincount(nearest, minlength=4).double()
    counts = 0.99 * counts + 0.01 * hist
    smooth = (counts + 1e-5) / (counts.sum() + 4e-5) * counts.sum()
    total = torch.zeros_like(sums).index_add_(0, nearest, norm)
    sums = 0.99 * sums + 0.01 * total
    layer.update(u, torch.arange(20))
    torch.testing.assert_close(layer.codes, sums / smooth.unsqueeze(1))
    torch.testing.assert_close(layer.counts, smooth if legacy else counts)
    assert torch.equal(layer.assignment[:20].long(), nearest)
    out = layer.codes * (layer.var + 1e-5).sqrt() + layer.mean
    torch.testing.assert_close(layer.codes_out, out)


def test_sizes_follow_the_assignments() -> None:
    layer = make(50, 7).train()
    for _ in range(5):
        nodes = torch.randint(0, 50, (20,))
        layer(torch.randn(20, 6).double(), torch.randn(20, 3).double(), nodes)
        assert torch.equal(layer.sizes, torch.bincount(layer.assignment.long(), minlength=7))
    layer.assign(torch.randn(50, 6).double(), torch.randn(50, 3).double(), torch.arange(50))
    assert int(layer.sizes.sum()) == 50
    assert torch.equal(layer.sizes, torch.bincount(layer.assignment.long(), minlength=7))


def clusters(count: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    centres = 4 * torch.randn(47, width, generator=generator)
    return centres[torch.randint(0, 47, (count,), generator=generator)] + torch.randn(
        count, width, generator=generator
    )


def test_codes_live_and_the_published_start_collapses() -> None:
    u = clusters(4096, 9)
    used = {}
    for legacy in (False, True):
        layer = CodebookAttention(
            6, 3, head_dim=5, heads=1, num_nodes=4096, num_codes=256, legacy_init=legacy
        )
        layer.train()
        for nodes in torch.split(torch.randperm(4096), 256):
            layer(u[nodes, :6], u[nodes, 6:], nodes)
        layer.eval()
        layer.assign(u[:, :6], u[:, 6:], torch.arange(4096))
        used[legacy] = layer.used()
    assert used[False] > 0.9 * 256
    assert used[True] < 0.1 * 256


def test_dead_codes_are_seeded_again() -> None:
    layer = make(100, 8)
    u = torch.randn(100, 9, dtype=torch.float64)
    layer.start(u)
    layer.counts[3], layer.codes[3] = 1e-3, 1e3
    layer.sums[3] = 1.0
    layer.update(u, torch.arange(100))
    assert layer.codes[3].abs().max() < 10 and layer.counts[3] > 0.1


def test_gradients_reach_weights_and_input_only() -> None:
    layer = make(30, 10).train()
    x = torch.randn(30, 6, dtype=torch.float64, requires_grad=True)
    pos = torch.randn(30, 3, dtype=torch.float64)
    layer(x, pos, torch.arange(30)).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    assert all(p.grad is not None for p in layer.parameters())


def test_wrong_input() -> None:
    layer = make(30, 10)
    with pytest.raises(ValueError, match="9 wide together"):
        layer(torch.randn(4, 6).double(), None, torch.arange(4))
    with pytest.raises(ValueError, match="num_nodes and num_codes"):
        make(0, 3)
    for options, message in (
        ({"decay": 2.0}, r"decay is .* in \[0, 1\], got 2.0"),
        ({"reseed": -1.0}, "reseed must be at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make(30, 10, **options)
    with pytest.raises(ValueError, match="heads and head_dim must be at least 1, got 0 and 5"):
        CodebookAttention(6, 3, head_dim=5, heads=0, num_nodes=4)


@pytest.mark.parametrize("train", [True, False])
def test_nodes_fit_rows_and_graph(train: bool) -> None:
    layer = make(30, 10).train(train)
    x, pos = torch.randn(4, 6).double(), torch.randn(4, 3).double()
    with pytest.raises(ValueError, match=r"number of every row of x, \[4\], got \[3\]"):
        layer(x, pos, torch.arange(3))
    for bad in (-1, 30):
        with pytest.raises(ValueError, match=rf"nodes must be in \[0, 30\), got {bad}; the layer"):
            layer(x, pos, torch.tensor([0, 1, 2, bad]))
        with pytest.raises(ValueError, match=rf"nodes must be in \[0, 30\), got {bad}"):
            layer.assign(x, pos, torch.tensor([0, 1, 2, bad]))
    with pytest.raises(TypeError, match="nodes must be integers"):
        layer(x, pos, torch.ones(4))
    assert not layer.started  # nothing has happened


def test_an_empty_batch_teaches_nothing() -> None:
    layer, empty = make(30, 10), torch.zeros(0, 9).double()
    nodes = torch.zeros(0, dtype=torch.int64)
    for started in (False, True):
        with pytest.raises(ValueError, match="follow the rows of a training batch, got none"):
            layer.train()(empty[:, :6], empty[:, 6:], nodes)
        assert layer.eval()(empty[:, :6], empty[:, 6:], nodes).shape == (0, 10)
        if not started:
            layer.start(torch.randn(20, 9).double())


class Largest(TorchDispatchMode):
    """The most numbers that an operator gave back."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for part in found if isinstance(found, tuple | list) else [found]:
            in_place = any(part is given for given in args)
            if isinstance(part, Tensor) and not in_place:
                self.numel = max(self.numel, part.numel())
        return found


@pytest.mark.parametrize("train", [True, False])
def test_cost_is_of_codes_not_of_nodes(train: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scored pairs, in attention and in the search for the nearest code, and all tensors made."""
    counts = {}
    for nodes in (100, 100_000):
        layer = make(nodes, 16).train(train)
        layer.start(torch.randn(40, 9).double())
        x, pos = torch.randn(20, 6).double(), torch.randn(20, 3).double()
        with FlopCounterMode(display=False) as flops, Largest() as largest:
            layer(x, pos, torch.arange(20))
        counts[nodes] = flops.get_total_flops(), largest.numel
    assert counts[100] == counts[100_000]
    assert counts[100][0] > 2 * 20 * 16 * 10  # both products of attention are counted


def test_token_transformer_is_its_formula() -> None:
    layer = TokenTransformer(4, 6, heads=2).double().eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    features = torch.randn(8, 3, 4, dtype=torch.float64)
    tokens = torch.randint(0, 8, (5, 4))
    z = layer.mlp(features[tokens].flatten(1, 2))
    normed = layer.norm_in(z)
    heads = []
    for h in range(2):
        q, k, v = (
            lin(normed)[..., 6 * h : 6 * h + 6]
            for lin in (layer.lin_query, layer.lin_key, layer.lin_value)
        )
        heads.append(torch.softmax(q @ k.transpose(1, 2) / 6**0.5, -1) @ v)
    z = layer.norm_out(layer.lin_skip(z) + layer.lin_out(torch.cat(heads, -1)))
    pairs = torch.cat([z[:, :1].expand_as(z[:, 1:]), z[:, 1:]], -1)
    alpha = torch.softmax(layer.lin_read(pairs), 1)
    want = z[:, 0] + (alpha * z[:, 1:]).sum(1)
    torch.testing.assert_close(layer(features, tokens), want)


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["musae/github", "attributed/blogcatalog"])
def test_codes_live_on_real_features(name: str, data_root: Path) -> None:
    """One epoch of batches of training nodes, 1024 codes, features through a random MLP."""
    folder, _, data = name.partition("/")
    dataset = ga.load_dataset(data, data_root / folder, download=False)
    x, train = dataset.data.x.float(), dataset.splits[0]["train"]
    mlp = torch.nn.Sequential(
        torch.nn.Linear(x.shape[1], 128), torch.nn.BatchNorm1d(128), torch.nn.ReLU(),
        torch.nn.Linear(128, 64),
    )  # fmt: skip
    with torch.no_grad():
        mlp(x[:4096])
        u = mlp.eval()(x)
    used = {}
    for legacy in (False, True):
        layer = CodebookAttention(
            64, 0, head_dim=8, heads=1, num_nodes=len(x), num_codes=1024, legacy_init=legacy
        )
        if not legacy:
            layer.start(u[torch.randperm(len(x))[:8192]])
        for nodes in torch.split(train[torch.randperm(len(train))], 1024):
            layer(u[nodes], None, nodes)
        layer.assign(u, None, torch.arange(len(x)))
        used[legacy] = layer.used()
    assert used[False] > 0.9 * 1024
    assert used[True] < 0.1 * 1024
