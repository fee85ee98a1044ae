"""Compile the segment kernels ahead of time and print a row per launch; run without interpreter.

    python tests/kernels/gpu_segment_table.py sm_90 float32 bfloat16
    python tests/kernels/gpu_segment_table.py sm_90 quick

Columns: target, dtype, case, kernel, registers, bytes spilled, shared memory, instructions per
edge of the main loop (NVIDIA only).
"""

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from graphattn.kernels.gpu import aggregate, edge_softmax, message, top_m
from graphattn.kernels.gpu.build_report import TARGETS, compile_ahead, inspect, meta_graph
from graphattn.kernels.gpu.launch import Launch, recording

CASES = ("sum", "sum weighted", "all", "all weighted", "scores", "message", "message all")
ALL = ("sum", "mean", "min", "max", "var", "std")
ROWS, EDGES = 1000, 16000


def launches(dtype: torch.dtype, case: str, warp_size: int, heads: int, width: int) -> list[Launch]:
    """Every launch of the segment operators, forward and backward, on meta tensors."""
    high = torch.float64 if dtype == torch.float64 else torch.float32
    layout = meta_graph(ROWS, EDGES, 64)

    def make(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    with recording(warp_size) as found:
        if case == "scores":
            scores = make(1, EDGES, heads)
            edge_softmax.edge_softmax_forward(scores, layout)
            edge_softmax.edge_softmax_backward(scores, scores, layout)
            top_m.top_m_bits(scores, layout, 5)
            return found
        reduce = ALL if "all" in case else ("sum",)
        if "message" in case:
            return [*found, *message_launches(dtype, reduce, warp_size, heads, width)]
        x = make(1, ROWS, heads, width)
        weight = make(1, EDGES, heads, dtype=high) if "weighted" in case else None
        out, stats = aggregate.aggregate_forward(x, weight, layout, reduce=reduce)
        terms, kind = (7, high) if "all" in case else (1, dtype)
        pulls = make(1, ROWS, terms, heads, width, dtype=kind)
        needs = True, weight is not None
        aggregate.aggregate_backward(
            pulls, x, weight, layout, reduce=reduce, dtype=dtype, needs=needs
        )
    return found


def message_launches(
    dtype: torch.dtype, reduce: tuple[str, ...], warp_size: int, heads: int, width: int
) -> list[Launch]:
    """Non-linear messages: bare, and with a weight and edge features for several reductions."""
    high = torch.float64 if dtype == torch.float64 else torch.float32
    layout, whole = meta_graph(ROWS, EDGES, 64), len(reduce) > 1

    def make(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    node = make(1, ROWS, heads, width)
    edge = [None] * 3
    if whole:
        edge = [make(1, EDGES, heads, dtype=high), make(EDGES, 1), make(heads, width, 1)]
    options = {"activation": "gelu" if whole else "leaky_relu", "slope": 0.2, "reduce": reduce}
    with recording(warp_size) as found:
        message.message_forward(node, node, *edge, layout, **options)
        pulls = make(1, ROWS, 7 if whole else 1, heads, width, dtype=high)
        message.message_backward(
            pulls, node, node, *edge, layout, layout, needs=(True,) * 5, **options
        )
    return found


def rows(target: str, names: list[str]) -> Iterator[tuple[str, ...]]:
    """One row per launch; "quick" for a name: everything at once in float32."""
    backend, quick = TARGETS[target], names == ["quick"]
    for name in ["float32"] if quick else names:
        for case in ("all weighted", "scores", "message all") if quick else CASES:
            for heads, width in ((8, 16),) if quick else ((1, 128), (8, 16)):
                for launch in launches(getattr(torch, name), case, backend.warp_size, heads, width):
                    yield target, name, f"{case} {heads}x{width}", *figures(launch, backend)


def figures(launch: Launch, backend: Any) -> tuple[str, ...]:
    """Kernel, registers, bytes spilled, shared memory, instructions per edge."""
    per_slot = launch.arguments.get("UNROLL", launch.arguments.get("EDGES", 1))
    named = launch._replace(arguments={"UNROLL": per_slot} | launch.arguments)
    build = inspect(named, compile_ahead(launch, backend), backend)
    per_edge = f"{build.loop / build.edges:.1f}" if build.loop else "-"
    return build.kernel, str(build.registers), str(build.spilled), str(build.shared), per_edge


if __name__ == "__main__":
    for row in rows(sys.argv[1], sys.argv[2:]):
        print("| " + " | ".join(row) + " |", flush=True)
