"""Long sequences, large images and video: windows and strides against dense SDPA's FLOP bound.

On CUDA the problems that NATTEN documents, with 8 of their 24 heads; on a CPU small ones of the
same kinds. Block-sparse strides make whole tiles of queries share their window.
"""

from math import prod
from typing import Any, NamedTuple

import torch
from grid import dense
from timing import interleave, no_grad, training
from torch import Tensor
from tqdm import tqdm

import graphattn as ga


class Problem(NamedTuple):
    """A grid, its window, and the strides to be timed."""

    shape: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]

    @property
    def bound(self) -> float:
        """How many times fewer products than all pairs."""
        return prod(self.shape) / prod(self.window)


PROBLEMS = {
    "cuda": (
        Problem((32768,), (2048,), ((1,), (256,), (2048,))),
        Problem((256, 256), (80, 80), ((1, 1), (16, 16))),
        Problem((30, 48, 80), (18, 24, 24), ((1, 1, 1), (16, 8, 8))),
    ),
    "cpu": (
        Problem((4096,), (256,), ((1,), (256,))),
        Problem((8, 16, 16), (3, 7, 7), ((1, 1, 1), (3, 7, 7))),
    ),
}
SIZES = {"cpu": (4, 32, torch.float32, 1e-3), "cuda": (8, 128, torch.bfloat16, 0.05)}
# Edges up to which they are written down for the reference that results are checked against.
MOST_EDGES = 2**26


def run(device: str, repeats: int, compiled: bool = True) -> tuple[list[dict[str, Any]], list[str]]:
    """Forward, and forward + backward, of every problem and stride."""
    todo = [(problem, stride) for problem in PROBLEMS[device] for stride in problem.strides]
    rows = [_row(problem, stride, device, repeats) for problem, stride in tqdm(todo)]
    heads, width, dtype, _ = SIZES[device]
    notes = [
        f"H{heads} D{width}, {dtype}; the FLOP bound is the number of all pairs ÷ window",
        "error: largest difference from the same edges written down, where they fit",
        "dense SDPA has no mask, so it answers another question",
    ]
    return rows, notes


def _row(problem: Problem, stride: tuple[int, ...], device: str, repeats: int) -> dict[str, Any]:
    heads, width, dtype, tolerance = SIZES[device]
    grid = ga.GridGraph(problem.shape, problem.window, stride, device=device)
    shape = 1, *problem.shape, heads, width
    leaves = [torch.randn(shape, device=device).to(dtype).requires_grad_() for _ in range(3)]

    def over(graph: Any) -> Any:
        def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            axes = len(problem.shape)
            out: Tensor = ga.attention(*(t.flatten(1, axes) for t in (q, k, v)), graph)
            return out.view(v.shape)

        return call

    calls = {"graphattn": over(grid), "dense SDPA": _flat(len(problem.shape))}
    error = None
    if grid.num_edges <= MOST_EDGES:
        with torch.no_grad():
            found = calls["graphattn"](*leaves)
            error = float((found - over(grid.to_csr())(*leaves)).abs().max())
        if error > tolerance:
            raise AssertionError(f"{problem} stride {stride} differs from its edges by {error}")
    grad = torch.randn_like(leaves[0])
    forward = interleave({n: no_grad(c, leaves) for n, c in calls.items()}, repeats, device)
    both = interleave({n: training(c, leaves, grad) for n, c in calls.items()}, repeats, device)
    own = forward["graphattn"].p50
    return {
        "workload": f"{problem.shape}, window {problem.window}, stride {stride}",
        "fwd ms p20/p50/p80": forward["graphattn"].spread,
        "f+b ms p20/p50/p80": both["graphattn"].spread,
        "÷ dense SDPA fwd": forward["dense SDPA"].p50 / own,
        "÷ dense SDPA f+b": both["dense SDPA"].p50 / both["graphattn"].p50,
        "FLOP bound": problem.bound,
        "fwd TFLOP/s": 4e-12 * grid.num_edges * heads * width / own,
        "error": error,
    }


def _flat(axes: int) -> Any:
    """Dense attention over nodes of any number of axes."""
    return lambda *t: dense(*(x.flatten(1, axes).unsqueeze(2) for x in t)).view(t[2].shape)
