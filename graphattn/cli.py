"""The command ``graphattn``: train, evaluate, protocol, partition, info.

Torch, PyG and Numba are imported by the commands that need them, not for ``--help``.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphattn.training.config import TrainConfig

USAGE = """usage: graphattn COMMAND [ARGUMENTS]

commands:
  train [NAME]      train a model on a data set, one graph or many; without arguments, a graph
                    transformer on the generated minesweeper graph (two minutes on two cores,
                    no download)
  evaluate RUN      compute the scores of a finished run anew
  protocol [NAME]   run seeds or fixed splits and print the leaderboard's row
  partition [NAME]  write a data set as a store on disk (--out FOLDER), for graphs beyond memory
  info [NAME]       sizes, degrees, homophily, splits, and the memory that training needs;
                    with --verify, a store's files against their checksums

graphattn COMMAND NAME --model MODEL --help lists the settings with their defaults. Settings
come from the preset of data set and model, then from --config FILE, then from the command line.
Short forms: --model, --root, --split, --epochs, --lr, --seed, --device, --precision, --compile.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: Arguments without the program's name; None takes the process's.

    Returns:
        Exit code: 0; 1 for an error while running; 2 for wrong arguments; 130 after Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else argv
    commands = {
        "train": train,
        "evaluate": evaluate,
        "protocol": protocol,
        "partition": partition,
        "info": info,
    }
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if argv else 2
    if argv[0] not in commands:
        from graphattn.training.config_file import near_names

        remedy = near_names(argv[0], commands)
        return _fail(f"there is no command {argv[0]!r}; {remedy}", 2)
    form = warnings.formatwarning
    warnings.formatwarning = _format_warning
    try:
        return commands[argv[0]](argv[1:])
    except UsageError as error:
        return _fail(f"{argv[0]}: {error}", 2)
    except (ValueError, TypeError, OSError, FloatingPointError, RuntimeError) as error:
        # Errors that name their remedy need no stack; a developer asks for it by the variable.
        if os.environ.get("GRAPHATTN_TRACEBACK"):
            raise
        return _fail(f"{argv[0]}: {error}", 1)
    except KeyboardInterrupt:
        return _fail(f"{argv[0]}: stopped at once; the last checkpoint is kept", 130)
    finally:
        warnings.formatwarning = form


class UsageError(Exception):
    """Wrong arguments."""


def _format_warning(message: Warning | str, *_place: object, **_line: object) -> str:
    """A warning without the source line that raised it, which says nothing to a user."""
    return f"graphattn: {message}\n"


def _fail(message: str, code: int) -> int:
    print(f"graphattn {message}", file=sys.stderr)
    return code


def _parse(command: str, argv: list[str], *options: Any, run_key: str | None = None) -> Any:
    from graphattn.training.arguments import parse

    try:
        return parse(command, argv, options, run_key)
    except ValueError as error:
        raise UsageError(error) from error


def _option(name: str, kind: Any, default: Any, text: str) -> Any:
    from graphattn.training.arguments import Option

    return Option(name, kind, default, text)


def train(argv: list[str]) -> int:
    """``graphattn train [NAME] [--out RUN] [--resume RUN] [settings]``."""
    out = _option("--out", str | None, None, "Run folder; default runs/DATA-MODEL-TIME.")
    resume = _option("--resume", str | None, None, "Run folder to continue.")
    config, own = _parse("train", argv, out, resume, run_key="resume")
    if own.resume and own.out:
        raise UsageError(
            f"--resume {own.resume} goes on in its own folder; drop --out {own.out}, or drop "
            "--resume to start a new run there"
        )
    from graphattn.training import recorder
    from graphattn.training.distributed import launched, launched_first
    from graphattn.training.run import Interrupted, train_run

    first = launched_first()
    if launched() and not (own.resume or own.out):
        raise UsageError("several processes need one run folder; give --out FOLDER")
    if own.resume:
        folder = Path(own.resume)
    elif not first:
        folder = Path(own.out)
    else:
        folder = recorder.new_folder(own.out, config.data.name, config.model.name)
    try:
        result = train_run(config, folder, resume=bool(own.resume))
    except Interrupted as stop:
        print(f"stopped; continue with: graphattn train --resume {folder}", file=sys.stderr)
        if first:
            _write_curves(folder)
        return 128 + stop.number
    if first:
        _print_result(result, folder)
        _write_curves(folder)
    return 0


def _write_curves(folder: Path) -> None:
    try:
        from graphattn.plots import training_curves

        training_curves(folder).savefig(folder / "curves.png", dpi=120)
    except Exception as error:  # whatever the drawing library raises, the run is finished
        print(f"graphattn: no {folder / 'curves.png'} ({error})", file=sys.stderr)


def _print_result(result: dict[str, Any], folder: Path) -> None:
    _print_scores(result)
    print(f"best epoch   {result['best_epoch']} of {result['epochs']}")
    print(f"epoch time   {result['seconds_per_epoch']:.3f} s (median, without the first epoch)")
    print(f"peak memory  {result['peak_memory'] / 2**20:,.0f} MiB")
    print(f"hardware     {result['hardware']}")
    print(f"run          {folder}")


def _print_scores(result: dict[str, Any]) -> None:
    print(f"data         {result['data']}, split {result['split']} ({result['split_note']})")
    print(f"model        {result['model']}, {result['parameters']:,} parameters")
    for part, name in (("train", "training"), ("valid", "validation"), ("test", "test")):
        value = "n/a (no labels)" if result[part] is None else f"{result[part]:.4f}"
        print(f"{name:<12} {value} {result['metric']}")


def evaluate(argv: list[str]) -> int:
    """``graphattn evaluate RUN [settings]``."""
    run = _option("run", str, None, "Run folder.")
    config, own = _parse("evaluate", argv, run, run_key="run")
    from graphattn.training.evaluate import evaluate_run

    _print_scores(evaluate_run(config, Path(own.run)))
    return 0


def protocol(argv: list[str]) -> int:
    """``graphattn protocol [NAME] [--seeds K] [--splits all|0,1] [--out FOLDER] [settings]``."""
    config, own = _parse(
        "protocol",
        argv,
        _option("--seeds", int | None, None, "Number of seeds; 10 where there is one split."),
        _option("--splits", str | None, None, "all, or numbers as in 0,1; all without --seeds."),
        _option("--out", str | None, None, "Folder; the same settings find theirs again."),
        _option("--external_data", bool, False, "Whether data from elsewhere were used."),
    )
    from graphattn.training.distributed import launched

    if launched():
        raise UsageError("a protocol runs in one process; use torchrun with graphattn train")
    from graphattn.training.protocol import remarks, row, run_protocol
    from graphattn.training.run import Interrupted

    folder = None if own.out is None else Path(own.out)
    try:
        content = run_protocol(config, folder, own.splits, own.seeds, own.external_data)
    except Interrupted as stop:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 128 + stop.number
    from tabulate import tabulate

    cells = row(content["summary"])
    print(tabulate([cells], headers="keys", tablefmt="github", disable_numparse=True) + "\n")
    for name, value in remarks(content["summary"]).items():
        print(f"{name:<14} {value}")
    print(f"\nresults in {content['folder']}/results.json", file=sys.stderr)
    return 0


def partition(argv: list[str]) -> int:
    """``graphattn partition [NAME] --out FOLDER [--parts P] [--hops 2] [settings]``.

    With ``--encoding.kind laplacian`` (and ``--encoding.k``) the encoding is written too.
    """
    config, own = _parse(
        "partition",
        argv,
        _option("--out", str | None, None, "Folder of the store; the same command resumes."),
        _option("--dtype", str | None, None, "Features as fp32, fp16 or bf16; as they are."),
        _option("--parts", int, 0, "Also write the part of every node into part.npy."),
        _option("--method", str, "auto", "Of the parts: bfs, or metis (pymetis)."),
        _option("--hops", int, 0, "Also write features averaged over hops; large-gt reads 2."),
    )
    if own.out is None:
        raise UsageError("--out FOLDER is needed: where the store is written")
    from graphattn.training.inputs import load_nodes
    from graphattn.training.partition import to_store

    undirected, config.data.undirected = config.data.undirected, False  # done on disk
    store = to_store(
        load_nodes(config.data), Path(own.out), method=own.method, dtype=own.dtype,
        undirected=undirected, parts=own.parts, hops=own.hops,
        direction=config.sampling.direction, encoding=config.encoding,
    )  # fmt: skip
    print(f"store        {own.out}: {store.num_nodes:,} nodes, {store.graph.num_edges:,} edges")
    print(f"arrays       {', '.join(store.names)}")
    print(f"train on it  graphattn train {own.out} --sampling.batch_size 1024")
    return 0


def info(argv: list[str]) -> int:
    """``graphattn info [NAME] [--verify] [settings]``."""
    text = "Flag: first compare every file of a store with its SHA-256."
    config, own = _parse("info", argv, _option("--verify", bool, False, text))
    from graphattn.training.build import check_values
    from graphattn.training.info import describe_data
    from graphattn.training.inputs import load_nodes

    check_values(config)
    if own.verify:
        _verify(config)
    dataset = load_nodes(config.data)
    for name, value in (describe_data(dataset) | _memory(config, dataset)).items():
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
        print(f"{name:<28} {shown}")
    return 0


def _verify(config: TrainConfig) -> None:
    from graphattn.graph.store import Store
    from graphattn.training.inputs import store_place

    place = store_place(config.data)
    if place is None:
        raise UsageError(
            f"--verify compares a store with its checksums, and {config.data.name} is none; write "
            f"one with graphattn partition {config.data.name} --out FOLDER"
        )
    store = Store(place)
    store.verify()
    print(f"{'checksums':<28} {len(store.meta['arrays'])} files are as they were written")


def _memory(config: TrainConfig, dataset: Any) -> dict[str, str]:
    from graphattn.training.memory import training_bytes

    need = training_bytes(config, dataset)
    parts = ", ".join(f"{part} {size / 2**20:,.0f}" for part, size in need.items())
    model = f"{config.model.name} of {config.model.layers} layers, width {config.model.width}"
    total = f"{sum(need.values()) / 2**20:,.0f} MiB beyond the process itself"
    return {"memory to train": f"{total} ({model}; estimate: {parts})"}


if __name__ == "__main__":
    sys.exit(main())
