import copy
import math
from collections.abc import Callable

import pytest
import torch

from graphattn.training.build import prepare
from graphattn.training.config import TrainConfig
from graphattn.training.loop import Trainer

Make = Callable[[TrainConfig], Trainer]


def make(config: TrainConfig) -> Trainer:
    run = prepare(config)
    return Trainer(run.model, run.inputs, run.supervision, config)


def train(trainer: Trainer) -> list[dict]:
    entries = []
    while not trainer.finished:
        entries.append(trainer.run_epoch())
    return entries


def test_learns_and_keeps_the_best_epoch(config: TrainConfig) -> None:
    config.loop.epochs = 25
    trainer = make(config)
    entries = train(trainer)
    assert entries[-1]["loss"] < entries[0]["loss"]
    best = max(entry["valid"] for entry in entries)
    first = next(entry["epoch"] for entry in entries if entry["valid"] == best)
    assert (trainer.best.valid, trainer.best.epoch) == (best, first)
    assert trainer.best_weights is not None
    assert trainer.best_weights.keys() == trainer.model.state_dict().keys()


def test_sees_no_test_labels(config: TrainConfig) -> None:
    from graphattn.training.inputs import load_nodes

    dataset = load_nodes(config.data)
    plain = prepare(config, dataset)
    blind = copy.deepcopy(dataset)
    blind.data.y[blind.splits[0]["test"]] = -77
    hidden = prepare(config, blind)
    first, second = (
        Trainer(run.model, run.inputs, run.supervision, config) for run in (plain, hidden)
    )
    torch.manual_seed(1)
    expected = [first.run_epoch()["loss"] for _ in range(3)]
    torch.manual_seed(1)
    assert [second.run_epoch()["loss"] for _ in range(3)] == expected


def test_evaluates_every_n_epochs_and_at_the_end(config: TrainConfig) -> None:
    config.loop.eval_every, config.loop.epochs = 3, 7
    entries = train(make(config))
    assert [entry["epoch"] for entry in entries if "valid" in entry] == [3, 6, 7]


def test_patience_ends_the_run(config: TrainConfig) -> None:
    config.loop.epochs, config.loop.patience, config.optim.lr = 50, 4, 0.0
    config.model.norm = "layer"
    trainer = make(config)
    assert len(train(trainer)) == 5
    assert trainer.best.epoch == 1


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision(config: TrainConfig, precision: str) -> None:
    config.loop.precision = precision  # type: ignore[assignment]
    config.optim.clip = 1.0
    losses = [entry["loss"] for entry in train(make(config))]
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0]


def test_clipping_bounds_the_gradient(config: TrainConfig) -> None:
    config.optim.clip = 1e-3
    trainer = make(config)
    trainer.run_epoch()
    squares = [p.grad.square().sum() for p in trainer.model.parameters() if p.grad is not None]
    assert torch.stack(squares).sum().sqrt().item() <= 1e-3 * 1.01


def test_divergence_names_epoch_and_remedies(config: TrainConfig) -> None:
    trainer = make(config)
    trainer.run_epoch()
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"nan in epoch 2.*--optim\.lr, now 0\.01"):
        trainer.run_epoch()


def test_divergence_seen_at_evaluation(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(config)
    monkeypatch.setattr(trainer, "_train", lambda: 0.5)
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"scores .* in epoch 1; lower.*now 0\.01"):
        trainer.run_epoch()


def test_unknown_precision(config: TrainConfig) -> None:
    config.loop.precision = "fp8"  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"loop\.precision fp32, bf16, fp16, got 'fp8'"):
        make(config).run_epoch()


@pytest.mark.slow
def test_compiled_equals_eager(config: TrainConfig) -> None:
    config.model.dropout, config.model.options = 0.0, {}
    eager = [entry["loss"] for entry in train(make(config))]
    config.loop.compile = True
    assert [entry["loss"] for entry in train(make(config))] == pytest.approx(eager, rel=1e-4)
