"""Merging partial results of hub rows, level by level."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from graphattn.kernels.gpu.arguments import Work
from graphattn.kernels.gpu.launch import launch
from graphattn.kernels.gpu.merge import merge_softmax, merge_sum
from graphattn.kernels.gpu.tuning import Config, power_of_two

_MERGE_UNROLL = 4
_SUM_BLOCK = 512


Rows = tuple[Tensor | None, ...]


def partial_rows(tensors: Rows, count: int, dtype: torch.dtype) -> Rows:
    """Buffers for ``count`` partial results of each [B, R, ...] tensor."""
    return tuple(
        None if t is None else t.new_empty(t.shape[0], count, *t.shape[2:], dtype=dtype)
        for t in tensors
    )


def climb(
    parts: Rows,
    final: Rows,
    work: Work,
    merge: Callable[[Rows, Rows, Tensor, bool], None],
) -> None:
    """Run ``merge`` level by level: chunks into groups, groups into rows."""
    for depth, tasks in enumerate(work.levels, 1):
        last = depth == len(work.levels)
        into = final if last else partial_rows(parts, tasks.shape[1], parts[0].dtype)
        merge(parts, into, tasks, last)
        parts = into


def merge_rows(
    parts: Rows, final: Rows, work: Work, config: Config, arguments: dict[str, Any]
) -> None:
    """Merge partial (out, lse, edge_out) of hub rows; ``arguments`` as for the forward kernel."""

    def merge(source: Rows, target: Rows, tasks: Tensor, last: bool) -> None:
        batch = source[1].shape[0]
        launch(
            merge_softmax,
            batch * config.groups * tasks.shape[1],
            num_warps=1 if config.block_h * config.block_v <= 256 else 4,
            part_out=source[0],
            part_lse=source[1],
            part_edge=source[2],
            out=target[0],
            lse=target[1],
            edge_out=target[2],
            tasks=tasks,
            num_tasks=tasks.shape[1],
            num_parts=source[1].shape[1],
            num_dest=target[1].shape[1],
            HEADS=arguments["HEADS"],
            DV=arguments["DV"],
            DF=arguments["DF"],
            GROUPS=config.groups,
            BLOCK_H=config.block_h,
            BLOCK_V=config.block_v,
            BLOCK_F=config.block_f,
            EXACT=config.exact,
            UNROLL=_MERGE_UNROLL,
            ACC=arguments["ACC"],
            FINAL=last,
        )

    climb(parts, final, work, merge)


def merge_sums(part: Tensor | None, final: Tensor | None, work: Work) -> None:
    """Add up partial gradients of hub rows; nothing where there is no gradient."""
    if part is None or final is None:
        return
    width = final.shape[2] * final.shape[3]
    block = min(power_of_two(width), _SUM_BLOCK)
    groups = -(-width // block)

    def merge(source: Rows, target: Rows, tasks: Tensor, last: bool) -> None:
        launch(
            merge_sum,
            source[0].shape[0] * groups * tasks.shape[1],
            num_warps=1 if block <= 256 else 4,
            part=source[0],
            out=target[0],
            tasks=tasks,
            num_tasks=tasks.shape[1],
            num_parts=source[0].shape[1],
            num_dest=target[0].shape[1],
            WIDTH=width,
            BLOCK=block,
            GROUPS=groups,
            UNROLL=2 * _MERGE_UNROLL,
            FINAL=last,
        )

    climb((part,), (final,), work, merge)
