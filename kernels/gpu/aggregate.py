"""Launchers of the Triton aggregation kernels: allocate, choose a configuration, launch.

Nothing here reads from the device, so calls can be captured in a CUDA graph.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from graphattn.kernels.gpu.arguments import Work, accumulator, divide
from graphattn.kernels.gpu.launch import launch, warp_size
from graphattn.kernels.gpu.levels import climb, merge_sums, partial_rows
from graphattn.kernels.gpu.pull import pull_cols
from graphattn.kernels.gpu.reduce import merge_reductions, reduce_rows
from graphattn.kernels.gpu.tuning import LANE_BYTES, MAX_LANES, SLOTS, power_of_two
from graphattn.kernels.layout import Layout

_REDUCTIONS = ("sum", "mean", "min", "max", "var", "std")
_GATHERS = 8
"""Gathers in flight per slot: four edges of up to two tiles each, or fewer edges of more."""


class Slices(NamedTuple):
    """How a row of heads x width numbers is cut into tiles of block_h x block_w.

    groups: tiles per row, width_groups of them side by side in one head; exact: no padding;
    slots: tasks per program. Only block_w touches the order of a summation, that of the weights'
    gradients.
    """

    groups: int
    width_groups: int
    block_h: int
    block_w: int
    exact: bool
    slots: int
    warps: int


@lru_cache(maxsize=1024)
def cut(heads: int, width: int, itemsize: int, threads: int) -> Slices:
    """Tiles of at most MAX_LANES numbers; a lane of a slot loads 16 bytes."""
    block_w = min(power_of_two(width), MAX_LANES)
    block_h = min(power_of_two(heads), MAX_LANES // block_w)
    row_bytes = block_h * block_w * itemsize
    warps = 1 if row_bytes <= 512 else 4
    width_groups = -(-width // block_w)
    return Slices(
        groups=-(-heads // block_h) * width_groups,
        width_groups=width_groups,
        block_h=block_h,
        block_w=block_w,
        exact=heads % block_h == 0 and width % block_w == 0,
        slots=max(1, min(SLOTS, warps * threads * LANE_BYTES // row_bytes)),
        warps=warps,
    )


NO_BEND: dict[str, Any] = {
    "own": None, "attr": None, "proj": None, "ACTIVATION": "", "SLOPE": 0.0, "FEATURES": 0,
}  # fmt: skip


def aggregate_forward(
    x: Tensor, weight: Tensor | None, rows: Layout, *, reduce: tuple[str, ...]
) -> tuple[Tensor, Tensor]:
    """Reduce the messages of every row; meaning as in kernels/reference.

    x [B, C, H, D], weight [1 or B, E, H] or None -> out [len(reduce), B, R, H, D] and stats
    [S, B, R, H, D]. Allocates these and, for graphs with hub rows, a state per hub chunk.
    """
    return reduce_bent(x, weight, rows, reduce, NO_BEND)


def reduce_bent(
    x: Tensor,
    weight: Tensor | None,
    rows: Layout,
    reduce: tuple[str, ...],
    bent: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """``aggregate_forward`` of messages that ``bent`` makes of x: see message.py."""
    (batch, _, heads, width), num_rows = x.shape, rows.indptr.shape[0] - 1
    high, work = accumulator(x.dtype), divide(rows)
    linear, spread, top, bottom = families(reduce)
    count = 2 * (spread + top + bottom)
    out = x.new_empty(len(reduce), batch, num_rows, heads, width)
    stats = x.new_empty(count, batch, num_rows, heads, width, dtype=high)
    if out.numel() == 0:
        return out, stats
    slices = cut(heads, width, x.element_size(), warp_size())
    states = linear + 3 * spread + 2 * (top + bottom)
    parts = (
        x.new_empty(batch, work.chunks, states, heads, width, dtype=high),
        rows.plan[0][2:, : work.chunks].to(high),
    )
    arguments = tile_arguments(heads, width, high, slices) | {
        "out": out,
        "stats": stats,
        "plane": out[0].numel(),
        "STATES": states,
        **{name.upper(): name in reduce for name in _REDUCTIONS},
    }
    with torch.cuda.device_of(x):
        launch(
            reduce_rows,
            batch * slices.groups * (work.num_tasks // slices.slots),
            num_warps=slices.warps,
            x=x,
            weight=weight,
            states=parts[0],
            num_rows=num_rows,
            num_cols=x.shape[1],
            **bent,
            **arguments,
            **edge_arguments(work, slices, weight, 1, bent["attr"] is not None),
        )
        _merge(parts, work, slices, arguments)
    return out, stats


def _merge(
    parts: tuple[Tensor, Tensor], work: Work, slices: Slices, arguments: dict[str, Any]
) -> None:
    """Combine the states of hub rows level by level; the last level makes the results."""

    def merge(source: Any, target: Any, tasks: Tensor, last: bool) -> None:
        launch(
            merge_reductions,
            source[0].shape[0] * slices.groups * tasks.shape[1],
            num_warps=slices.warps,
            states=source[0],
            counts=source[1],
            into=None if last else target[0],
            into_counts=None if last else target[1],
            tasks=tasks,
            num_tasks=tasks.shape[1],
            num_parts=source[0].shape[1],
            num_dest=target[0].shape[2] if last else target[0].shape[1],
            FINAL=last,
            **arguments,
        )

    climb(parts, (arguments["out"], arguments["stats"]), work, merge)


def aggregate_backward(
    pulls: Tensor,
    x: Tensor | None,
    weight: Tensor | None,
    cols: Layout,
    *,
    reduce: tuple[str, ...],
    dtype: torch.dtype,
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of x and weight from ``message_pulls``; meaning as in kernels/reference.

    Where tiles or batch entries share a weight, they run one after the other and add up.
    Allocates the gradients, and partial sums of hub columns.
    """
    batch, num_rows, terms, heads, width = pulls.shape
    num_cols, high, work = cols.indptr.shape[0] - 1, accumulator(pulls.dtype), divide(cols)
    slices = cut(heads, width, pulls.element_size(), warp_size())
    shared = weight is not None and weight.shape[0] == 1 and batch > 1
    units = batch * slices.groups
    wanted = needs[1] and weight is not None
    one_by_one = wanted and (shared or slices.width_groups > 1)
    grad_x = pulls.new_empty(batch, num_cols, heads, width, dtype=dtype) if needs[0] else None
    grad_weight = None
    if wanted:
        fresh = torch.zeros_like if one_by_one or pulls.numel() == 0 else torch.empty_like
        grad_weight = fresh(weight)
    if batch * num_cols * heads * width == 0:
        return grad_x, grad_weight
    (part_x,) = partial_rows((grad_x,), work.chunks, high)
    linear, spread, top, bottom = families(reduce)
    blocks = work.num_tasks // slices.slots
    with torch.cuda.device_of(pulls):
        for first_unit in range(units if one_by_one else 1):
            launch(
                pull_cols,
                blocks if one_by_one else units * blocks,
                num_warps=slices.warps,
                pulls=pulls,
                x=x,
                weight=weight,
                grad_x=grad_x,
                grad_weight=grad_weight,
                part_x=part_x,
                num_rows=num_rows,
                num_cols=num_cols,
                first_unit=first_unit,
                TERMS=terms,
                LINEAR=linear,
                SPREAD=spread,
                MAX=top,
                MIN=bottom,
                ADD=one_by_one,
                **tile_arguments(heads, width, high, slices),
                **edge_arguments(work, slices, weight, terms),
            )
        merge_sums(part_x, grad_x, work)
    return grad_x, grad_weight


def families(reduce: tuple[str, ...]) -> tuple[int, int, int, int]:
    """Whether reductions are linear, spreads, max, min; as 0 or 1, to count with."""
    return (
        int("sum" in reduce or "mean" in reduce),
        int("var" in reduce or "std" in reduce),
        int("max" in reduce),
        int("min" in reduce),
    )


def tile_arguments(heads: int, width: int, high: torch.dtype, slices: Slices) -> dict[str, Any]:
    """How a kernel cuts the rows."""
    return {
        "HEADS": heads,
        "WIDTH": width,
        "GROUPS": slices.groups,
        "WIDTH_GROUPS": slices.width_groups,
        "BLOCK_H": slices.block_h,
        "BLOCK_W": slices.block_w,
        "EXACT": slices.exact,
        "ACC": tl.float64 if high == torch.float64 else tl.float32,
    }


def edge_arguments(
    work: Work, slices: Slices, weight: Tensor | None, tiles: int, featured: bool = False
) -> dict[str, Any]:
    """The graph and a kernel's share of it; ``tiles``: gathers that each edge needs."""
    edges, batched = work.layout.edges, weight is not None and weight.shape[0] > 1
    return {
        "indices": work.layout.indices,
        "edges": edges if (featured or weight is not None) and edges.shape[0] > 0 else None,
        "slots": work.layout.plan[0],
        "num_slots": work.num_tasks,
        "weight_batch": weight[0].numel() if batched and weight is not None else 0,
        "blocks": work.num_tasks // slices.slots,
        "chunk_blocks": work.chunks // slices.slots,
        "SLOTS": slices.slots,
        "UNROLL": 4 if 4 * tiles <= _GATHERS else 2,
    }
