"""Write what was measured: a Markdown table, the raw JSON and a plot per family."""

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "numba", "triton", "torch-geometric", "numpy")


def machine(device: str) -> str:
    """Device, threads and versions that a figure belongs to."""
    chip = torch.cuda.get_device_name() if device == "cuda" else _processor()
    found = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"{chip}, {torch.get_num_threads()} threads; {found}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def written(family: str, device: str) -> list[dict[str, Any]]:
    """Rows of a table that was written before, none where it was not."""
    path = RESULTS / f"{family}-{device}.json"
    found: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
    return found


def write(
    family: str,
    device: str,
    repeats: int,
    rows: list[dict[str, Any]],
    notes: list[str],
    compiled: bool = True,
) -> Path:
    """Write ``results/<family>-<device>.{md,json,png}`` and return the Markdown file."""
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"{family}-{device}"
    table = tabulate(rows, headers="keys", tablefmt="github", floatfmt=".2f")
    options = f"--only {family} --device {device} --repeats {repeats}"
    options += "" if compiled else " --eager"
    command = f"python examples/bench/run.py {options}"
    head = f"# {family} on {device}\n\n`{command}`\n\n{machine(device)}\n"
    body = "\n".join(f"- {note}" for note in notes)
    stem.with_suffix(".md").write_text(f"{head}\n{table}\n\n{body}\n")
    stem.with_suffix(".json").write_text(json.dumps({"rows": rows, "notes": notes}, indent=1))
    if any(key.startswith("÷") for key in rows[0]):
        _plot(stem.with_suffix(".png"), rows)
    return stem.with_suffix(".md")


def _plot(path: Path, rows: list[dict[str, Any]]) -> None:
    """Bars of every ratio column: how many times slower each peer is."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    peers = [key for key in rows[0] if key.startswith("÷")]
    figure, axes = plt.subplots(figsize=(7, 0.5 + 0.5 * len(rows)), layout="constrained")
    for shift, peer in enumerate(peers):
        values = [row[peer] if isinstance(row[peer], float) else 0.0 for row in rows]
        places = [i + (shift - len(peers) / 2) * 0.8 / len(peers) for i in range(len(rows))]
        axes.barh(places, values, height=0.8 / len(peers), align="edge", label=peer[1:].strip())
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [str(row["workload"]) for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("time of the peer ÷ time of graphattn")
    axes.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
