import pytest
import torch
from torch import nn

from graphattn.training.config import OptimConfig
from graphattn.training.optim import Schedule, make_optimizer, parameter_groups, rate


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1, bias=False))


def test_vectors_do_not_decay() -> None:
    matrices, vectors = parameter_groups(net(), 0.1, decay_all=False)
    assert [p.dim() for p in matrices["params"]] == [2, 2]
    assert [p.dim() for p in vectors["params"]] == [1, 1, 1]
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    (everything,) = parameter_groups(net(), 0.1, decay_all=True)
    assert len(everything["params"]) == 5


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_optimizer_kinds(name: str, kind: type) -> None:
    optimizer = make_optimizer(net(), OptimConfig(name=name, lr=0.5))  # type: ignore[arg-type]
    assert type(optimizer) is kind
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("epoch", "factor"), [(0, 0.25), (3, 1.0), (4, 1.0), (8, 0.5), (12, 0.0), (20, 0.0)]
)
def test_cosine_with_warm_up(epoch: int, factor: float) -> None:
    config = OptimConfig(schedule="cosine", warmup=4)
    assert rate(epoch, 12, config) == pytest.approx(factor)


def test_warm_up_alone_then_constant() -> None:
    config = OptimConfig(lr=2.0, warmup=2)
    optimizer = make_optimizer(net(), config)
    schedule = Schedule(optimizer, config, 10, True)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step(None)
    assert rates == [1.0, 2.0, 2.0, 2.0]


@pytest.mark.parametrize(("larger", "scores"), [(True, [1, 2, 1, 1, 1]), (False, [2, 1, 2, 2, 2])])
def test_plateau_divides_when_validation_stalls(larger: bool, scores: list[float]) -> None:
    config = OptimConfig(lr=1.0, schedule="plateau", plateau_factor=0.1, plateau_patience=2)
    optimizer = make_optimizer(net(), config)
    schedule = Schedule(optimizer, config, 10, larger)
    for score in scores[:-1]:
        schedule.step(score)
        schedule.step(None)
    assert optimizer.param_groups[0]["lr"] == 1.0
    schedule.step(scores[-1])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    "config",
    [
        OptimConfig(name="lion"),  # type: ignore[arg-type]
        OptimConfig(schedule="step"),  # type: ignore[arg-type]
        OptimConfig(schedule="plateau", warmup=3),
    ],
)
def test_wrong_settings(config: OptimConfig) -> None:
    with pytest.raises(ValueError, match=r"optim\."):
        Schedule(make_optimizer(net(), config), config, 10, True)
