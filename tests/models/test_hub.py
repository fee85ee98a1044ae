"""Models as a folder of config.json and safetensors; the mixin comes with the hub extra."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

import graphattn as ga
from tests.models.test_neighborhood_transformer import SMALL

needs_hub = pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is None, reason="huggingface_hub is not installed"
)


@needs_hub
def test_round_trip_through_a_folder(tmp_path: Path) -> None:
    Classifier = ga.models.hub(ga.models.NeighborhoodTransformer)
    assert ga.models.hub(ga.models.NeighborhoodTransformer) is Classifier
    steps = [(1,), (1, 1)]
    model = Classifier(**SMALL, dilations=steps, dtype=torch.bfloat16, device=torch.device("cpu"))
    assert isinstance(model, ga.models.NeighborhoodTransformer)
    model.save_pretrained(tmp_path)
    assert {"config.json", "model.safetensors"} <= {path.name for path in tmp_path.iterdir()}
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["depths"] == [1, 2] and "device" not in config
    again = Classifier.from_pretrained(tmp_path)
    assert again.head.weight.dtype == torch.bfloat16
    x = torch.randn(1, 3, 24, 24, dtype=torch.bfloat16)
    assert torch.equal(again.eval()(x), model.eval()(x))
    plain = ga.models.NeighborhoodTransformer(**SMALL)
    plain.load_state_dict(again.state_dict())


@needs_hub
def test_graph_models_too(tmp_path: Path) -> None:
    Shared = ga.models.hub(ga.models.SAGE)
    model = Shared(5, 8, 3, 2)
    model.save_pretrained(tmp_path)
    again = Shared.from_pretrained(tmp_path)
    assert all(map(torch.equal, again.state_dict().values(), model.state_dict().values()))


@needs_hub
def test_a_config_that_would_give_another_model_is_refused(tmp_path: Path) -> None:
    Classifier = ga.models.hub(ga.models.NeighborhoodTransformer)
    model = Classifier(**SMALL, norm_layer=lambda dim: torch.nn.LayerNorm(dim, eps=1e-3))
    with pytest.raises(TypeError, match="norm_layer cannot be written to config.json; leave"):
        model.save_pretrained(tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'graphattn\[hub\]'"):
        ga.models.hub(ga.models.TANGNN)
