"""Launch configurations, fixed per width and dtype: no autotuning, so results never change."""

from functools import lru_cache
from typing import NamedTuple

SLOTS = 32
"""Largest number of slots that one program takes; task counts are padded to it."""
CHUNK = 256
"""Rows with more edges than this are hubs: a slot walks its edges one after the other."""
LANE_BYTES = 16
MAX_LANES = 512
TABLE_BYTES, LEAST_COPIES = 2**26, 64
"""The row pass sums the gradient of a bias table in copies of this size in all, but no fewer."""
RESIDENT_WARPS = 4096
"""Warps that keep a device busy; fixed, because it decides the order in which tables are summed."""


class Shape(NamedTuple):
    """What decides a configuration: heads, widths (Dk, Dv, F), bytes per element, warp size."""

    heads: int
    dk: int
    dv: int
    df: int
    itemsize: int
    warp_size: int


class Config(NamedTuple):
    """Compile-time shape of an attention kernel.

    groups: programs that share the heads of a row; block_h heads each, padded widths block_k,
    block_v, block_f; exact: nothing is padded; slots: tasks per program; unroll: edges per step.
    """

    groups: int
    block_h: int
    block_k: int
    block_v: int
    block_f: int
    exact: bool
    slots: int
    unroll: int
    warps: int


def row_slots(num_rows: int) -> int:
    """Number of whole-row slots in a plan's ``slots``, padding included."""
    return -(-num_rows // SLOTS) * SLOTS


def power_of_two(n: int) -> int:
    """Smallest power of two that is at least ``n`` (and 1)."""
    return 1 << max(n - 1, 0).bit_length()


def forward_registers(wide_options: int, itemsize: int) -> int | None:
    """Register limit of the forward pass: arguments and meaning as ``backward_registers``.

    With wide options in float64 ptxas would rather spill a few than take the next occupancy.
    """
    return 168 if wide_options and itemsize == 8 else None


def backward_registers(options: int, wide_options: int, itemsize: int, columns: bool) -> int | None:
    """Register limit of a backward pass on NVIDIA, None for the compiler's own choice.

    Left alone, ptxas saves registers by sinking each gather to its first use, which leaves one
    or two in flight; a limit that is too generous to be reached makes it issue all eight first.
    The tightest limit that does not spill keeps the most programs resident as well: on an H200,
    80 instead of 128 made the pass over rows of half precision a sixth faster.
    Gates and edge features need more than any such limit, and issue theirs early anyway; with
    more options a limit keeps ptxas from spilling a few registers for the next occupancy.

    Args:
        options: How many of bias, clamp, dropout and mask are on.
        wide_options: How many of gate, edge features and gated gradients are on.
        itemsize: Bytes per stored number.
        columns: Whether it is the pass over columns.
    """
    if wide_options:
        return 224 if wide_options + options > 1 else None
    if itemsize == 8:
        return None
    if options:
        return 168
    return 96 if columns and itemsize == 2 else 80


def change_registers(terms: int, itemsize: int) -> int | None:
    """Register limit of the gradient of messages, of ``terms`` numbers per channel and row.

    Meaning as in ``backward_registers``: half precision, whose lanes hold twice the numbers, would
    spill a few for the next occupancy.
    """
    return 224 if terms > 1 and itemsize == 2 else None


def table_programs(items: int, config: Config, table_bytes: int) -> int:
    """Programs that share ``items`` where each slot sums a table of its own, in copies.

    Args:
        items: Blocks of slots, over all batch entries and groups of heads.
        config: Its slots per program and warps.
        table_bytes: Size of one copy. All copies together take ``TABLE_BYTES``, or
            ``LEAST_COPIES`` times this if that is more.
    """
    copies = max(TABLE_BYTES // max(table_bytes, 1), LEAST_COPIES)
    return min(items, max(copies // config.slots, 1), max(RESIDENT_WARPS // config.warps, 1))


@lru_cache(maxsize=1024)
def configure(shape: Shape) -> Config:
    """Configuration of the row and column kernels.

    One slot is a group of lanes that loads 16 bytes each; a program of one warp holds as many
    slots as fit. Rows above 512 bytes take four warps. Rows above 512 numbers are split by heads.
    Only ``unroll`` and ``block_*`` touch the order of summation, except in the gradient of a bias
    table, which is summed by slots and programs: see ``table_programs``.
    """
    widths = [power_of_two(width) for width in (shape.dk, shape.dv, max(shape.df, 1))]
    widest = max(widths)
    block_h = min(power_of_two(shape.heads), max(1, MAX_LANES // widest))
    row_bytes = block_h * widest * shape.itemsize
    warps = 1 if row_bytes <= 512 else 4
    slots = warps * shape.warp_size * LANE_BYTES // row_bytes
    exact = (
        shape.heads % block_h == 0
        and widths[:2] == [shape.dk, shape.dv]
        and shape.df in (0, widths[2])
    )
    return Config(
        groups=-(-shape.heads // block_h),
        block_h=block_h,
        block_k=widths[0],
        block_v=widths[1],
        block_f=widths[2],
        exact=exact,
        slots=max(1, min(SLOTS, slots)),
        unroll=4,
        warps=warps,
    )
