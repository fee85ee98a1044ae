"""Imports flow one way; files and functions stay short."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "graphattn"

# Lower number = lower floor. A module may import from its own floor or below.
FLOORS = {
    "errors": 0,
    "cache": 0,
    "kernels": 0,
    "graph": 1,
    "ops": 2,
    "encodings": 3,
    "nn": 4,
    "sampling": 4,
    "transforms": 4,
    "models": 5,
    "datasets": 5,
    "training": 6,
    "plots": 7,
    "explain": 7,
    "testing": 7,
    "cli": 8,
    "__init__": 9,
    "__main__": 9,
}
STRANGERS = {("models", "datasets"), ("datasets", "models"), ("plots", "training")}
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}


def source_files() -> list[Path]:
    folders = [PACKAGE, PACKAGE / "kernels", PACKAGE / "datasets"]
    found = set()
    for folder in folders:
        found |= {p for p in folder.glob("**/*.py") if "__pycache__" not in p.parts}
    return sorted(found)


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports_of(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in found if name.split(".")[0] == "graphattn"]


def violations(module: str, tree: ast.AST) -> list[str]:
    here = room(module)
    if here == "__init__":  # the package's own lazy exports
        return []
    bad = []
    for name in imports_of(tree):
        there = room(name)
        if there == here or there not in FLOORS:
            continue
        if FLOORS[there] >= FLOORS[here] or (here, there) in STRANGERS:
            bad.append(f"{module} imports {name}")
    return bad


def test_every_source_file_is_visited() -> None:
    real = {p for top in ("kernels", "datasets") for p in (ROOT / top).glob("**/*.py")}
    seen = {p.resolve() for p in source_files()}
    assert {p.resolve() for p in real if "__pycache__" not in p.parts} <= seen
    rooms = {room(module_of(p)) for p in source_files()}
    assert rooms <= set(FLOORS), f"give these rooms a floor: {rooms - set(FLOORS)}"


def test_imports_flow_one_way() -> None:
    bad = []
    for path in source_files():
        bad += violations(module_of(path), ast.parse(path.read_text()))
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("graphattn.graph.csr", "from graphattn.ops import attention"),
        ("graphattn.kernels.cpu.attention", "import graphattn.graph.csr"),
        ("graphattn.models.large_gt", "def f():\n    from graphattn.datasets import ogbn"),
    ],
)
def test_a_planted_violation_is_found(module: str, line: str) -> None:
    assert violations(module, ast.parse(line))


def test_kernels_import_no_other_implementation() -> None:
    for path in (ROOT / "kernels").glob("*/*.py"):
        for name in imports_of(ast.parse(path.read_text())):
            other = name.split(".")[2:3]
            allowed = [path.parent.name, "layout", "score", "grid"]
            assert not other or other[0] in allowed, f"{path} imports {name}"


def test_files_and_functions_are_short() -> None:
    long = []
    for path in source_files():
        text, name = path.read_text(), str(path.relative_to(PACKAGE))
        limit = 400 if name.startswith(("kernels/gpu", "kernels/cpu")) else 300
        if text.count("\n") > limit and name not in LONG_FILES:
            long.append(f"{name}: {text.count(chr(10))} lines, limit {limit}")
        if name.startswith(("kernels/gpu", "kernels/cpu")):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[0]
                doc = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
                start = (first.end_lineno or 0) if doc else node.lineno
                lines = (node.end_lineno or 0) - start
                key = f"{name}:{node.name}"
                if lines > 50 and key not in LONG_FUNCTIONS:
                    long.append(f"{key}: {lines} lines, limit 50")
    assert not long, "\n".join(long)
