"""Launchers of the Triton softmax over edges: allocate, choose a configuration, launch.

Whole rows take one launch. Hub rows take three: states of their chunks, merges, weights.
"""

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from graphattn.kernels.gpu.arguments import Work, accumulator, divide
from graphattn.kernels.gpu.launch import launch
from graphattn.kernels.gpu.levels import climb, merge_sums, partial_rows
from graphattn.kernels.gpu.softmax import merge_masses, softmax_chunks, softmax_pulls, softmax_rows
from graphattn.kernels.gpu.tuning import power_of_two
from graphattn.kernels.layout import Layout

_LANES = 16
"""Numbers per slot and step; twice as many spill registers on some targets."""
_SLOTS = 32
_WARPS = 4
_PARTS = 16


def edge_softmax_forward(scores: Tensor, rows: Layout) -> Tensor:
    """scores [B, E, H] in the caller's order -> weights; meaning as in kernels/reference.

    Allocates the weights and, for graphs with hub rows, two numbers per row, chunk and head.
    """
    weights = torch.empty_like(scores)
    if scores.numel() == 0:
        return weights
    work, shared = _shared_arguments(scores, rows)
    high, num_rows = accumulator(scores.dtype), rows.indptr.shape[0] - 1
    state = scores.new_empty(scores.shape[0], num_rows if work.chunks else 0, scores.shape[2])
    final = tuple(torch.empty_like(state, dtype=high) for _ in range(2))
    parts = partial_rows(final, work.chunks, high)
    blocks, chunk_blocks = work.num_tasks // _SLOTS, work.chunks // _SLOTS
    units = scores.shape[0] * shared["GROUPS"]
    with torch.cuda.device_of(scores):
        launch(
            softmax_rows, units * blocks, scores=scores, weights=weights, part_top=parts[0],
            part_mass=parts[1], blocks=blocks, chunk_blocks=chunk_blocks, **shared,
        )  # fmt: skip
        if work.chunks == 0:
            return weights
        _merge_masses(parts, final, work, shared)
        launch(
            softmax_chunks, units * chunk_blocks, scores=scores, weights=weights, tops=final[0],
            masses=final[1], num_rows=num_rows, blocks=chunk_blocks, **shared,
        )  # fmt: skip
    return weights


def edge_softmax_backward(grad: Tensor, weights: Tensor, rows: Layout) -> Tensor:
    """Gradient of the scores from that of the weights, both [B, E, H]."""
    out = torch.empty_like(weights)
    if out.numel() == 0:
        return out
    work, shared = _shared_arguments(weights, rows)
    num_rows = rows.indptr.shape[0] - 1
    high = accumulator(weights.dtype)
    shape = weights.shape[0], num_rows if work.chunks else 0, weights.shape[2], 1
    means = weights.new_empty(shape, dtype=high)
    (part,) = partial_rows((means,), work.chunks, high)
    blocks, chunk_blocks = work.num_tasks // _SLOTS, work.chunks // _SLOTS
    units = weights.shape[0] * shared["GROUPS"]
    pointers = {"grad": grad, "weights": weights, "out": out, "num_rows": num_rows}
    with torch.cuda.device_of(weights):
        launch(
            softmax_pulls, units * blocks, part_mean=part, means=None, blocks=blocks,
            chunk_blocks=chunk_blocks, **pointers, **shared,
        )  # fmt: skip
        if work.chunks == 0:
            return out
        merge_sums(part, means, work)
        launch(
            softmax_pulls, units * chunk_blocks, part_mean=None, means=means, blocks=chunk_blocks,
            chunk_blocks=chunk_blocks, **pointers, **shared,
        )  # fmt: skip
    return out


def _merge_masses(parts: Any, final: Any, work: Work, shared: dict[str, Any]) -> None:
    def merge(source: Any, target: Any, tasks: Tensor, last: bool) -> None:
        launch(
            merge_masses,
            source[0].shape[0] * shared["GROUPS"] * tasks.shape[1],
            num_warps=1,
            part_top=source[0],
            part_mass=source[1],
            top_out=target[0],
            mass_out=target[1],
            tasks=tasks,
            num_tasks=tasks.shape[1],
            num_parts=source[0].shape[1],
            num_dest=target[0].shape[1],
            PARTS=_PARTS,
            FINAL=last,
            **{name: shared[name] for name in ("HEADS", "GROUPS", "BLOCK_H", "ACC")},
        )

    climb(parts, final, work, merge)


def _shared_arguments(like: Tensor, rows: Layout) -> tuple[Work, dict[str, Any]]:
    """The graph as launch arguments, and what every kernel over it takes."""
    work, heads = divide(rows), like.shape[2]
    block_h = min(power_of_two(heads), _LANES)
    return work, {
        "edges": rows.edges if rows.edges.shape[0] > 0 else None,
        "slots": rows.plan[0],
        "num_slots": work.num_tasks,
        "num_edges": like.shape[1],
        "HEADS": heads,
        "GROUPS": -(-heads // block_h),
        "BLOCK_H": block_h,
        "EDGES": _LANES // block_h,
        "SLOTS": _SLOTS,
        "ACC": tl.float64 if like.dtype == torch.float64 else tl.float32,
        "num_warps": _WARPS,
    }
