"""Weighted sums of gathered rows, in slices of a row that stay in registers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from graphattn.kernels.cpu.emitter import I64, Emitter, Value
from graphattn.kernels.cpu.shape import ConstantType, Row
from graphattn.kernels.cpu.tables import TABLE, prefetch_bytes, row_ahead, table_rows
from graphattn.kernels.cpu.vector import named_intrinsic

SLICE_BYTES = 256


def head_weights(e: Emitter, row: Row, weights: Value, start: int, lanes: int) -> Value:
    """The weight of the head that owns each of ``lanes`` numbers from ``start`` of a row."""
    first = start // row.width
    count = max(lanes // row.width, 1)
    if count == 1:
        address = e.address(weights, first * e.itemsize)
        return e.splat(e.builder.load(address, align=e.itemsize, typ=e.scalar), lanes)
    found = e.load(weights, first * e.itemsize, count)
    return e.shuffle(found, None, [lane // row.width for lane in range(lanes)])


def weight_lanes(e: Emitter, row: Row) -> int:
    """Lanes of a piece of a row whose numbers share weights by head."""
    return e.lanes if row.width % e.lanes == 0 else e.lanes // 2


@dataclass(frozen=True)
class _Sum:
    """total[h] += sum_p weights[p, h] * row_p[h] for neighbours p < count."""

    e: Emitter
    out: Row
    shared: bool
    total: Value
    weights: Value
    count: Value
    row_at: Callable[[Value, int, int], Value]

    def emit(self) -> None:
        """Write the loops, one per slice of the row."""
        e, lanes = self.e, weight_lanes(self.e, self.out)
        starts = list(range(0, self.out.heads * self.out.width, lanes))
        step = SLICE_BYTES // (lanes * e.itemsize)
        for first in range(0, len(starts), step):
            self._slice(starts[first : first + step], lanes)

    def _slice(self, starts: list[int], lanes: int) -> None:
        """Sum from zero and add to the total at the end, which also keeps rounding small."""
        e, b, zero = self.e, self.e.builder, self.e.constant(0.0, lanes)
        sums = [cgutils.alloca_once_value(b, zero) for _ in starts]
        for held in sums:
            b.store(zero, held)
        with cgutils.for_range(b, self.count) as loop:
            source = self.row_at(loop.index, starts[0], starts[-1] + lanes)
            jump = ir.Constant(I64, self.out.heads * e.itemsize)
            weights = b.add(self.weights, b.mul(loop.index, jump))
            for start, held in zip(starts, sums, strict=True):
                weight = head_weights(e, self.out, weights, start, lanes)
                place = start % self.out.width if self.shared else start
                found = e.load_stored(self.out.storage, source, place, lanes)
                b.store(e.fma(weight, found, b.load(held, typ=zero.type)), held)
        for start, held in zip(starts, sums, strict=True):
            before = e.load(self.total, start * e.itemsize, lanes)
            e.store(b.fadd(before, b.load(held, typ=zero.type)), self.total, start * e.itemsize)


def _sum_intrinsic(name: str, doc: str, shared: bool) -> Any:
    def weighted(typingctx: Any, row: ConstantType, *rest: types.Type) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
            e = Emitter(builder, row.constant.shape.double)
            _, total, weights, table, count = args

            def row_at(p: Value, first: int, end: int) -> Value:
                return table_rows(e, table, p, 1)[0]

            _Sum(e, row.constant, shared, total, weights, count, row_at).emit()
            return context.get_dummy_value()

        return types.void(row, types.int64, types.int64, TABLE, types.int64), codegen

    return named_intrinsic(name, doc, "row total weights table count", weighted)


weighted_sum = _sum_intrinsic(
    "weighted_sum", "total[h] += sum_p weights[p, h] * row_p[h] over count neighbours.", False
)
weighted_sum_shared = _sum_intrinsic(
    "weighted_sum_shared", "As weighted_sum, one table row for all heads.", True
)


@intrinsic
def weighted_sum_ahead(
    typingctx: Any,
    row: ConstantType,
    total: types.Type,
    weights: types.Type,
    table: types.Type,
    count: types.Type,
    ahead: types.Type,
    start: types.Type,
) -> Any:
    """As weighted_sum, prefetching rows by flat edge position; the block begins at ``start``.

    Nothing is prefetched where ``ahead`` is None.
    """
    blind = ahead == types.none

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        e = Emitter(builder, row.constant.shape.double)
        _, total, weights, table, count, ahead, start = args

        def row_at(p: Value, first: int, end: int) -> Value:
            if blind:
                return table_rows(e, table, p, 1)[0]
            later = row_ahead(e, row.constant.shape, table, ahead, builder.add(start, p))
            size = row.constant.itemsize
            prefetch_bytes(e, later, first * size, end * size)
            return table_rows(e, table, p, 1)[0]

        _Sum(e, row.constant, False, total, weights, count, row_at).emit()
        return context.get_dummy_value()

    number = types.int64
    return types.void(row, number, number, TABLE, number, ahead, number), codegen
