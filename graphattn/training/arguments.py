"""Command-line arguments of a run: jsonargparse over the dataclasses of ``config.py``.

Layers, the later winning: dataclass defaults, preset (or the configuration of a run that is
resumed or evaluated), ``--config`` file, command line.
"""

from __future__ import annotations

import re
from argparse import SUPPRESS
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import (  # type: ignore[attr-defined]
    ActionConfigFile,
    ArgumentError,
    ArgumentParser,
    Namespace,
)

from graphattn.training import presets
from graphattn.training.config import TrainConfig, flat
from graphattn.training.config_file import (
    check_keys,
    from_dict,
    known_keys,
    near_names,
    read_config,
    read_yaml,
)

# jsonargparse reads "--model X" as "load the section model from the file X"; here it is the name.
SHORTHANDS = {
    "--model": "--model.name",
    "--root": "--data.root",
    "--split": "--data.split",
    "--epochs": "--loop.epochs",
    "--seed": "--loop.seed",
    "--device": "--loop.device",
    "--precision": "--loop.precision",
    "--lr": "--optim.lr",
}
FLAGS = {"--compile": "--loop.compile=true", "--verify": "--verify=true"}
_SECTIONS = ("data", "model", "optim", "encoding", "sampling", "loop")
_KINDS = {
    "<class 'int'>": "an integer",
    "<class 'float'>": "a number",
    "<class 'bool'>": "true or false",
    "<class 'dict'>": "a mapping such as '{residual: true}'",
}
_ACTS_AT_ONCE = ("-h", "--help", "--print_config")


@dataclass(frozen=True)
class Option:
    """An argument of one command that is no setting of a run.

    Attributes:
        name: ``--out`` or, for a positional, ``run``.
        kind: Its type.
        default: Its default.
        help: Its help text.
    """

    name: str
    kind: Any
    default: Any
    help: str


def parse(
    command: str, argv: list[str], options: Iterable[Option] = (), run_key: str | None = None
) -> tuple[TrainConfig, Namespace]:
    """Parses the arguments of a command.

    Args:
        command: For the usage line.
        argv: Arguments after the command.
        options: The command's own arguments; without a positional among them, ``[NAME]`` is the
            data set.
        run_key: The option that names a run folder whose ``config.yaml`` replaces the preset.

    Returns:
        The configuration, and the command's own values.

    Raises:
        ValueError: For unknown settings (near names are listed) and values of a wrong type.
    """
    options = list(options)
    argv = expand(argv)
    _check_options(argv, options)
    # The first pass only finds the names on which the defaults of the second depend.
    first = _parse_once(command, [a for a in argv if not a.startswith(_ACTS_AT_ONCE)], options, {})
    data = first.get("name") or first.data.name
    folder = first.get(run_key) if run_key else None
    base = _of_run(Path(folder)) if folder else presets.preset(data, first.model.name)
    final = _parse_once(command, argv, options, base)
    if folder and final.model.name != base["model.name"]:
        raise ValueError(
            f"{folder} holds model {base['model.name']!r}, asked for {final.model.name!r}; drop "
            "--model, or start a new run with --out"
        )
    if final.get("name"):
        final.data.name = final.name
    sections = {key: final[key].as_dict() for key in _SECTIONS}
    return from_dict(sections), final


def expand(argv: list[str]) -> list[str]:
    """Replaces shorthands: ``--model gt`` by ``--model.name gt``, flags by their settings."""
    expanded = []
    for argument in argv:
        key, equals, value = argument.partition("=")
        key = SHORTHANDS.get(key, key)
        expanded.append(FLAGS.get(argument, key + equals + value))
    return expanded


def _parse_once(
    command: str, argv: list[str], options: list[Option], defaults: dict[str, Any]
) -> Namespace:
    short = ", ".join(f"{key} = {long}" for key, long in SHORTHANDS.items())
    parser = ArgumentParser(
        prog=f"graphattn {command}",
        exit_on_error=False,
        allow_abbrev=False,
        usage=_usage(options),
        epilog=f"Short forms: {short}, --compile = --loop.compile true.",
    )
    if all(option.name.startswith("-") for option in options):
        parser.add_argument("name", nargs="?", help="Data set, short for --data.name.")
    for option in options:
        default = {"default": option.default} if option.name.startswith("-") else {}
        parser.add_argument(option.name, type=option.kind, help=option.help, **default)
    parser.add_argument("--config", action=_CheckedConfig, help="YAML file with settings.")
    parser.add_class_arguments(TrainConfig, None)
    for action in parser._actions:
        if action.dest in _SECTIONS:  # "--model FILE" is not how --model is read here
            action.help = SUPPRESS
    parser.set_defaults(defaults)
    try:
        return parser.parse_args(argv)
    except ArgumentError as error:
        raise ValueError(_plain(str(error))) from error


def _plain(message: str) -> str:
    """jsonargparse's message about a value, without Python's types."""
    found = re.search(
        r'Parser key "([^"]+)":\s+(?:Expected a (.+)\. Got value: |'
        r"Does not validate.*Subtypes: \[([^,]+),.*Given value: )(.*)",
        message,
        re.DOTALL,
    )
    if found is None:
        return message
    key, kind, first_of_union, value = found.groups()
    kind = kind or first_of_union
    choices = re.match(r"typing\.Literal\[(.*)\]", kind)
    wanted = f"one of {choices[1]}".replace("'", "") if choices else _KINDS.get(kind, kind)
    return f"--{key} expects {wanted}, got {value!r}"


def _usage(options: list[Option]) -> str:
    words = [f"[{o.name} {o.name.lstrip('-').upper()}]" for o in options if o.name[0] == "-"]
    positional = [o.name.upper() for o in options if o.name[0] != "-"] or ["[NAME]"]
    return " ".join(["%(prog)s", *positional, "[--model MODEL]", *words, "[--SECTION.SETTING ...]"])


class _CheckedConfig(ActionConfigFile):
    """``--config`` whose unknown keys are named together with near ones."""

    def __call__(
        self, parser: Any, cfg: Any, values: Any, option_string: str | None = None
    ) -> None:
        check_keys(read_yaml(values), str(values))
        super().__call__(parser, cfg, values, option_string)  # type: ignore[no-untyped-call]


def _of_run(folder: Path) -> dict[str, Any]:
    path = folder / "config.yaml"
    if not path.exists():
        raise ValueError(
            f"{folder} holds no config.yaml; expected the folder of a run, as graphattn train "
            "prints it"
        )
    if not read_yaml(path):
        raise ValueError(f"{path} is empty; restore it, or start a new run with --out")
    return flat(read_config(path))


def _check_options(argv: list[str], options: list[Option]) -> None:
    own = [o.name.lstrip("-") for o in options] + ["config", "help", "print_config", "compile"]
    known = known_keys() + own + [key.lstrip("-") for key in SHORTHANDS]
    for argument in argv:
        name = argument.partition("=")[0].removeprefix("--")
        if not argument.startswith("--") or name in known:
            continue
        if not name.startswith(("data.options", "model.options")):
            raise ValueError(f"there is no option --{name}; {near_names(name, known)}")
