"""Configurations as dictionaries and YAML files; unknown settings are named with near ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from graphattn.training.config import TrainConfig


def known_keys(kind: type[Any] = TrainConfig) -> list[str]:
    """Dotted names of all settings, sections included: ``["data", "data.name", ...]``."""
    keys: list[str] = []
    hints = get_type_hints(kind)
    for item in fields(kind):
        keys.append(item.name)
        if is_dataclass(hints[item.name]):
            keys += [f"{item.name}.{key}" for key in known_keys(hints[item.name])]
    return keys


def near_names(name: str, names: Iterable[str]) -> str:
    """The remedy of an unknown name: ``did you mean ...?`` or the list of all names."""
    names = list(names)
    # "layer" must find "model.layers", so the last parts are compared as well.
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    last = name.rpartition(".")[2]
    tails = difflib.get_close_matches(last, [n.rpartition(".")[2] for n in names], n=3, cutoff=0.75)
    close += [n for n in names if n.rpartition(".")[2] in tails and n not in close]
    if close:
        return f"did you mean {', '.join(close)}?"
    return f"known are {', '.join(names)}"


def check_keys(nested: dict[str, Any], origin: str) -> None:
    """Raises ``ValueError`` for a setting that does not exist, naming near ones.

    Args:
        nested: Settings as read from YAML.
        origin: Where they came from, for the message.
    """
    known = known_keys()
    for key in _flat_keys(nested):
        if key not in known and not key.startswith(("data.options.", "model.options.")):
            raise ValueError(f"{origin}: there is no setting {key!r}; {near_names(key, known)}")


def _flat_keys(nested: dict[str, Any]) -> list[str]:
    keys: list[str] = []
    for key, value in nested.items():
        keys.append(str(key))
        if isinstance(value, dict):
            keys += [f"{key}.{inner}" for inner in _flat_keys(value)]
    return keys


def from_dict(nested: dict[str, Any], origin: str = "configuration") -> TrainConfig:
    """Builds a ``TrainConfig`` from nested dictionaries; what is missing keeps its default.

    Raises:
        ValueError: For a setting that does not exist; the message lists near names.
    """
    check_keys(nested, origin)
    sections = get_type_hints(TrainConfig)
    return TrainConfig(
        **{name: sections[name](**(values or {})) for name, values in nested.items()}
    )


def read_config(path: Path | str) -> TrainConfig:
    """Reads a ``config.yaml`` written by ``write_config``."""
    return from_dict(read_yaml(path), str(path))


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Reads a YAML mapping; an empty file is an empty mapping.

    Raises:
        ValueError: If there is no such file, it holds something else, or is not YAML.
    """
    import yaml

    try:
        nested = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ValueError(f"cannot read settings from {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: expected YAML settings, got {error}") from error
    if not isinstance(nested, dict):
        raise ValueError(
            f"{path}: expected a mapping such as 'model: {{layers: 4}}', got "
            f"{type(nested).__name__}"
        )
    return nested


def write_config(config: TrainConfig, path: Path | str) -> None:
    """Writes all settings as YAML, whole or not at all, to be fed back with ``--config``."""
    import yaml

    # Here, because --help reads this module and must not load torch.
    from graphattn.training.checkpoint import write_bytes

    text = yaml.safe_dump(asdict(config), sort_keys=False)
    write_bytes(Path(path), text.encode())
