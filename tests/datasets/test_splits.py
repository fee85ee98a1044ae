"""Seeded splits and the checks of splits and labels."""

import pytest
import torch
from torch import Tensor

from graphattn.datasets.splits import (
    check_labels,
    check_splits,
    missing_classes,
    per_class_split,
    random_splits,
)


def split(train: list[int], valid: list[int], test: list[int]) -> dict[str, Tensor]:
    parts = {"train": train, "valid": valid, "test": test}
    return {key: torch.tensor(items, dtype=torch.int64) for key, items in parts.items()}


def test_random_splits_use_every_labelled_item_once() -> None:
    labels = torch.arange(103) % 4
    labels[::10] = -1
    splits = random_splits(labels, count=3, seed=7)
    check_splits(splits, 103, "x")
    for parts in splits:
        together = torch.cat(list(parts.values())).sort().values
        assert torch.equal(together, (labels != -1).nonzero().flatten())
        assert [len(parts[k]) for k in ("train", "valid", "test")] == [46, 23, 23]
    assert torch.equal(random_splits(labels, seed=9)[0]["test"], splits[2]["test"])
    assert not torch.equal(splits[0]["train"], splits[1]["train"])


def test_stratified_splits_cut_every_class() -> None:
    labels = torch.tensor([0] * 40 + [1] * 20)
    parts = random_splits(labels, (0.5, 0.25, 0.25), stratified=True)[0]
    assert [labels[parts[k]].bincount().tolist() for k in ("train", "valid", "test")] == [
        [20, 10],
        [10, 5],
        [10, 5],
    ]


def test_random_splits_name_a_missing_class() -> None:
    labels = torch.tensor([0] * 50 + [2] * 50)
    with pytest.raises(ValueError, match="seed 4 has no training item of class 1"):
        random_splits(labels, seed=4, num_classes=3)
    with pytest.raises(ValueError, match="proportions"):
        random_splits(labels, (0.6, 0.3, 0.2))


def test_float_labels_with_nan() -> None:
    labels = torch.tensor([[1.0, float("nan")], [float("nan")] * 2, [0.0, 1.0], [1.0, 0.0]])
    parts = random_splits(labels, (0.34, 0.33, 0.33))[0]
    assert torch.cat(list(parts.values())).sort().values.tolist() == [0, 2, 3]


def test_per_class_split_is_tunedgnns() -> None:
    """Their algorithm with torch's global generator, line by line."""
    labels = torch.randint(0, 5, (400,))
    torch.manual_seed(123)
    train, others = [], []
    for label in labels.unique():
        items = torch.arange(400)[labels == label]
        items = items[torch.randperm(len(items))]
        train += items[:20].tolist()
        others += items[20:].tolist()
    rest = torch.tensor(others)[torch.randperm(len(others))]
    ours = per_class_split(labels, 5, valid=50, test=100, seed=123)
    assert ours["train"].tolist() == train
    assert torch.equal(ours["valid"], rest[:50]) and torch.equal(ours["test"], rest[50:150])


def test_per_class_split_refuses_what_it_cannot_do() -> None:
    labels = torch.tensor([0, 0, 2, 2, 2] * 10)
    with pytest.raises(ValueError, match="class 1 of 3 has no item"):
        per_class_split(labels, 3)
    with pytest.raises(ValueError, match="10 items are left after 20 per class"):
        per_class_split(labels // 2, 2)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (split([0, 1], [2], [3, 1]), r"test overlaps train: 1 items.*first: 1"),
        (split([0, 1], [1], [3]), "valid overlaps train"),
        (split([0, 9], [1], [3]), r"train holds 9, expected 0\.\.7"),
        (split([0, -1], [1], [3]), "train holds -1"),
        (split([0, 0], [1], [3]), "lists 1 items more than once"),
        (split([], [1], [3]), "empty training part"),
        ({"train": torch.tensor([0])}, r"has \['train'\], expected"),
    ],
)
def test_bad_splits(bad: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_splits([split([0], [1], [2]), bad], 8, "toy")


def test_masks_are_refused_with_a_hint() -> None:
    bad = split([0], [1], [2]) | {"train": torch.ones(8, dtype=torch.bool)}
    with pytest.raises(TypeError, match="nonzero"):
        check_splits([bad], 8, "toy")


def test_labels_outside_the_range() -> None:
    parts = [split([0, 1], [2], [3])]
    labels = torch.tensor([0, 1, 1, 5, -1])
    with pytest.raises(ValueError, match=r"test: 1 labels.*0\.\.1 \(first: item 3 has 5\)"):
        check_labels(labels, parts, 2, "multiclass", "toy")
    with pytest.raises(ValueError, match="item 4 has -1"):
        check_labels(labels, [split([0, 1], [4], [2])], 2, "multiclass", "toy")
    with pytest.raises(ValueError, match="0, 1 or NaN"):
        check_labels(torch.tensor([[0.5], [1], [0], [0]]), parts, 1, "multilabel", "toy")
    with pytest.raises(ValueError, match="finite"):
        check_labels(torch.tensor([float("inf"), 1, 0, 0]), parts, 1, "regression", "toy")
    check_labels(torch.tensor([[float("nan")], [1], [0], [0]]), parts, 1, "multilabel", "toy")


def test_class_missing_from_given_training_part() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    assert missing_classes(labels, torch.tensor([0]), 2) == [1]
    with pytest.warns(UserWarning, match="split 0 has no item of class 1") as caught:
        check_labels(labels, [split([0, 1], [2], [3])], 2, "multiclass", "toy")
    assert caught[0].filename == __file__
    many = torch.arange(40)
    with pytest.warns(UserWarning, match="and 29 more"):
        check_labels(many, [split([0], [2], [3])], 40, "multiclass", "toy")
