"""NAT and DiNAT: published sizes, timm's methods, the same network over other graphs."""

import re
from typing import Any

import pytest
import torch

from graphattn.models import NeighborhoodTransformer
from graphattn.models.neighborhood_transformer import SIZES, dilation_schedule
from graphattn.nn.image_blocks import DropPath

SMALL: dict[str, Any] = {
    "num_classes": 5, "embed_dim": 8, "depths": (1, 2), "num_heads": (2, 4), "kernel_size": 3,
    "img_size": 24, "impl": "reference",
}  # fmt: skip


@pytest.mark.parametrize(("size", "count"), [("mini", 19_984_174), ("tiny", 27_901_582)])
def test_published_parameter_counts(size: str, count: int) -> None:
    with torch.device("meta"):
        model = NeighborhoodTransformer(**SIZES[size])
    assert sum(p.numel() for p in model.parameters()) == count


def test_names_are_those_of_the_published_checkpoints() -> None:
    names = set(NeighborhoodTransformer(**SMALL).state_dict())
    wanted = {
        "patch_embed.proj.0.weight", "patch_embed.proj.1.bias", "patch_embed.norm.weight",
        "levels.0.blocks.0.norm1.weight", "levels.0.blocks.0.attn.rpb",
        "levels.0.blocks.0.attn.qkv.weight", "levels.0.blocks.0.attn.proj.bias",
        "levels.0.blocks.0.mlp.fc1.weight", "levels.0.downsample.reduction.weight",
        "levels.0.downsample.norm.bias", "levels.1.blocks.1.mlp.fc2.bias", "norm.weight",
        "head.weight",
    }  # fmt: skip
    assert wanted <= names
    assert "levels.0.downsample.reduction.bias" not in names


def test_dilations_of_dinat() -> None:
    found = dilation_schedule((56, 28, 14, 7), 7, (3, 4, 6, 5))
    assert found == [(1, 8, 1), (1, 4, 1, 4), (1, 2, 1, 2, 1, 2), (1, 1, 1, 1, 1)]
    assert [s[1] for s in dilation_schedule((96, 48, 24, 12), 7, (3, 4, 6, 5))] == [13, 6, 3, 1]
    model = NeighborhoodTransformer(**SMALL | {"img_size": 48}, dilations="dinat")
    rules = [[block.attn._rule[2] for block in level.blocks] for level in model.levels]
    assert rules == [[1], [1, 2]]
    with pytest.raises(ValueError, match="one number per block"):
        NeighborhoodTransformer(**SMALL, dilations=[(1, 2), (1, 1)])


def test_methods_that_timm_users_expect() -> None:
    model = NeighborhoodTransformer(**SMALL, drop_path_rate=0.2, layer_scale=1e-5).eval()
    x = torch.randn(2, 3, 24, 40)
    features = model.forward_features(x)
    assert features.shape == (2, 3, 5, 16) and model.num_features == 16
    assert model.forward_head(features, pre_logits=True).shape == (2, 16)
    assert model(x).shape == (2, 5)
    model.set_grad_checkpointing()
    model.train()
    for module in model.modules():
        if isinstance(module, DropPath):
            module.p = 0.0
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.get_classifier() is model.head
    model.reset_classifier(0)
    assert torch.equal(model.eval()(x), model.forward_head(features, pre_logits=True))
    model.reset_classifier(7, "")
    assert model(x).shape == (2, 3, 5, 7)
    tables = model.no_weight_decay()
    assert "levels.1.blocks.0.attn.rpb" in tables and len(tables) == 3
    groups = model.group_matcher()
    names = [name for name, _ in model.named_parameters() if not name.startswith("head")]
    patterns = [groups["stem"], *(p for p, _ in groups["blocks"])]
    assert all(any(re.match(p, name) for p in patterns) for name in names)
    assert (
        NeighborhoodTransformer(**SMALL, dtype=torch.bfloat16).head.weight.dtype == torch.bfloat16
    )


def test_drop_path_drops_whole_images_and_keeps_the_mean() -> None:
    layer = DropPath(0.25)
    out = layer(torch.ones(4000, 1, 2))
    assert out.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert float(out.mean()) == pytest.approx(1.0, abs=0.05)
    assert torch.equal(layer.eval()(out), out)


@pytest.mark.parametrize("attention", ["neighborhood", "windows", "dense"])
def test_the_same_network_over_other_graphs(attention: str) -> None:
    model = NeighborhoodTransformer(**SMALL, attention=attention).double()
    x = torch.randn(1, 3, 24, 24, dtype=torch.float64, requires_grad=True)
    model(x).sum().backward()
    graph = model.levels[0].blocks[0].attn.graph((6, 6), x.device)
    edges = {"neighborhood": 36 * 9, "windows": 36 * 9, "dense": 36 * 36}
    assert graph.num_edges == edges[attention]
    assert x.grad is not None and bool(x.grad.abs().sum() > 0)


@pytest.mark.parametrize("side", [20, 24, 28, 30])
def test_dense_stages_join_all_pairs(side: int) -> None:
    """Also where strides leave a remainder, and on smaller and wider images."""
    options = SMALL | {"img_size": side, "attention": "dense"}
    model = NeighborhoodTransformer(**options)
    for shape in ((side, side), (side - 5, side)):
        x = model.patch_embed(torch.randn(1, *shape, 3))
        for level in model.levels:
            nodes = x.shape[1] * x.shape[2]
            assert level.blocks[0].attn.graph(x.shape[1:3], x.device).num_edges == nodes**2
            x = level(x)
    with pytest.raises(ValueError, match=f"up to {side} x {side}, got .* the longest side"):
        model(torch.randn(1, 3, 8, side + 1))


def test_a_pruned_network_takes_a_new_head() -> None:
    model = NeighborhoodTransformer(**SMALL)
    model.prune_intermediate_layers([0])
    model.reset_classifier(4, "avg")
    assert model(torch.randn(1, 3, 24, 24)).shape == (1, 4)
    assert len(model.feature_info) == len(model.levels) == 1


def test_wrong_input() -> None:
    with pytest.raises(ValueError, match="one entry per stage"):
        NeighborhoodTransformer(**SMALL | {"num_heads": (2,)})
    with pytest.raises(ValueError, match="attention must be one of"):
        NeighborhoodTransformer(**SMALL, attention="local")
    with pytest.raises(ValueError, match=r"\[B, channels, H, W\]"):
        NeighborhoodTransformer(**SMALL)(torch.randn(3, 24, 24))
    with pytest.raises(ValueError, match="axis 0 must be at most its extent 2"):
        NeighborhoodTransformer(**SMALL)(torch.randn(1, 3, 16, 16))


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"img_size": (24, 32)}, TypeError, r"img_size .* must be an int, got \(24, 32\)"),
        ({"stem_strides": (0, 2)}, ValueError, r"stem_strides\[0\] must be at least 1, got 0"),
        ({"depths": (1, 0)}, ValueError, r"depths\[1\] must be at least 1, got 0"),
        ({"stem_strides": 2}, ValueError, r"two ints, such as \(2, 2\), got 2"),
        ({"norm_layer": "layernorm"}, TypeError, "norm_layer must be a class .* got 'layernorm'"),
        ({"dilations": [1, 2]}, ValueError, r"sequence per stage of \(1, 2\) blocks, got \[1, 2\]"),
        ({"dilations": "natten"}, ValueError, "None, 'dinat' or numbers, got 'natten'"),
        ({"global_pool": "max"}, ValueError, "'avg' or '', got 'max'"),
        ({"num_classes": -1}, ValueError, "at least 0 .* got -1"),
    ],
)
def test_arguments_are_checked(
    options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        NeighborhoodTransformer(**SMALL | options)


def test_images_of_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"with 3 channels, got \[1, 24, 24, 3\]; move channels"):
        NeighborhoodTransformer(**SMALL)(torch.randn(1, 24, 24, 3))
