"""Seeded splits, and the checks that every split goes through."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from graphattn.datasets.base import Split, caller_level

PARTS = ("train", "valid", "test")


def random_splits(
    labels: Tensor,
    proportions: tuple[float, float, float] = (0.5, 0.25, 0.25),
    count: int = 1,
    seed: int = 0,
    num_classes: int | None = None,
    stratified: bool = False,
) -> list[Split]:
    """Draws splits by proportion among the labelled items.

    Args:
        labels: [n] or [n, T]; items labelled -1 (integers) or NaN (floats) are left out.
        proportions: Of train, valid and test; the rest of a sum below 1 is not used.
        count: Number of splits; split i is drawn with ``seed + i``, so each can be had alone.
        seed: First seed.
        num_classes: If given, every class must occur in every training part.
        stratified: Cut each class of ``labels`` [n] by the proportions.

    Returns:
        ``count`` dicts of sorted int64 indices.

    Raises:
        ValueError: If the proportions are not a split, or a class misses from a training part.
    """
    if min(proportions) < 0 or sum(proportions) > 1 + 1e-9:
        raise ValueError(f"proportions must be positive with a sum of at most 1, got {proportions}")
    items = labelled(labels)
    groups = [items]
    if stratified:
        groups = [items[labels[items] == label] for label in labels[items].unique()]
    splits = []
    for number in range(count):
        generator = torch.Generator().manual_seed(seed + number)
        pieces = [_cut(group, proportions, generator) for group in groups]
        split = {
            key: torch.cat(parts).sort().values
            for key, parts in zip(PARTS, zip(*pieces, strict=True), strict=True)
        }
        if num_classes is not None:
            _need_classes(labels, split["train"], num_classes, seed + number)
        splits.append(split)
    return splits


def _cut(
    items: Tensor, proportions: tuple[float, float, float], generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    order = items[torch.randperm(len(items), generator=generator)]
    a, b, c = (round(sum(proportions[: i + 1]) * len(items)) for i in range(3))
    return order[:a], order[a:b], order[b:c]


def _need_classes(labels: Tensor, train: Tensor, num_classes: int, seed: int) -> None:
    missing = missing_classes(labels, train, num_classes)
    if missing:
        raise ValueError(
            f"the split drawn with seed {seed} has no training item of class {_list(missing)}; "
            "use another seed, a larger training part, or drop the class"
        )


def per_class_split(
    labels: Tensor, num_classes: int, per_class: int = 20, valid: int = 500, test: int = 1000,
    seed: int = 0,
) -> Split:  # fmt: skip
    """Draws a fixed number of training items per class, as tunedGNN and SGFormer do.

    Class by class a random ``per_class`` go to train; the rest, shuffled, fill valid, then test.
    Their published split is the one with seed 123.

    Args:
        labels: int64 [n]; -1 = no label.
        num_classes: Number of classes.
        per_class: Training items per class.
        valid: Validation items.
        test: Test items.
        seed: Seed of the draw.

    Returns:
        A dict of int64 indices.

    Raises:
        ValueError: If a class has no item, or too few items are left for valid and test.
    """
    generator = torch.Generator().manual_seed(seed)
    train, rest = [], []
    for label in range(num_classes):
        items = (labels == label).nonzero().flatten()
        if not len(items):
            raise ValueError(f"class {label} of {num_classes} has no item: cannot train on it")
        items = items[torch.randperm(len(items), generator=generator)]
        train.append(items[:per_class])
        rest.append(items[per_class:])
    others = torch.cat(rest)
    if len(others) < valid + test:
        raise ValueError(
            f"{len(others)} items are left after {per_class} per class, but valid={valid} and "
            f"test={test} are asked; lower them"
        )
    others = others[torch.randperm(len(others), generator=generator)]
    return {
        "train": torch.cat(train),
        "valid": others[:valid],
        "test": others[valid : valid + test],
    }


def labelled(labels: Tensor) -> Tensor:
    """Indices [m] of the items that have a label (not -1; not NaN in every task)."""
    known = ~torch.isnan(labels) if labels.is_floating_point() else labels != -1
    return known.view(len(labels), -1).any(1).nonzero().flatten()


def missing_classes(labels: Tensor, train: Tensor, num_classes: int) -> list[int]:
    """Classes of ``labels`` [n] without an item in ``train``."""
    known = labels.view(-1)[train]
    known = known[torch.isfinite(known)].long() if known.is_floating_point() else known
    count = torch.bincount(known[known >= 0], minlength=num_classes)
    return (count[:num_classes] == 0).nonzero().flatten().tolist()


def check_splits(splits: list[Split], num_items: int, name: str) -> None:
    """Checks that parts are int64, in range, disjoint and without repetition.

    Args:
        splits: Dicts of train, valid, test.
        num_items: Number of nodes or graphs.
        name: Data set name for the messages.

    Raises:
        TypeError: If a part is not int64.
        ValueError: Naming the split, the part and the first offending item.
    """
    for number, split in enumerate(splits):
        if set(split) != set(PARTS):
            raise ValueError(f"{name}: split {number} has {sorted(split)}, expected {list(PARTS)}")
        owner = torch.full((num_items,), -1, dtype=torch.int8)
        for part, key in enumerate(PARTS):
            items, what = split[key], f"{name}: split {number}, {key}"
            _check_part(items, num_items, what)
            taken = owner[items] >= 0
            if taken.any():
                first = int(items[taken][0])
                raise ValueError(
                    f"{what} overlaps {PARTS[int(owner[first])]}: {int(taken.sum())} items are in "
                    f"both (first: {first}); make the parts disjoint"
                )
            owner[items] = part
        if not len(split["train"]):
            raise ValueError(f"{name}: split {number} has an empty training part")


def _check_part(items: Tensor, num_items: int, what: str) -> None:
    if items.dtype != torch.int64 or items.dim() != 1:
        hint = "; convert the mask by mask.nonzero().flatten()" if items.dtype == torch.bool else ""
        raise TypeError(f"{what}: expected int64 [n], got {items.dtype} {list(items.shape)}{hint}")
    if not len(items):
        return
    low, high = int(items.min()), int(items.max())
    if low < 0 or high >= num_items:
        bad = low if low < 0 else high
        raise ValueError(f"{what} holds {bad}, expected 0..{num_items - 1}")
    if len(items.unique()) != len(items):
        raise ValueError(f"{what} lists {len(items) - len(items.unique())} items more than once")


def check_labels(
    labels: Tensor, splits: list[Split], num_classes: int, task: str, name: str
) -> None:
    """Checks the labels of all items that a split uses; warns when training lacks a class.

    Args:
        labels: [n] or [n, T].
        splits: Checked splits.
        num_classes: Number of classes (tasks for multilabel and regression).
        task: ``"multiclass"``, ``"binary"``, ``"multilabel"`` or ``"regression"``.
        name: Data set name for the messages.

    Raises:
        ValueError: If a label is outside the class range; names the first item and its label.
    """
    for number, split in enumerate(splits):
        for key in PARTS:
            _check_values(labels, split[key], num_classes, task, f"{name}: split {number}, {key}")
        if task in ("multiclass", "binary"):
            missing = missing_classes(labels, split["train"], max(num_classes, 2))
            if missing:
                warnings.warn(
                    f"{name}: the training part of split {number} has no item of class "
                    f"{_list(missing)}: no model can learn it",
                    UserWarning,
                    stacklevel=caller_level(),
                )


def _check_values(labels: Tensor, items: Tensor, num_classes: int, task: str, what: str) -> None:
    values = labels[items].view(len(items), -1)
    if task == "regression":
        bad, expected = torch.isinf(values), "a finite number"
    elif task == "multilabel":
        bad = (values != 0) & (values != 1) & (values == values)
        expected = "0, 1 or NaN"
    else:
        classes = max(num_classes, 2)
        bad = ~((values >= 0) & (values < classes))
        expected = f"0..{classes - 1}"
        if values.is_floating_point():
            bad |= values != values.round()
    rows = bad.any(1)
    if rows.any():
        first = int(rows.nonzero()[0])
        value = values[first][bad[first]][0].item()
        raise ValueError(
            f"{what}: {int(rows.sum())} labels are outside the class range, expected {expected} "
            f"(first: item {int(items[first])} has {value}); remap the labels or drop the items"
        )


def _list(classes: list[int]) -> str:
    more = f" and {len(classes) - 10} more" if len(classes) > 10 else ""
    return ", ".join(map(str, classes[:10])) + more
