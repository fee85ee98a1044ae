"""Gathered rows: tables, the pieces of a row, prefetch.

A ``Table`` is (base, index, stride): the neighbour in slot ``p`` of a block has its row at
``base + index[p] * stride``, where ``index`` is the address of int64 slots.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from graphattn.kernels.cpu.emitter import I32, I64, Emitter, Value
from graphattn.kernels.cpu.shape import ConstantType, Row, Shape

CACHE_LINE = 64
PREFETCH_DISTANCE = 8


class Table(NamedTuple):
    """Where the rows of a block's neighbours are."""

    base: int
    index: int
    stride: int


class Ahead(NamedTuple):
    """The indices by flat edge position and the last position, for prefetch across row ends."""

    indices: int
    last: int


TABLE = types.NamedUniTuple(types.int64, 3, Table)
AHEAD = types.NamedUniTuple(types.int64, 2, Ahead)


def table_rows(e: Emitter, table: Value, slot: Value, count: int) -> list[Value]:
    """Addresses of the rows of ``count`` neighbours from ``slot`` on."""
    b = e.builder
    base, index, stride = (b.extract_value(table, n) for n in range(3))
    first = b.add(index, b.mul(slot, ir.Constant(I64, 8)))
    return [b.add(base, b.mul(e.load_integer(first, 8 * u), stride)) for u in range(count)]


def pieces(row: Row, lanes: int) -> Iterator[tuple[int, int]]:
    """Offsets in bytes and lanes that cover a row, whole vectors first."""
    total, start, itemsize = row.heads * row.width, 0, row.shape.itemsize
    while start < total:
        size = lanes if total - start >= lanes else lanes // 2
        yield start * itemsize, size
        start += size


def row_ahead(e: Emitter, shape: Shape, table: Value, ahead: Value, position: Value) -> Value:
    """Address of the row that the edge ``PREFETCH_DISTANCE`` past a position will read."""
    b, size = e.builder, ir.Constant(I64, shape.index_bits // 8)
    indices, last = (b.extract_value(ahead, n) for n in range(2))
    later = e.add(position, PREFETCH_DISTANCE)
    later = b.select(b.icmp_signed("<", later, last), later, last)
    column = e.load_integer(b.add(indices, b.mul(later, size)), 0, shape.index_bits)
    return b.add(b.extract_value(table, 0), b.mul(column, b.extract_value(table, 2)))


def prefetch_bytes(e: Emitter, address: Value, start: int, end: int) -> None:
    """Ask for the cache lines of bytes ``start`` to ``end`` of a row."""
    kind = ir.FunctionType(ir.VoidType(), [ir.PointerType(), I32, I32, I32])
    function = cgutils.get_or_insert_function(e.builder.module, kind, "llvm.prefetch.p0")
    read, near, data = (ir.Constant(I32, n) for n in (0, 3, 1))
    for offset in range(start, end, CACHE_LINE):
        e.builder.call(function, [e.address(address, offset), read, near, data])


@intrinsic
def prefetch(
    typingctx: Any, row: ConstantType, table: types.Type, ahead: types.Type, position: types.Type
) -> Any:
    """Ask for the rows that one tree of edges, some way past ``position``, will read.

    Nothing where ``ahead`` is None.
    """
    shape = row.constant.shape

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        e = Emitter(builder, shape.double)
        for u in range(0 if ahead == types.none else shape.tree):
            address = row_ahead(e, shape, args[1], args[2], e.add(args[3], u))
            prefetch_bytes(e, address, 0, row.constant.bytes)
        return context.get_dummy_value()

    return types.void(row, TABLE, ahead, types.int64), codegen


@intrinsic
def prefetch_row(typingctx: Any, row: ConstantType, address: types.Type) -> Any:
    """Ask for one row at an address."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        prefetch_bytes(Emitter(builder, row.constant.shape.double), args[1], 0, row.constant.bytes)
        return context.get_dummy_value()

    return types.void(row, types.int64), codegen
