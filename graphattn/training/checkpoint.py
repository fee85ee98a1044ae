"""Checkpoints that survive: written to a temporary name, then renamed."""

from __future__ import annotations

import io
import os
import textwrap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graphattn.training.config import TrainConfig, flat

CHECKPOINT = "checkpoint.pt"
BEST = "best.safetensors"


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all.

    The bytes go to a temporary file beside ``path``, are flushed to the disk and renamed: a kill
    or a full disk leaves the old file as it was.

    Raises:
        OSError: As the file system reports it, with what survived and the remedy.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _write_flushed(temporary, content)
        os.replace(temporary, path)
    except OSError as error:
        kept = "the previous file is intact" if path.exists() else "nothing was written"
        raise OSError(
            error.errno,
            f"cannot write {len(content):,} bytes to {path} ({error.strerror or error}); {kept}: "
            "free space or permissions there, then go on with --resume",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _write_flushed(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes a resumable state: nested dictionaries of tensors and plain values.

    Serialised in memory first (its size, once more), because torch's writer turns a full disk
    into an unspecific error.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads what ``save_checkpoint`` wrote; no pickled code is run (``weights_only=True``).

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If the file is truncated or not a checkpoint.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"there is no checkpoint {path}; expected a run folder written by graphattn train"
        )
    try:
        found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return found
    except Exception as error:
        raise ValueError(
            f"{path} is not a complete checkpoint ({type(error).__name__}: {error}); "
            "train into a new folder with --out"
        ) from error


def check_identity(path: Path, held: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuses a checkpoint of another model, data set or optimiser.

    Args:
        path: For the message.
        held: ``identity`` in the checkpoint.
        wanted: ``identity`` of the run that should continue.

    A setting that came later than the checkpoint has its default there: what the run did
    without it.

    Raises:
        ValueError: Naming both sides.
    """
    held = {key: value for key, value in flat(TrainConfig()).items() if key in wanted} | held
    if held == wanted:
        return
    keys = [key for key in {**held, **wanted} if held.get(key) != wanted.get(key)]
    one, other = (
        f"model {side.get('model.name')!r} ({', '.join(f'{k} {side.get(k)}' for k in keys)})"
        for side in (held, wanted)
    )
    raise ValueError(
        f"{path} holds {one}, but this run asks for {other}; drop the options that differ, or "
        "train into a new folder with --out"
    )


def save_weights(path: Path, state: dict[str, Tensor], note: dict[str, str]) -> None:
    """Writes a state dict as safetensors with string metadata."""
    from safetensors.torch import save

    write_bytes(path, save({k: v.detach().cpu().contiguous() for k, v in state.items()}, note))


def load_weights(path: Path, model: nn.Module) -> None:
    """Loads safetensors weights into a model.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, or names or shapes differ from the model's.
    """
    from safetensors.torch import load

    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; expected a run folder with trained weights")
    content = path.read_bytes()
    try:
        state = load(content)
    except Exception as error:
        raise ValueError(
            f"{path} is damaged ({error}); restore it from a copy, or train again: graphattn train "
            f"--config {path.with_name('config.yaml')} --out NEW"
        ) from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        # torch lists every tensor below a title; the first shows what differs.
        lines = str(error).splitlines()[1:2] or [str(error)]
        reason = textwrap.shorten(lines[0], 170, placeholder=" ...")
        raise ValueError(
            f"{path} does not fit a {type(model).__name__} of this configuration "
            f"({reason}); drop the --model settings that differ from the run's config.yaml"
        ) from error
