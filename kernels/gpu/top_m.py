"""Launcher of the Triton kernel that finds the m largest scores of every row."""

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from graphattn.kernels.gpu.arguments import divide
from graphattn.kernels.gpu.launch import launch
from graphattn.kernels.gpu.select import top_rows
from graphattn.kernels.gpu.tuning import power_of_two
from graphattn.kernels.layout import Layout

_LANES = 32
_SLOTS = 32
_HUB_LANES = 2048
"""Numbers that a program reads at once of a hub row, which it has to itself."""


def top_m_bits(scores: Tensor, rows: Layout, m: int) -> Tensor:
    """Which edges are among the m largest of their row, per head; as in kernels/reference.

    scores [B, E, H] in the caller's order -> int32 [B, E, ceil(H / 32)]. Allocates the result. A
    program reads a hub row 34 times (66 for float64), mostly from cache.
    """
    batch, num_edges, heads = scores.shape
    words, work = -(-heads // 32), divide(rows)
    bits = scores.new_empty(batch, num_edges, words, dtype=torch.int32)
    if bits.numel() == 0:
        return bits
    block_h = min(power_of_two(heads), 32)
    shared: dict[str, Any] = {
        "scores": scores,
        "bits": bits,
        "edges": rows.edges if rows.edges.shape[0] > 0 else None,
        "num_edges": num_edges,
        "most": min(m, 2**31 - 1),
        "HEADS": heads,
        "WORDS": words,
        "BLOCK_H": block_h,
        "ACC": tl.float64 if scores.dtype == torch.float64 else tl.float32,
        "BITS": 64 if scores.dtype == torch.float64 else 32,
    }
    with torch.cuda.device_of(scores):
        hubs = work.levels[-1].shape[1] if work.levels else 0
        if hubs:
            launch(
                top_rows, batch * words * hubs, num_warps=8, slots=_hub_rows(rows, work.levels[-1]),
                num_slots=hubs, first_block=0, blocks=hubs, EDGES=_HUB_LANES // block_h, SLOTS=1,
                **shared,
            )  # fmt: skip
        first, blocks = work.chunks // _SLOTS, (work.num_tasks - work.chunks) // _SLOTS
        launch(
            top_rows, batch * words * blocks, num_warps=4, slots=rows.plan[0],
            num_slots=work.num_tasks, first_block=first, blocks=blocks, EDGES=_LANES // block_h,
            SLOTS=_SLOTS, **shared,
        )  # fmt: skip
    return bits


def _hub_rows(rows: Layout, top_level: Tensor) -> Tensor:
    """Hub rows as slots of their own, [3, hubs]: row, first edge, number of edges."""
    hub = top_level[2]
    start = rows.indptr[hub]
    return torch.stack([hub, start, rows.indptr[hub + 1] - start])
