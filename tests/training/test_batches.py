"""Mini-batches: same loop, same checkpoints, exact where fan-outs cover everything."""

import copy
from pathlib import Path

import pytest
import torch

from graphattn.training.batches import batch_places
from graphattn.training.build import prepare
from graphattn.training.config import TrainConfig
from graphattn.training.loop import Trainer
from graphattn.training.run import train_run


@pytest.fixture
def tokens(config: TrainConfig) -> TrainConfig:
    """A small LargeGT on the board."""
    config.model.name, config.model.layers, config.model.norm = "large-gt", 1, "batch"
    config.model.options = {"global_dim": 8, "num_codes": 16}
    config.encoding.kind, config.encoding.k = "laplacian", 4
    config.sampling.batch_size, config.sampling.tokens = 32, 5
    return config


def make(config: TrainConfig) -> Trainer:
    run = prepare(config)
    return Trainer(run.model, run.inputs, run.supervision, config)


def test_places_are_a_permutation_without_a_tiny_last_batch() -> None:
    parts = batch_places(101, 20, 0, 3)
    assert [len(part) for part in parts] == [20, 20, 20, 20, 21]
    assert sorted(torch.cat(parts).tolist()) == list(range(101))
    assert not torch.equal(parts[0], batch_places(101, 20, 0, 4)[0])


def test_large_gt_learns_and_resumes_to_the_same_numbers(
    tokens: TrainConfig, tmp_path: Path
) -> None:
    tokens.loop.epochs = 8
    whole = train_run(tokens, tmp_path / "whole")
    first = copy.deepcopy(tokens)
    first.loop.epochs = 3
    train_run(first, tmp_path / "parts")
    parts = train_run(tokens, tmp_path / "parts", resume=True)
    assert [whole[k] for k in ("valid", "test")] == [parts[k] for k in ("valid", "test")]
    weights = [
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["trainer"]["model"]
        for name in ("whole", "parts")
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert whole["train"] > 0.6


def test_threads_change_nothing(tokens: TrainConfig) -> None:
    losses = []
    for threads in (0, 2):
        tokens.sampling.threads = threads
        trainer = make(tokens)
        losses.append([trainer.run_epoch()["loss"] for _ in range(2)])
    assert losses[0] == losses[1]


def test_full_fan_out_in_one_batch_is_the_full_graph(config: TrainConfig) -> None:
    config.model.dropout, config.model.norm = 0.0, "layer"
    full = make(config)
    config = copy.deepcopy(config)
    config.sampling.batch_size, config.sampling.num_neighbors = 1000, [-1, -1]
    batches = make(config)
    for _ in range(3):
        one, other = full.run_epoch(), batches.run_epoch()
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["valid"] == pytest.approx(other["valid"], abs=1e-3)


def test_wrong_input(tokens: TrainConfig) -> None:
    tokens.sampling.batch_size = 0
    with pytest.raises(ValueError, match="sampling.batch_size of at least 1, got 0"):
        prepare(tokens)
