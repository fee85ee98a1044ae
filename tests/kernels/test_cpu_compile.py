"""Compilation: disk cache across processes, unwritable folders, invalidation, fork, threads."""

import ast
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from graphattn.kernels.cpu import compile as compile_module
from graphattn.kernels.cpu import threads
from graphattn.kernels.cpu.attention import attention_forward
from graphattn.kernels.layout import Layout
from graphattn.kernels.score import Score

ROOT = Path(__file__).parents[2]
CALL = """
    import torch
    from graphattn.kernels.layout import Layout
    from graphattn.kernels.cpu.attention import attention_forward
    from graphattn.kernels.score import Score
    q = torch.ones(1, 4, 8, 16)
    indptr = torch.tensor([0, 1, 2, 3, 4])
    plan = torch.tensor([0, 4]), indptr.new_empty(3, 0)
    rows = Layout(indptr, torch.arange(4), indptr.new_empty(0), plan)
    out = attention_forward(q, q, q, rows, Score())[0]
    assert torch.equal(out, q)
"""
COUNT = """
    from numba.core import event
    with event.install_recorder("numba:compile") as compiled:
        run()
    print(len(compiled.buffer))
"""


def run_python(code: str, cache: Path, root: Path = ROOT, **more: str) -> str:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(root), **more}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=root
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def compilations(cache: Path, root: Path = ROOT, call: str = CALL) -> int:
    """How many functions a fresh process has to compile for one call."""
    body = textwrap.indent(textwrap.dedent(call), "    ")
    return int(run_python(f"def run():\n{body}\n{textwrap.dedent(COUNT)}", cache, root))


ARRAY_CALL = """
    import numpy
    from graphattn.kernels.cpu import neighbors
    edges = numpy.arange(3)[::-1].copy()
    neighbors.sort_rows(edges, numpy.zeros(3, int), numpy.arange(3))
    assert edges.tolist() == [0, 1, 2]
"""


def small_call() -> torch.Tensor:
    scope: dict[str, torch.Tensor] = {}
    exec(textwrap.dedent(CALL), scope)
    return scope["out"]


def copy_kernels(to: Path) -> None:
    shutil.copytree(ROOT / "kernels", to / "kernels", ignore=shutil.ignore_patterns("__py*"))
    (to / "graphattn").mkdir()
    (to / "graphattn" / "__init__.py").touch()
    (to / "graphattn" / "kernels").symlink_to("../kernels")


def test_array_kernels_notice_a_changed_helper(tmp_path: Path) -> None:
    copy_kernels(tmp_path)
    cache = tmp_path / "cache"
    assert compilations(cache, tmp_path, ARRAY_CALL) > 0
    assert compilations(cache, tmp_path, ARRAY_CALL) == 0
    with open(tmp_path / "kernels" / "cpu" / "random.py", "a") as file:
        file.write("# changed\n")
    assert compilations(cache, tmp_path, ARRAY_CALL) > 0


OLD_MACHINE = """
    import torch
    import graphattn as ga
    from graphattn.kernels.cpu import launch, reduction
    launch.widens_float16 = reduction._wide = lambda: False
    graph = ga.as_graph(torch.randint(0, 40, (2, 300)), 40)
    for dtype in (torch.float32, torch.float16):
        nodes = [torch.randn(40, 4, 12).to(dtype).requires_grad_() for _ in range(3)]
        found = []
        for impl in ("cpu", "reference"):
            out = ga.attention(*nodes, graph, impl=impl)
            many = ga.aggregate(nodes[2].flatten(1), graph, reduce=["mean", "max"], impl=impl)
            loss = out.float().sin().sum() + sum(t.float().square().sum() for t in many)
            found.append([out, *many, *torch.autograd.grad(loss, nodes)])
        limit = 1e-5 if dtype == torch.float32 else 1e-2
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=limit, atol=limit)
"""


def test_machine_without_wide_vectors(tmp_path: Path) -> None:
    """SSE 4.2 alone: no AVX, no fused multiply-add, no conversion of float16."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("names a processor of another family")
    run_python(textwrap.dedent(OLD_MACHINE), tmp_path, NUMBA_CPU_NAME="nehalem")


def test_second_process_hits_and_changed_helper_misses(tmp_path: Path) -> None:
    copy_kernels(tmp_path)
    cache = tmp_path / "cache"
    assert compilations(cache, tmp_path) > 0
    assert compilations(cache, tmp_path) == 0
    with open(tmp_path / "kernels" / "cpu" / "emitter.py", "a") as file:
        file.write("# changed\n")
    assert compilations(cache, tmp_path) > 0


def truncate(cache: Path, ending: str) -> None:
    """What a process that was killed while it wrote would leave."""
    written = list(cache.glob(f"**/*.{ending}"))
    assert written
    for file in written:
        file.write_bytes(file.read_bytes()[:40])


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
def test_damage_is_ignored_and_mended(tmp_path: Path, ending: str) -> None:
    assert compilations(tmp_path, call=ARRAY_CALL) > 0
    truncate(tmp_path, ending)
    assert compilations(tmp_path, call=ARRAY_CALL) > 0
    assert compilations(tmp_path, call=ARRAY_CALL) == 0


def test_unwritable_cache_folders(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    nowhere = """
        import numba.core.caching as caching
        def refuse(self):
            raise PermissionError("read-only")
        caching._CacheLocator.ensure_cache_path = refuse
    """
    run_python(textwrap.dedent(CALL), blocker / "cache")
    run_python(textwrap.dedent(nowhere) + textwrap.dedent(CALL), blocker / "cache")


def imported(path: Path) -> set[Path]:
    """Files of the kernels that a file imports in whatever form Python knows."""
    root, names = Path(compile_module.__file__).resolve().parents[1], []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    parts = [name.split(".")[2:] for name in names if name.startswith("graphattn.kernels.")]
    found = {root.joinpath(*part).with_suffix(".py") for part in parts}
    return {path for path in found if path.exists()}


def test_version_covers_every_imported_file() -> None:
    folder = Path(compile_module.__file__).resolve().parent
    for path in folder.glob("*.py"):
        expected, left = set(), {path}
        while left:
            expected |= left
            left = set().union(*map(imported, left)) - expected
        assert compile_module.made_of(path) == expected, path.name
    assert folder / "emitter.py" in compile_module.made_of(folder / "forward.py")
    assert folder / "threads.py" not in compile_module.made_of(folder / "forward.py")


def _child(results: "multiprocessing.Queue[bool]") -> None:
    # Plain Python only after the fork: torch's own threads do not survive it either.
    threads.INLINE_WORK = 0
    torch.get_num_threads = lambda: 2  # type: ignore[assignment]
    results.put(bool((small_call() == 1).all()))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_works_in_a_child_process(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "INLINE_WORK", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    small_call()
    context = multiprocessing.get_context(method)
    results = context.Queue()
    child = context.Process(target=_child, args=(results,))
    child.start()
    assert results.get(timeout=120)
    child.join(timeout=60)
    assert child.exitcode == 0


def test_every_piece_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    seen: list[tuple[int, int]] = []
    threads.run_chunks(lambda a, b: seen.append((a, b)), list(range(0, 501, 5)), 1e12)
    seen.sort()
    assert seen[0][0] == 0 and seen[-1][1] == 500 and len(seen) > 3
    assert all(a[1] == b[0] for a, b in zip(seen, seen[1:], strict=False))


def test_errors_of_a_worker_reach_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def fail(first: int, last: int) -> None:
        raise ZeroDivisionError(first)

    with pytest.raises(ZeroDivisionError):
        threads.run_chunks(fail, list(range(0, 501, 5)), 1e12)


def test_small_calls_stay_on_the_calling_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(threads, "_pool", None)
    indptr = torch.arange(0, 101, 4)
    plan = torch.arange(26), indptr.new_empty(3, 0)
    layout = Layout(indptr, torch.arange(100) % 9, indptr.new_empty(0), plan)
    nodes = torch.randn(1, 25, 8, 16), torch.randn(1, 9, 8, 16), torch.randn(1, 9, 8, 16)
    assert attention_forward(*nodes, layout, Score())[0].isfinite().all()
