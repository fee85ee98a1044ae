"""One training run in its folder, from the first epoch or from a checkpoint, to its result."""

from __future__ import annotations

import signal
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from graphattn.training import recorder as record
from graphattn.training.build import Prepared, prepare
from graphattn.training.checkpoint import (
    BEST,
    CHECKPOINT,
    check_identity,
    load_checkpoint,
    save_checkpoint,
    save_weights,
)
from graphattn.training.config import TrainConfig
from graphattn.training.config_file import write_config
from graphattn.training.distributed import agreed, process_group, rank
from graphattn.training.evaluate import best_scores, describe_run
from graphattn.training.hardware import describe, peak_memory
from graphattn.training.inputs import say
from graphattn.training.loop import Trainer

if TYPE_CHECKING:
    from graphattn.datasets.base import NodeDataset


class Interrupted(Exception):
    """A run was stopped by a signal after it had saved a checkpoint.

    Attributes:
        folder: Run folder to resume from.
        number: The signal.
    """

    def __init__(self, folder: Path, number: int) -> None:
        super().__init__(f"stopped by signal {number}; checkpoint saved in {folder}")
        self.folder, self.number = folder, number


@dataclass
class Stop:
    """Set by the first Ctrl-C or termination signal; a second one acts at once."""

    number: int = 0


@contextmanager
def stop_between_epochs() -> Iterator[Stop]:
    """Turns SIGINT and SIGTERM into a flag, so that no step is cut in half.

    Outside the main thread, where Python allows no handlers, the flag is never set.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, _frame: object) -> None:
        stop.number = number
        signal.signal(number, before[number])
        say("\nstopping after this epoch; once more stops at once")

    numbers: tuple[int, ...] = signal.SIGINT, signal.SIGTERM
    before = {number: signal.getsignal(number) for number in numbers}
    for number in before:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train_run(
    config: TrainConfig, folder: Path, *, resume: bool = False, dataset: NodeDataset | None = None
) -> dict[str, Any]:
    """Trains, keeps the best validation epoch, and scores it once on the test nodes.

    Args:
        config: The run.
        folder: Its folder (``recorder.new_folder``, or that of the run to resume).
        resume: Continue from the folder's checkpoint; without one yet, start at epoch 0.
        dataset: The data set, if it is loaded already.

    Returns:
        The content of ``result.json``.

    Raises:
        Interrupted: After Ctrl-C; the checkpoint is written.
        FloatingPointError: If the loss or a score becomes NaN or infinite.
        ValueError: If the checkpoint is of another model.
    """
    with process_group():
        return _train_run(config, folder, resume, dataset)


def _train_run(
    config: TrainConfig, folder: Path, resume: bool, dataset: NodeDataset | None
) -> dict[str, Any]:
    run = prepare(config, dataset)
    trainer = Trainer(run.model, run.inputs, run.supervision, config)
    folder.mkdir(parents=True, exist_ok=True)  # not before: a wrong name leaves no folder
    recorder = record.Recorder(folder, config.loop.tensorboard, silent=rank() > 0)
    if resume:
        _restore(trainer, folder, run.identity)
    recorder.keep_until(trainer.epoch)
    if rank() == 0:
        write_config(config, folder / record.CONFIG)
    try:
        with stop_between_epochs() as stop:
            _fit(trainer, recorder, folder, run.identity, stop)
    finally:
        recorder.close()
    agreed(0)  # the other ranks read the weights that rank 0 has written by now
    result = _result(config, run, trainer, folder)
    if rank() == 0:
        record.write_json(folder / record.RESULT, result)
    return result


def _restore(trainer: Trainer, folder: Path, identity: dict[str, Any]) -> None:
    path = folder / CHECKPOINT
    if not path.exists():
        say(f"{folder} has no checkpoint yet: starting at epoch 0")
        return
    state = load_checkpoint(path)
    check_identity(path, state["identity"], identity)
    trainer.load_state_dict(state["trainer"])
    say(f"continuing {folder} after epoch {trainer.epoch}")


def _fit(
    trainer: Trainer, recorder: record.Recorder, folder: Path, identity: dict[str, Any], stop: Stop
) -> None:
    interval = trainer.config.loop.checkpoint_seconds
    saved = time.monotonic()
    epochs = trainer.config.loop.epochs
    if trainer.epoch == 0:
        say("epoch 1 takes longer where kernels are compiled at their first use")
    hidden = True if rank() else None
    with tqdm(total=epochs, initial=trainer.epoch, unit="epoch", disable=hidden) as bar:
        while not trainer.finished:
            entry = trainer.run_epoch()
            try:
                recorder.write(entry)
            except OSError:
                _save_if_possible(trainer, folder, identity)
                raise
            if bar.disable and trainer.epoch % max(1, epochs // 10) == 0:
                say(f"epoch {trainer.epoch} of {epochs}, best validation {_status(trainer)}")
            bar.set_postfix_str(f"validation {_status(trainer)}", refresh=False)
            bar.update()
            stop.number = agreed(stop.number)
            if stop.number or time.monotonic() - saved >= interval:
                save(trainer, folder, identity)
                saved = time.monotonic()
            if stop.number:
                raise Interrupted(folder, stop.number)
    save(trainer, folder, identity)


def _save_if_possible(trainer: Trainer, folder: Path, identity: dict[str, Any]) -> None:
    """``save`` after another write has failed, whose error is the one to raise."""
    try:
        save(trainer, folder, identity)
    except OSError as error:
        say(str(error))


def _status(trainer: Trainer) -> str:
    best = trainer.best
    return f"{best.valid:.4f} at epoch {best.epoch}" if best.epoch else "not evaluated yet"


def save(trainer: Trainer, folder: Path, identity: dict[str, Any]) -> None:
    """Writes the best weights if they are new, then the checkpoint.

    In this order a kill in between loses nothing: the resumed run repeats the epochs since the
    older checkpoint and finds the same best weights again. Only rank 0 writes.
    """
    if rank() > 0:
        trainer.best_weights = None
        return
    if trainer.best_weights is not None:
        note = {"model": str(identity["model.name"]), "epoch": str(trainer.best.epoch)}
        save_weights(folder / BEST, trainer.best_weights, note)
        trainer.best_weights = None
    state = {"identity": identity, "trainer": trainer.state_dict()}
    save_checkpoint(folder / CHECKPOINT, state)


def _result(config: TrainConfig, run: Prepared, trainer: Trainer, folder: Path) -> dict[str, Any]:
    seconds = [entry["seconds"] for entry in record.read_metrics(folder / record.METRICS)]
    steady = seconds[1:] or seconds  # kernels are compiled in the first epoch
    device = run.inputs.device
    return {
        **describe_run(config, run),
        **best_scores(run, folder, config.loop.precision),
        "best_epoch": trainer.best.epoch,
        "epochs": trainer.epoch,
        "seconds_per_epoch": statistics.median(steady),
        "seconds": sum(seconds),
        "peak_memory": peak_memory(device),
        "hardware": describe(device),
    }
