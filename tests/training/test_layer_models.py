"""The layers' models train, stop and go on like all others."""

from pathlib import Path

import pytest

from graphattn.training.config import TrainConfig
from graphattn.training.evaluate import evaluate_run
from graphattn.training.presets import preset
from graphattn.training.recorder import read_metrics
from graphattn.training.run import train_run


@pytest.mark.parametrize("model", ["gin-attention", "pna-attention", "tangnn", "sinc"])
def test_trains(config: TrainConfig, tmp_path: Path, model: str) -> None:
    config.model.name = model
    config.model.options = {"impl": "reference"}
    config.loop.epochs = 2
    train_run(config, tmp_path)
    entries = read_metrics(tmp_path / "metrics.jsonl")
    assert len(entries) == 2 and (tmp_path / "best.safetensors").exists()


@pytest.mark.parametrize("model", ["gin-attention", "pna-attention", "tangnn", "sinc"])
def test_trains_on_sampled_neighbourhoods(config: TrainConfig, tmp_path: Path, model: str) -> None:
    """The sampler's batches: other steps than the full graph, the same evaluation."""
    config.model.name, config.model.options = model, {"impl": "reference"}
    config.loop.epochs, config.sampling.batch_size = 2, 16
    config.sampling.num_neighbors, config.sampling.threads = [3, 2], 0
    result = train_run(config, tmp_path)
    again = evaluate_run(config, tmp_path)
    assert again["test"] == result["test"] and read_metrics(tmp_path / "metrics.jsonl")


def test_published_settings_of_sinc() -> None:
    found = preset("arxiv", "sinc")
    assert (found["model.layers"], found["model.width"], found["model.heads"]) == (4, 75, 1)
    assert found["optim.weight_decay"] == 1e-3 and found["data.undirected"]
    for small in ("minesweeper", "Cora"):
        assert preset(small, "sinc") == preset(small, "tangnn") | {"model.heads": 1}
