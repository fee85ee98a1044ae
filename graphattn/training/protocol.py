"""The published protocol: seeds or fixed splits, the epoch chosen by validation, one table row."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from graphattn.training import recorder as record
from graphattn.training import tasks
from graphattn.training.build import check_values
from graphattn.training.config import TrainConfig, flat
from graphattn.training.inputs import load_items, say
from graphattn.training.run import train_run

RESULTS = "results.json"
# Seed and split vary within a protocol; the others change no number.
_VARY = (
    "loop.seed",
    "data.split",
    "data.root",
    "data.download",
    "loop.device",
    "loop.checkpoint_seconds",
    "loop.tensorboard",
)


def choose_runs(
    num_splits: int, splits: str | None, seeds: int | None, config: TrainConfig
) -> list[tuple[int, int]]:
    """The (split, seed) pairs of a protocol.

    Without options: all fixed splits with one seed, or, where there is one split, OGB's ten seeds.

    Args:
        num_splits: Splits that the data set has.
        splits: ``"all"``, or numbers such as ``"0,1"``, or None.
        seeds: Number of seeds, counted up from ``loop.seed``; or None.
        config: For the first seed.

    Raises:
        ValueError: If a split does not exist or ``seeds`` is below 1.
    """
    if splits is None:
        splits = "all" if seeds is None else str(config.data.split)
    try:
        chosen = range(num_splits) if splits == "all" else [int(s) for s in splits.split(",")]
    except ValueError as error:
        raise ValueError(f"expected --splits all or numbers as in 0,1, got {splits!r}") from error
    missing = [number for number in chosen if not 0 <= number < num_splits]
    if missing:
        raise ValueError(f"expected splits in 0..{num_splits - 1}, got {missing[0]}")
    if seeds is None:
        seeds = 10 if num_splits == 1 else 1
    if seeds < 1:
        raise ValueError(f"expected at least one seed, got --seeds {seeds}")
    return [(split, config.loop.seed + seed) for split in chosen for seed in range(seeds)]


def run_protocol(
    config: TrainConfig,
    folder: Path | None = None,
    splits: str | None = None,
    seeds: int | None = None,
    external_data: bool = False,
) -> dict[str, Any]:
    """Runs all splits and seeds that have no result yet, and summarises.

    Each run has its own folder; the same call after a kill skips what is finished and resumes what
    is not.

    Args:
        config: The runs, up to seed and split.
        folder: Where; None derives a name from the configuration.
        splits: See ``choose_runs``.
        seeds: See ``choose_runs``.
        external_data: Whether data outside the data set were used, for the leaderboard.

    Returns:
        The content of ``results.json``: ``summary`` and ``runs``.
    """
    dataset = load_items(config.data)
    pairs = choose_runs(len(dataset.splits), splits, seeds, config)
    check_values(config)  # before the folder is made: a wrong name leaves none
    folder = default_folder(config) if folder is None else folder
    _claim(folder, config)
    results = []
    for number, (split, seed) in enumerate(pairs, 1):
        say(f"run {number} of {len(pairs)}: split {split}, seed {seed}")
        results.append(_one_run(config, folder / f"split{split}-seed{seed}", split, seed, dataset))
    summary = summarise(results) | {"external_data": external_data}
    content = {"summary": summary, "runs": results, "config": asdict(config)}
    record.write_json(folder / RESULTS, content)
    return content | {"folder": str(folder)}


def _one_run(
    config: TrainConfig, folder: Path, split: int, seed: int, dataset: Any
) -> dict[str, Any]:
    done = record.read_json(folder / record.RESULT)
    if done is not None:
        return done
    own = copy.deepcopy(config)
    own.data.split, own.loop.seed = split, seed
    return train_run(own, folder, resume=(folder / record.CONFIG).exists(), dataset=dataset)


def default_folder(config: TrainConfig) -> Path:
    """``runs/protocol-<data>-<model>-<hash>``: the same settings find their folder again."""
    digest = hashlib.sha256(json.dumps(_settings(config), sort_keys=True).encode()).hexdigest()
    return Path("runs") / f"protocol-{Path(config.data.name).name}-{config.model.name}-{digest[:8]}"


def _settings(config: TrainConfig) -> dict[str, Any]:
    """The settings that a result depends on, up to split and seed."""
    return {key: value for key, value in flat(config).items() if key not in _VARY}


def _claim(folder: Path, config: TrainConfig) -> None:
    """Marks a folder as belonging to these settings, or refuses one that belongs to others.

    A setting that came later than the folder has its default there: what the run did without it.
    """
    path = folder / "protocol.json"
    held, wanted = record.read_json(path), _settings(config)
    if held is not None and (held := _settings(TrainConfig()) | held) != wanted:
        differ = [
            f"{key} {held[key]} there, {value} now"
            for key, value in wanted.items()
            if held[key] != value
        ]
        raise ValueError(
            f"{folder} holds results of other settings ({'; '.join(differ)}); give another --out"
        )
    folder.mkdir(parents=True, exist_ok=True)
    record.write_json(path, wanted)


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and unbiased standard deviation (divided by n - 1; None for one value)."""
    numbers = torch.tensor(list(values), dtype=torch.float64)
    return numbers.mean().item(), numbers.std().item() if len(numbers) > 1 else None


def summarise(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The leaderboard's fields from finished runs of one model on one data set."""
    first = results[0]
    shared = ("data", "model", "metric", "parameters", "hardware", "split_note", "edge_note")
    summary = {key: first[key] for key in shared}
    for part in ("test", "valid"):
        values = [result[part] for result in results if result[part] is not None]
        mean, deviation = mean_and_deviation(values) if values else (None, None)
        summary[part] = {"mean": mean, "std": deviation, "runs": len(values)}
    summary["seconds_per_epoch"] = mean_and_deviation([r["seconds_per_epoch"] for r in results])[0]
    summary["runs"] = len(results)
    summary["splits"] = sorted({result["split"] for result in results})
    summary["seeds"] = sorted({result["seed"] for result in results})
    return summary


def row(summary: dict[str, Any]) -> dict[str, str]:
    """Column names and cells of the table that leaderboards ask for; scores in percent."""
    metric = summary["metric"]
    unit = f"{metric} %" if tasks.larger_is_better(metric) else metric
    splits, seeds = _span(summary["splits"]), _span(summary["seeds"])
    return {
        "data": summary["data"],
        "model": summary["model"],
        f"test {unit}": _cell(summary["test"], metric),
        f"validation {unit}": _cell(summary["valid"], metric),
        "runs": f"{summary['runs']} (splits {splits}; seeds {seeds})",
        "parameters": f"{summary['parameters']:,}",
        "s/epoch": f"{summary['seconds_per_epoch']:.3g}",
    }


def remarks(summary: dict[str, Any]) -> dict[str, str]:
    """What leaderboards ask for besides ``row``, as lines below the table."""
    return {
        "hardware": summary["hardware"],
        "split": summary["split_note"],
        "edges": summary["edge_note"],
        "external data": "yes" if summary["external_data"] else "no",
    }


def _cell(score: dict[str, Any], metric: str) -> str:
    if score["mean"] is None:
        return "n/a"
    factor, digits = (100, 2) if tasks.larger_is_better(metric) else (1, 4)
    deviation = "" if score["std"] is None else f" ± {factor * score['std']:.{digits}f}"
    return f"{factor * score['mean']:.{digits}f}{deviation}"


def _span(numbers: list[int]) -> str:
    contiguous = len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1))
    return f"{numbers[0]}-{numbers[-1]}" if contiguous else ",".join(map(str, numbers))
