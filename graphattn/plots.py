"""Figures; they are returned, never shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def training_curves(path: Path | str) -> Figure:
    """Loss, and training and validation score, over the epochs of a run.

    The metric's name and the best epoch come from ``result.json``, once the run is finished.

    Args:
        path: Run folder, or its ``metrics.jsonl``.

    Returns:
        A matplotlib figure; ``figure.savefig("curves.png")`` writes it.

    Raises:
        ValueError: If no epoch is recorded there.
    """
    # Figure without pyplot: no window system is touched and nothing stays registered globally.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    entries = _entries(Path(path))
    result = _result(Path(path), entries[-1]["epoch"])
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([e["epoch"] for e in entries], [e["loss"] for e in entries], color="tab:gray")
    left.set(xlabel="epoch", ylabel="training loss")
    evaluated = [entry for entry in entries if "valid" in entry]
    for part, color in (("train", "tab:blue"), ("valid", "tab:orange")):
        scores = [entry[part] for entry in evaluated]
        right.plot([e["epoch"] for e in evaluated], scores, label=part, color=color)
    if "best_epoch" in result:
        best = result["best_epoch"]
        right.axvline(best, color="tab:green", linestyle=":", label=f"best epoch {best}")
    right.set(xlabel="epoch", ylabel=result.get("metric", "score"))
    right.legend()
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    return figure


def _result(path: Path, last_epoch: int) -> dict[str, Any]:
    """``result.json`` of the run, unless the run has gone on since it was written."""
    import json

    file = (path if path.is_dir() else path.parent) / "result.json"
    result = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return result if result.get("epochs") == last_epoch else {}


def _entries(path: Path) -> list[dict[str, Any]]:
    import json

    path = path / "metrics.jsonl" if path.is_dir() else path
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    entries = [json.loads(line) for line in lines if line.endswith("}")]
    if not entries:
        raise ValueError(f"{path} records no epoch; expected the folder of a run")
    return entries
