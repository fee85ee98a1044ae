import math

import pytest
import torch

from graphattn.training import tasks

NAN = float("nan")


def test_cross_entropy_by_hand() -> None:
    outputs = torch.tensor([[0.0, math.log(3.0)], [5.0, 5.0], [9.0, 9.0]])
    loss = tasks.loss("multiclass", outputs, torch.tensor([1, 0, -1]))
    assert loss.item() == pytest.approx((-math.log(0.75) + math.log(2)) / 2)


def test_binary_is_one_logit() -> None:
    outputs = torch.tensor([[0.0], [math.log(3.0)], [7.0]], dtype=torch.bfloat16)
    loss = tasks.loss("binary", outputs, torch.tensor([1, 0, -1]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx((math.log(2) + math.log(4)) / 2, rel=1e-2)
    assert tasks.scores("binary", outputs).shape == (3,)
    assert tasks.out_channels("binary", 2) == 1


def test_multilabel_leaves_out_unknown_labels() -> None:
    outputs = torch.tensor([[0.0, 99.0], [0.0, 0.0]])
    loss = tasks.loss("multilabel", outputs, torch.tensor([[1.0, NAN], [0.0, 1.0]]))
    assert loss.item() == pytest.approx(math.log(2))
    assert tasks.out_channels("multilabel", 5) == 5


def test_regression_is_mean_absolute_error() -> None:
    labels = torch.tensor([1.0, -2.0, NAN])
    assert tasks.loss("regression", torch.tensor([[2.0], [2.0], [0.0]]), labels).item() == 2.5
    assert not tasks.larger_is_better("rmse")
    assert tasks.larger_is_better("rocauc")


def test_unknown_task() -> None:
    with pytest.raises(ValueError, match="multiclass.*'ranking'"):
        tasks.out_channels("ranking", 3)
