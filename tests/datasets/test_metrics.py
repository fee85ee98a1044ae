"""Metrics by name: shapes, missing labels, and what must not be scored silently."""

import pickle

import numpy as np
import pytest
import torch

from graphattn.datasets.metrics import Evaluator, evaluator

NAN = float("nan")


def test_accuracy_of_scores_predictions_and_logits() -> None:
    labels = torch.tensor([0, 2, 1])
    scores = torch.tensor([[3.0, 1, 0], [0, 1, 2], [2, 1, 0]])
    acc = evaluator("acc")
    assert acc(scores, labels) == acc(scores.argmax(1), labels[:, None]) == pytest.approx(2 / 3)
    assert acc(torch.tensor([-1.0, 2.0, 3.0]), torch.tensor([0, 1, 0])) == pytest.approx(2 / 3)


def test_rocauc_forms_agree() -> None:
    from sklearn.metrics import roc_auc_score

    labels = torch.tensor([0, 1, 1, 0, 1, 0, 0])
    two = torch.randn(7, 2)
    logit = two[:, 1] - two[:, 0]
    expected = roc_auc_score(labels.numpy(), logit.numpy())
    for scores in (two, logit, logit[:, None], torch.softmax(two, 1)[:, 1]):
        assert evaluator("rocauc")(scores, labels) == pytest.approx(expected)


def test_tasks_without_both_classes_and_missing_labels_are_left_out() -> None:
    labels = torch.tensor([[1.0, 1, NAN], [0, 1, 1], [NAN, 1, 0]])
    scores = torch.tensor([[2.0, 0, 9], [1, 0, 1], [5, 0, 3]])
    assert evaluator("rocauc")(scores, labels) == pytest.approx((1.0 + 0.0) / 2)
    assert 0 < evaluator("ap")(scores, labels) <= 1
    with pytest.raises(ValueError, match="one class only"):
        evaluator("rocauc")(scores[:, 1], labels[:, 1])


def test_rmse() -> None:
    value = evaluator("rmse")(torch.tensor([[1.0], [3.0]]), torch.tensor([2.0, 5.0]))
    assert value == pytest.approx(np.sqrt(2.5))


def test_wrong_input() -> None:
    acc = evaluator("acc")
    with pytest.raises(ValueError, match="3 scores but 2 labels"):
        acc(torch.rand(3, 2), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="0 rows"):
        acc(torch.rand(0, 2), torch.empty(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        acc(torch.tensor([[0.0, NAN], [1, 2]]), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"expected scores of shape \[2, 1\]"):
        evaluator("rocauc")(torch.rand(2, 3), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="unknown metric 'f1'"):
        evaluator("f1")


def test_evaluators_pickle_and_compare() -> None:
    one = evaluator("ogb:ogbn-proteins")
    assert pickle.loads(pickle.dumps(one)) == one == Evaluator("ogb:ogbn-proteins")


def test_ogb_proteins_agrees_with_the_plain_metric() -> None:
    labels = (torch.rand(40, 112) > 0.5).float()
    scores = torch.randn(40, 112)
    ours, official = evaluator("rocauc"), evaluator("ogb:ogbn-proteins")
    assert official(scores, labels) == pytest.approx(ours(scores, labels))
