"""Time of the GPU kernels themselves, by torch's profiler: Python is not counted."""

from collections.abc import Callable
from typing import Any

import torch
from bounds import Problem
from tqdm import tqdm
from workloads import workloads

import graphattn as ga

PASSES = {
    "fwd": ("attention_rows", "tile_forward"),
    "rows": ("backward_rows", "tile_backward_rows"),
    "columns": ("backward_cols", "tile_backward_cols"),
}
GRIDS = ((256, 7, 8, 64, torch.bfloat16), (256, 7, 4, 32, torch.float32))


def run(device: str, repeats: int, compiled: bool = True) -> tuple[list[dict[str, Any]], list[str]]:
    """A row per workload of ``attention``, and per grid by tiles and by its written-down edges."""
    if device != "cuda":
        return [], ["left out: it times GPU kernels; --device cuda"]
    rows = []
    for work in tqdm(workloads(device), desc="kernels"):
        graph = ga.as_graph(work.edge_index, work.nodes)
        shape = work.nodes, work.heads, work.width
        problem = Problem(work.nodes, graph.num_edges, *shape[1:], work.dtype.itemsize)
        rows.append(row(work.name, problem, passes(graph, shape, work.dtype, repeats)))
    for side, size, heads, width, dtype in GRIDS:
        grid = ga.GridGraph((side, side), size, device=device)
        shape = side * side, heads, width
        problem = Problem(side * side, grid.num_edges, heads, width, dtype.itemsize, index=0)
        for how, graph in (("tiles", grid), ("own CSR", grid.to_csr())):
            name = f"{side}^2, k {size}, H{heads} D{width} {dtype}, {how}".replace("torch.", "")
            rows.append(row(name, problem, passes(graph, shape, dtype, repeats)))
    return rows, [f"a copy of 2 GiB moves {copied():.0f} GB/s, bytes read and written"]


def passes(
    graph: Any, shape: tuple[int, int, int], dtype: torch.dtype, repeats: int
) -> dict[str, float]:
    """Microseconds of the kernel of each pass, mean of ``repeats`` steps after a first one."""
    leaves = [torch.randn(shape, device="cuda").to(dtype).requires_grad_() for _ in range(3)]
    pull = torch.randn_like(leaves[0])

    def step() -> None:
        torch.autograd.grad(ga.attention(*leaves, graph), leaves, pull)

    step()
    found = by_kernel(step, repeats)
    return {what: sum(found.get(name, 0.0) for name in names) for what, names in PASSES.items()}


def by_kernel(step: Callable[[], None], repeats: int) -> dict[str, float]:
    """Mean microseconds per launch of every kernel."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        for _ in range(repeats):
            step()
        torch.cuda.synchronize()
    events = profiler.key_averages()
    return {e.key: e.device_time for e in events if e.device_type.name == "CUDA"}


def row(name: str, problem: Problem, times: dict[str, float]) -> dict[str, Any]:
    """Times beside what the bytes allow: GB/s of every gather counted, and of each number once."""
    fwd, bwd = problem.forward(), problem.backward()
    back = times["rows"] + times["columns"]
    return {
        "workload": name,
        **{f"{what} us": time for what, time in times.items()},
        "fwd GB/s of no-reuse bytes": fwd[1] / times["fwd"] / 1e3,
        "bwd GB/s of no-reuse bytes": bwd[1] / back / 1e3,
        "fwd GB/s of compulsory bytes": fwd[0] / times["fwd"] / 1e3,
        "bwd GB/s of compulsory bytes": bwd[0] / back / 1e3,
    }


def copied() -> float:
    """GB/s of a copy within the GPU's memory."""
    source = torch.empty(2**31, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(3):
        start.record()
        target.copy_(source)
        end.record()
        torch.cuda.synchronize()
    return 2 * 2**31 / start.elapsed_time(end) / 1e6
