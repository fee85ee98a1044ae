"""Mini-batches: same loop, same checkpoints, exact where fan-outs cover everything."""

import copy
from pathlib import Path

import pytest
import torch

import graphattn as ga
from graphattn.training.build import prepare
from graphattn.training.config import TrainConfig
from graphattn.training.loop import Trainer
from graphattn.training.run import train_run
from graphattn.training.shares import batch_places, node_parts, owners, part_places


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


def test_parts_are_dealt_whole_and_evenly() -> None:
    part = torch.arange(400) // 37  # 11 parts, the last one smaller
    seeds = torch.randperm(400, generator=torch.manual_seed(0))[:301]
    owner = owners(part, seeds, 3)
    for number in range(11):
        assert len(owner[part[seeds] == number].unique()) == 1
    counts = torch.bincount(owner)
    assert len(counts) == 3 and int(counts.max() - counts.min()) < 37
    steps = part_places(owner, 3, 30, 0, 2)
    assert len(steps) == 10 and all(len(pieces) == 3 for pieces in steps)
    for rank in range(3):
        own = torch.cat([pieces[rank] for pieces in steps])
        assert sorted(own.tolist()) == (owner == rank).nonzero().squeeze(1).tolist()
    assert not torch.equal(steps[0][0], part_places(owner, 3, 30, 0, 3)[0][0])
    with pytest.raises(ValueError, match=r"rank 1 of 2 has 1 training nodes in its parts"):
        part_places(torch.tensor([0] * 40 + [1]), 2, 20, 0, 0)


def test_parts_must_serve_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = ga.as_graph(torch.tensor([[0, 1, 2], [1, 2, 3]]), 4)
    assert node_parts(graph, 4) is None  # one process
    monkeypatch.setattr("graphattn.training.shares.world_size", lambda: 3)
    assert node_parts(graph, 0) is None
    with pytest.raises(ValueError, match="3 processes need sampling.parts of at least as many"):
        node_parts(graph, 2)
    with pytest.raises(ValueError, match="the store holds 3 parts, asked for 4; set --sampling"):
        node_parts(graph, 4, torch.tensor([0, 1, 2, 2]))


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


@pytest.mark.parametrize("name", ["gcn", "sage", "gat", "sinc"])
def test_baselines_evaluate_layer_by_layer(
    config: TrainConfig, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.model.name, config.model.options = name, {}
    config.sampling.batch_size, config.sampling.num_neighbors = 20, [3, 2]
    run = prepare(config)
    want = run.model.eval()(run.inputs.x.float(), run.inputs.graph, None)

    def never(*_: object) -> torch.Tensor:
        raise AssertionError("the full graph is not run at once")

    found = run.inputs.outputs(never, run.model)
    torch.testing.assert_close(found, want.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("option", ["is_causal", "rotary"])
def test_layers_that_read_node_numbers_need_the_full_graph(
    config: TrainConfig, option: str
) -> None:
    config.model.name, config.model.options = "gin-attention", {"layer_options": {option: True}}
    prepare(config)
    config.sampling.batch_size = 20
    with pytest.raises(ValueError, match=r"read the numbers of nodes .*--sampling.batch_size 0"):
        prepare(config)


def test_wrong_input(tokens: TrainConfig) -> None:
    tokens.sampling.batch_size = 0
    with pytest.raises(ValueError, match="sampling.batch_size of at least 1, got 0"):
        prepare(tokens)
