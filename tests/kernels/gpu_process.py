"""GPU kernels without a GPU: other processes that interpret them or compile them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*arguments: str, interpret: bool) -> str:
    """What Python prints with these arguments; fails with its last lines."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), *sys.path]))
    environment.pop("TRITON_INTERPRET", None)
    if interpret:
        environment["TRITON_INTERPRET"] = "1"
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return done.stdout


def interpret(chosen: str, *names: str) -> str:
    """Runs the ``chosen`` tests (pytest's -m) of files of this folder in Triton's interpreter."""
    tests = [str(ROOT / "tests" / "kernels" / f"{name}.py") for name in names]
    options = "-q", "-x", "-p", "no:cacheprovider", "-m", chosen
    return run("-m", "pytest", *options, *tests, interpret=True)


def table_of(script: str, *arguments: str) -> list[list[str]]:
    """Cells of the table that a script of this folder prints."""
    table = run(str(ROOT / "tests" / "kernels" / script), *arguments, interpret=False)
    return [line.strip("| ").split(" | ") for line in table.splitlines()]
