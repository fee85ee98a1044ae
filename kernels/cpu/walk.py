"""Walking the edges of a row for one slice of its numbers: loops, addresses, prefetch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils, types

from graphattn.kernels.cpu.accumulators import Message
from graphattn.kernels.cpu.emitter import I64, Emitter, Value
from graphattn.kernels.cpu.reduction import BLOCK, Piece, row_pieces
from graphattn.kernels.cpu.rows import emit_index
from graphattn.kernels.cpu.shape import ConstantType, Row
from graphattn.kernels.cpu.sums import head_weights
from graphattn.kernels.cpu.tables import AHEAD, TABLE, prefetch_bytes, row_ahead
from graphattn.kernels.cpu.vector import named_intrinsic

_INT = types.int64
_WALK = "begin end table ahead edges weights weight_jump"
_KINDS = [_INT, _INT, TABLE, AHEAD, _INT, _INT, _INT]
Emit = Callable[[Emitter, Row, Sequence[Value], Sequence[Value]], None]


class Edge(NamedTuple):
    """Addresses that belong to one edge."""

    row: Value
    weights: Value
    id: Value


class Walk:
    """Emits the loops over the edges ``begin`` to ``end`` of a row, for one slice of it."""

    def __init__(
        self, e: Emitter, row: Row, begin: Value, end: Value, table: Value, ahead: Value,
        edges: Value, weights: Value, weight_jump: Value,
    ) -> None:  # fmt: skip
        self.e, self.row, self.shape = e, row, row.shape
        self.begin, self.end, self.table, self.ahead = begin, end, table, ahead
        self.edges, self.weights, self.weight_jump = edges, weights, weight_jump
        self.pieces = row_pieces(row)

    def float_of(self, count: Value) -> Value:
        """An edge count as a number."""
        return self.e.builder.sitofp(count, self.e.scalar)

    def at(self, position: Value) -> Edge:
        """The edge at a flat position."""
        e, b, shape = self.e, self.e.builder, self.shape
        base, indices, stride = (b.extract_value(self.table, n) for n in range(3))
        column = emit_index(e, indices, position, shape.index_bits)
        edge = emit_index(e, self.edges, position, shape.edge_bits)
        weights = b.add(self.weights, b.mul(edge, self.weight_jump))
        return Edge(b.add(base, b.mul(column, stride)), weights, edge)

    def message(self, edge: Edge, piece: Piece, x: Value) -> Message:
        """The message of an edge: x, its factor, and their product."""
        factor = self.factor(edge, piece)
        return Message(x, factor, x if factor is None else self.e.builder.fmul(factor, x))

    def factor(self, edge: Edge, piece: Piece) -> Value | None:
        """The weights of an edge, spread over a piece; None without weights."""
        if not self.shape.weighted:
            return None
        return head_weights(self.e, self.row, edge.weights, piece.start, piece.lanes)

    def near(self, edge: Edge, piece: Piece) -> Value:
        """What an edge brings along before its weight: its column's numbers."""
        return self.gather(edge.row, piece)

    def gather(self, base: Value, piece: Piece) -> Value:
        """A piece of the slice of a gathered row, widened from how it is stored."""
        return self.e.load_stored(self.row.storage, base, piece.start, piece.lanes)

    def load(self, base: Value, piece: Piece) -> Value:
        """A piece of the slice that starts at an address."""
        return self.e.load(base, piece.start * self.e.itemsize, piece.lanes)

    def store(self, vector: Value, base: Value, piece: Piece) -> None:
        """Write a piece of a slice."""
        self.e.store(vector, base, piece.start * self.e.itemsize)

    def fetch(self, position: Value, planes: list[Value]) -> None:
        """Ask for the slices, ``planes`` bytes into a row, that a later edge will read."""
        later = row_ahead(self.e, self.shape, self.table, self.ahead, position)
        for plane in planes:
            prefetch_bytes(self.e, self.e.builder.add(later, plane), 0, self.row.bytes)

    @contextmanager
    def blocks(self) -> Iterator[tuple[Value, Value]]:
        """Loop over runs of at most BLOCK edges: first position, number of edges."""
        b, step = self.e.builder, ir.Constant(I64, BLOCK)
        with cgutils.for_range_slice(b, self.begin, self.end, step) as (start, _):
            rest = b.sub(self.end, start)
            yield start, b.select(b.icmp_signed("<", rest, step), rest, step)

    @contextmanager
    def edges_of(self, start: Value, count: Value) -> Iterator[Value]:
        """Loop over the positions of a run."""
        with cgutils.for_range(self.e.builder, count) as loop:
            yield self.e.builder.add(start, loop.index)


def walk_intrinsic(name: str, doc: str, rest: str, emit: Emit) -> Any:
    """An intrinsic over the edges of a row for one slice of it, which does nothing without one.

    It takes the slice, the arguments of a ``Walk`` (edges ``weight_jump`` bytes apart, from the
    address of the slice's first head on), and the integers ``rest``; ``emit`` gets the emitter, the
    slice, and both groups of values.
    """
    more = rest.split()

    def definition(typingctx: Any, row: ConstantType, *kinds: types.Type) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
            slice_, first = row.constant, 1 + len(_KINDS)
            if slice_.heads * slice_.width > 0:
                e = Emitter(builder, slice_.shape.double)
                emit(e, slice_, args[1:first], args[first:])
            return context.get_dummy_value()

        return types.void(row, *_KINDS, *[_INT] * len(more)), codegen

    return named_intrinsic(name, doc, f"row {_WALK} {rest}", definition)
