"""Additive scores: rows of phi(own + near), which meet the score's vector instead of the query.

The derivative of a score by own and near is att * phi'(own + near) for both, so a pass sums rows of
phi' and multiplies by att once per row.
"""

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from graphattn.kernels.cpu.activation import emit_activation
from graphattn.kernels.cpu.compile import helper
from graphattn.kernels.cpu.emitter import I64, Emitter, Value
from graphattn.kernels.cpu.memory import read_integer, row_multiply, row_scale
from graphattn.kernels.cpu.shape import ConstantType
from graphattn.kernels.cpu.sums import weighted_sum
from graphattn.kernels.cpu.tables import TABLE, Table, pieces, prefetch


@intrinsic
def _bend_row(
    typingctx: Any,
    row: ConstantType,
    rows: types.Type,
    slopes: types.Type,
    place: types.Type,
    own: types.Type,
    near: types.Type,
) -> Any:
    """Row ``place`` of ``rows`` = phi(own + near), and of ``slopes`` = phi' unless that is None."""
    kind = row.constant

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        e = Emitter(builder, kind.shape.double)
        _, rows, slopes, place, own, near = args
        jump = builder.mul(place, ir.Constant(I64, kind.wide.bytes))
        to = builder.add(rows, jump)
        for offset, lanes in pieces(kind.wide, e.lanes):
            other = e.load_stored(kind.storage, near, offset // e.itemsize, lanes)
            z = builder.fadd(e.load(own, offset, lanes), other)
            value, slope = emit_activation(e, kind.shape.activation, z, kind.shape.slope)
            e.store(value, to, offset)
            if not isinstance(sig.args[2], types.NoneType):
                e.store(slope, builder.add(slopes, jump), offset)
        return context.get_dummy_value()

    number = types.int64
    return types.void(row, number, slopes, number, number, number), codegen


@helper(TABLE)
def stage_bent(row, block, own, table, ahead, slots, rows, slopes):
    """Table of phi(own + row) of each neighbour; ``slopes``: where phi' goes, or None."""
    for p in range(block.count):
        if p % row.shape.tree == 0:
            prefetch(row, table, ahead, block.start + p)
        near = table.base + read_integer(table.index, p) * table.stride
        _bend_row(row, rows, slopes, p, own, near)
    return Table(rows, slots, row.wide.bytes)


@helper(types.void)
def add_scored(row, total, pulls, near, count, att, slopes):
    """total += what the scores of a block hand on: pulls times rows, of phi' with ``att``."""
    if att is None:
        weighted_sum(row, total, pulls, near, count)
    if att is not None:
        weighted_sum(row.wide, total, pulls, Table(slopes, near.index, near.stride), count)


@helper(types.void)
def save_scored(row, target, total, scale, att, group):
    """A row's gradient from the total of ``add_scored``."""
    if att is None:
        row_scale(row.wide, target, total, scale)
    if att is not None:
        row_multiply(row.wide, target, total, att + group * row.wide.bytes)
