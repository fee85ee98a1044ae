"""timm finds the models by name; pyramids and layer-wise groups, with timm or a stand-in."""

import importlib
import importlib.util
import re
import subprocess
import sys
import types
from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
import torch

import graphattn.models
from graphattn.models import NeighborhoodTransformer, register_timm
from tests.models.test_neighborhood_transformer import SMALL

NAMES = ["nat_mini", "nat_tiny", "dinat_mini", "dinat_tiny"]


def depth_of(groups: dict[str, Any], name: str) -> tuple[float, ...]:
    """Sort key of a parameter, as timm computes it from the expressions."""
    for number, spec in enumerate(groups.values()):
        for pattern, suffix in [(spec, None)] if isinstance(spec, str) else spec:
            match = re.match(pattern, name)
            if match:
                parts = filter(None, ((number,), match.groups(), suffix))
                return tuple(map(float, chain.from_iterable(parts)))
    return (float("inf"),)


def test_groups_follow_the_depth() -> None:
    model = NeighborhoodTransformer(**SMALL, layer_scale=1e-5)
    names = [name for name, _ in model.named_parameters()]
    keys = {name: depth_of(model.group_matcher(), name) for name in names}
    assert keys["patch_embed.norm.weight"] == (0,)
    assert keys["levels.1.blocks.0.gamma1"] == (1, 1, 0) == keys["levels.1.blocks.0.attn.rpb"]
    assert keys["levels.0.blocks.0.norm1.bias"] < keys["levels.0.downsample.norm.bias"]
    assert keys["levels.0.downsample.norm.bias"] < keys["levels.1.blocks.0.norm1.bias"]
    assert keys["levels.0.downsample.norm.bias"][-1] == 99999  # timm: the group before it
    assert keys["levels.1.blocks.1.mlp.fc1.bias"] < keys["norm.weight"] < keys["head.weight"]
    coarse = model.group_matcher(coarse=True)
    assert depth_of(coarse, "levels.0.downsample.norm.bias") == (1, 0)


@torch.no_grad()
def test_pyramid_of_the_stages() -> None:
    model = NeighborhoodTransformer(**SMALL).eval()
    x = torch.randn(2, 3, 24, 40)
    final, grids = model.forward_intermediates(x)
    assert torch.equal(final, model.forward_features(x))
    for grid, info in zip(grids, model.feature_info, strict=True):
        extents = [-(-extent // info["reduction"]) for extent in (24, 40)]
        assert list(grid.shape) == [2, info["num_chs"], *extents]
        assert info["module"] in dict(model.named_modules())
    (last,) = model.forward_intermediates(
        x, 1, norm=True, output_fmt="NHWC", intermediates_only=True
    )
    assert torch.equal(last, final)
    early = model.forward_intermediates(x, [0], stop_early=True, intermediates_only=True)
    assert torch.equal(early[0], grids[0])
    with pytest.raises(ValueError, match=r"indices must be stages from -2 to 1.*got \[2\]"):
        model.forward_intermediates(x, [2])
    with pytest.raises(ValueError, match="'NCHW' or 'NHWC', got 'NLC'"):
        model.forward_intermediates(x, output_fmt="NLC")


@torch.no_grad()
def test_what_a_pyramid_does_not_need_is_dropped() -> None:
    x = torch.randn(1, 3, 24, 24)
    model = NeighborhoodTransformer(**SMALL).eval()
    wanted = model.forward_intermediates(x, [-2], intermediates_only=True)
    before = sum(p.numel() for p in model.parameters())
    assert model.prune_intermediate_layers([-2]) == [0]
    assert sum(p.numel() for p in model.parameters()) < before / 4
    assert torch.equal(model.forward_intermediates(x, [0], intermediates_only=True)[0], wanted[0])
    assert model(x).shape == (1, 6, 6, 8)
    whole = NeighborhoodTransformer(**SMALL).eval()
    logits = whole(x)
    assert whole.prune_intermediate_layers(2, prune_head=False) == [0, 1]
    assert torch.equal(whole(x), logits)


def test_a_new_head_where_nothing_is_normalised() -> None:
    model = NeighborhoodTransformer(
        **SMALL, norm_layer=lambda dim: torch.nn.Identity(), dtype=torch.bfloat16
    )
    model.reset_classifier(3)
    assert model.head.weight.dtype == torch.bfloat16


class Registry(types.ModuleType):
    """What registration uses of timm."""

    def __init__(self) -> None:
        super().__init__("timm.models")
        self.known: dict[str, Callable[..., Any]] = {}
        self.is_model = self.known.__contains__
        self.model_entrypoint = self.known.__getitem__

    def register_model(self, build: Callable[..., Any]) -> None:
        assert build.__name__ in sys.modules[build.__module__].default_cfgs  # type: ignore[attr-defined]
        self.known[build.__name__] = build

    def build_model_with_cfg(
        self, model: Any, name: str, pretrained: bool, feature_cfg: Any, **options: Any
    ) -> Any:
        assert feature_cfg == {"out_indices": (0, 1, 2, 3), "feature_cls": "getter"}
        return model(**options)


def test_registration_with_a_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    monkeypatch.setitem(sys.modules, "timm", types.ModuleType("timm"))
    monkeypatch.setitem(sys.modules, "timm.models", registry)
    assert register_timm() == NAMES == list(registry.known)
    first = dict(registry.known)
    assert register_timm() == NAMES and registry.known == first
    with torch.device("meta"):
        model = registry.known["dinat_mini"](num_classes=10)
    assert model.levels[0].blocks[1].attn._rule[2] == 8 and model.head.out_features == 10
    with torch.device("meta"):
        plain = registry.known["nat_tiny"]()
    assert sum(p.numel() for p in plain.parameters()) == 27_901_582
    registry.known.clear()
    importlib.reload(graphattn.models)  # as when the models are imported after timm
    assert list(registry.known) == NAMES


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "timm.models", None)
    with pytest.raises(ImportError, match="pip install timm"):
        register_timm()


def test_importing_the_models_imports_neither_timm_nor_the_hub() -> None:
    seen = "{'timm', 'huggingface_hub'} & {*sys.modules}"
    code = f"import sys, graphattn.models; sys.exit(bool({seen}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.filterwarnings("ignore")
def test_timm_itself() -> None:
    import timm
    from timm.models import group_parameters

    assert register_timm() == NAMES
    assert set(NAMES) <= set(timm.list_models())
    small = {k: v for k, v in SMALL.items() if k != "num_classes"}
    model = timm.create_model("dinat_mini", num_classes=5, **small | {"img_size": 48}).eval()
    assert model(torch.randn(1, 3, 48, 48)).shape == (1, 5)
    assert model.levels[1].blocks[1].attn._rule[2] == 2
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    assert [groups[f"levels.1.blocks.{n}.attn.rpb"] for n in (0, 1)] == [2, 3]
    assert groups["levels.0.downsample.reduction.weight"] == 1
    for kind in ("getter", "hook"):
        options = {"features_only": True, "feature_cls": kind, "out_indices": (0, 1)}
        pyramid = timm.create_model("nat_mini", **options, **small).eval()
        assert pyramid.feature_info.channels() == [8, 16]
        extents = [grid.shape[2] for grid in pyramid(torch.randn(1, 3, 24, 24))]
        assert extents == [6, 3], kind
    with pytest.raises(RuntimeError, match="pretrained=False"):
        timm.create_model("nat_mini", pretrained=True)
