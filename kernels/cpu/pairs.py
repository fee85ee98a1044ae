"""Attention of two queries over the keys that either of them reads, as vector IR.

Two queries that are neighbours on a grid read almost the same keys: each is loaded once for both.
The keys of a pair lie in groups of a quarter vector (4 float32), and its scores beside each other,
the first query's quarter before the second's, so that one reduction tree makes one half vector and
the softmax treats both queries at once.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from graphattn.kernels.cpu.dots import ordered_tree
from graphattn.kernels.cpu.emitter import I64, Emitter, Value, emit_exp2
from graphattn.kernels.cpu.shape import ConstantType, Row
from graphattn.kernels.cpu.sums import SLICE_BYTES
from graphattn.kernels.cpu.tables import prefetch_bytes
from graphattn.kernels.cpu.vector import named_intrinsic

HALF_BYTES = 32
_INT = types.int64


def _number(count: int) -> Value:
    return ir.Constant(I64, count)


@contextmanager
def rolled(e: Emitter, end: Value, start: Value | None = None) -> Iterator[Any]:
    """As ``for_range``, for a body that fills the registers: unrolled, it would spill."""
    with cgutils.for_range(e.builder, end, start) as loop:
        yield loop
    module, (_, block) = e.builder.module, loop.index.incomings[1]
    disable = module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")])
    identity = ir.MDValue(module, [disable], name=str(len(module.metadata)))
    # LLVM knows the metadata of a loop by its first operand, which is itself.
    identity.operands = (identity, disable)
    block.terminator.set_metadata("llvm.loop", identity)


def _row_of(e: Emitter, base: Value, offsets: Value, number: Value, ahead: int = 0) -> Value:
    """Address of a key: the base of its window row and the offset of its number."""
    at = e.builder.add(offsets, e.builder.mul(number, _number(8)))
    return e.builder.add(base, e.load_integer(at, 8 * ahead))


@intrinsic
def pair_scores(
    typingctx: Any,
    row: ConstantType,
    queries: types.Type,
    base: types.Type,
    offsets: types.Type,
    groups: types.Type,
    masks: types.Type,
    scores: types.Type,
) -> Any:
    """Dot products of two queries with the keys of one window row, -inf where not a neighbour.

    ``queries``: two scaled rows of one head; ``offsets``: bytes from ``base``, int64 each;
    ``masks``: 0 for a neighbour, laid out as the scores.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        _Scores(Emitter(builder, row.constant.shape.double), row.constant, *args[1:]).emit()
        return context.get_dummy_value()

    return types.void(row, *[_INT] * 6), codegen


class _Scores:
    def __init__(
        self, e: Emitter, row: Row, queries: Value, base: Value, offsets: Value, groups: Value,
        masks: Value, scores: Value,
    ) -> None:  # fmt: skip
        self.e, self.row, self.base, self.offsets = e, row, base, offsets
        self.groups, self.masks, self.scores = groups, masks, scores
        self.part = e.lanes // 2
        starts = range(0, row.width, self.part)
        # Loaded before the loop: LLVM cannot know that storing scores leaves them as they are.
        self.queries = [
            [e.load(queries, (q * row.width + start) * e.itemsize, self.part) for start in starts]
            for q in range(2)
        ]

    def emit(self) -> None:
        e, b, quarter = self.e, self.e.builder, self.part // 2
        with cgutils.for_range(b, self.groups) as loop:
            first = b.mul(loop.index, _number(quarter))
            keys = [_row_of(e, self.base, self.offsets, first, u) for u in range(quarter)]
            leaves = [partial(self.product, q, key) for q in range(2) for key in keys]
            found = ordered_tree(e, leaves, self.part)
            jump = b.mul(loop.index, _number(HALF_BYTES))
            mask, zero = e.load(b.add(self.masks, jump), 0, self.part), e.constant(0.0, self.part)
            nothing = e.constant(float("-inf"), self.part)
            e.store(e.select("==", mask, zero, found, nothing), b.add(self.scores, jump), 0)

    def product(self, query: int, key: Value) -> Value:
        """Lane-wise products of a query and a key, down to half a vector."""
        total = None
        for number, own in enumerate(self.queries[query]):
            near = self.e.load_stored(self.row.storage, key, number * self.part, self.part)
            total = (
                self.e.builder.fmul(own, near) if total is None else self.e.fma(own, near, total)
            )
        return total


def _fold(e: Emitter, vector: Value, combine: Callable[[Value, Value], Value]) -> Value:
    """Combine the lanes of either half; each of its lanes holds the result."""
    lanes, step = vector.type.count, 1
    while step < lanes // 2:
        turned = e.shuffle(vector, None, [lane ^ step for lane in range(lanes)])
        vector, step = combine(vector, turned), 2 * step
    return vector


def _larger(e: Emitter) -> Callable[[Value, Value], Value]:
    return lambda a, b: e.select(">", a, b, a, b)


@intrinsic
def pair_softmax(
    typingctx: Any, shape: ConstantType, scores: types.Type, count: types.Type, state: types.Type
) -> Any:
    """Replace ``count`` half vectors of scores, in units of log 2, by weights exp2(score - top).

    ``state``: half vectors of the running top, of the mass by lane, and of the factor by which what
    was summed before shrinks.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        e = Emitter(builder, shape.constant.double)
        _, scores, count, state = args
        part = e.lanes // 2
        before, kind = e.load(state, 0, part), ir.VectorType(e.scalar, part)
        held = cgutils.alloca_once(builder, kind)
        builder.store(before, held)

        def place(index: Value) -> Value:
            return builder.add(scores, builder.mul(index, _number(HALF_BYTES)))

        with cgutils.for_range(builder, count) as loop:
            here = e.load(place(loop.index), 0, part)
            builder.store(_larger(e)(builder.load(held, typ=kind), here), held)
        top = _fold(e, builder.load(held, typ=kind), _larger(e))
        shrink = emit_exp2(e, builder.fsub(before, top))
        builder.store(builder.fmul(e.load(state, HALF_BYTES, part), shrink), held)
        with rolled(e, count) as loop:
            weight = emit_exp2(e, builder.fsub(e.load(place(loop.index), 0, part), top))
            builder.store(builder.fadd(builder.load(held, typ=kind), weight), held)
            e.store(weight, place(loop.index), 0)
        for number, vector in enumerate((top, builder.load(held, typ=kind), shrink)):
            e.store(vector, state, number * HALF_BYTES)
        return context.get_dummy_value()

    return types.void(shape, *[_INT] * 3), codegen


@intrinsic
def pair_mass(typingctx: Any, shape: ConstantType, state: types.Type) -> Any:
    """Sum the mass of a state over the lanes of each query."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        e = Emitter(builder, shape.constant.double)
        mass = e.load(args[1], HALF_BYTES, e.lanes // 2)
        e.store(_fold(e, mass, builder.fadd), args[1], HALF_BYTES)
        return context.get_dummy_value()

    return types.void(shape, _INT), codegen


@intrinsic
def pair_sums(
    typingctx: Any,
    row: ConstantType,
    first_out: types.Type,
    second_out: types.Type,
    weights: types.Type,
    rows: types.Type,
    groups: types.Type,
    bases: types.Type,
    offsets: types.Type,
    limits: types.Type,
    state: types.Type,
    again: types.Type,
) -> Any:
    """out = out * shrink * again + sum of weight times key row, for both queries.

    ``bases``: addresses of the window ``rows``; ``limits``: int64 slots, the first query's keys
    end at the first, the second's lie between the other two. A key is read for a query only if it
    is a neighbour, since 0 * inf would be NaN. ``again``: whether out has been written before.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        _Sums(Emitter(builder, row.constant.shape.double), row.constant, *args[1:]).emit()
        return context.get_dummy_value()

    return types.void(row, *[_INT] * 10), codegen


class _Sums:
    def __init__(
        self, e: Emitter, row: Row, first_out: Value, second_out: Value, weights: Value,
        rows: Value, groups: Value, bases: Value, offsets: Value, limits: Value, state: Value,
        again: Value,
    ) -> None:  # fmt: skip
        self.e, self.row, self.out = e, row, (first_out, second_out)
        self.weights, self.rows, self.bases = weights, rows, bases
        self.offsets, self.state, self.again = offsets, state, again
        self.jump = e.builder.mul(groups, _number(HALF_BYTES))
        self.quarter = e.lanes // 4
        self.limits = [e.load_integer(limits, 8 * number) for number in range(3)]

    def emit(self) -> None:
        """Write the loops, one set for each slice of the row that stays in registers."""
        size = min(self.row.width * self.e.itemsize, SLICE_BYTES // 2)
        step = size // self.e.itemsize
        for start in range(0, self.row.width, step):
            self.slice(start, min(step, self.row.width - start))

    def slice(self, start: int, width: int) -> None:
        """Both queries' sums of one slice."""
        e, b = self.e, self.e.builder
        lanes = min(e.lanes, width)
        starts = range(start, start + width, lanes)
        zero = e.constant(0.0, lanes)
        held = [[cgutils.alloca_once(b, zero.type) for _ in starts] for _ in range(2)]
        for place in held[0] + held[1]:
            b.store(zero, place)
        one_end, two_start, two_end = self.limits
        alone = b.select(b.icmp_signed("<", two_start, one_end), two_start, one_end)
        late = b.select(b.icmp_signed(">", two_start, one_end), two_start, one_end)
        with cgutils.for_range(b, self.rows) as loop:
            base = self.e.load_integer(b.add(self.bases, b.mul(loop.index, _number(8))), 0)
            weights = b.add(self.weights, b.mul(loop.index, self.jump))
            for queries, first, end in (
                ((0,), None, alone),
                ((0, 1), two_start, one_end),
                ((1,), late, two_end),
            ):
                with rolled(e, end, first) as keys:
                    self.key(queries, base, weights, keys.index, starts, lanes, held)
        for query, places in enumerate(held):
            self.save(query, starts, lanes, places)

    def key(
        self, queries: tuple[int, ...], base: Value, weights: Value, number: Value, starts: range,
        lanes: int, held: list[list[Value]],
    ) -> None:  # fmt: skip
        """Add one key's share to the sums of some queries."""
        e, b = self.e, self.e.builder
        source = _row_of(e, base, self.offsets, number)
        # Number u lies in group u // quarter, whose scores take twice that many places.
        place = b.add(number, b.and_(number, _number(-self.quarter)))
        at = b.add(weights, b.mul(place, _number(e.itemsize)))
        found = [e.load_stored(self.row.storage, source, start, lanes) for start in starts]
        for query in queries:
            where = e.address(at, query * self.quarter * e.itemsize)
            weight = e.splat(b.load(where, align=e.itemsize, typ=e.scalar), lanes)
            for vector, total in zip(found, held[query], strict=True):
                b.store(e.fma(weight, vector, b.load(total, typ=vector.type)), total)

    def save(self, query: int, starts: range, lanes: int, places: list[Value]) -> None:
        """Write the sums, or add them to what blocks before have left."""
        e, b, out = self.e, self.e.builder, self.out[query]
        again = b.icmp_signed("!=", self.again, _number(0))
        factor = e.address(self.state, 2 * HALF_BYTES + query * HALF_BYTES // 2)
        shrink = e.splat(b.load(factor, align=e.itemsize, typ=e.scalar), lanes)
        with b.if_else(again) as (later, at_first):
            for branch in (later, at_first):
                with branch:
                    for start, place in zip(starts, places, strict=True):
                        total = b.load(place, typ=shrink.type)
                        if branch is later:
                            total = e.fma(shrink, e.load(out, start * e.itemsize, lanes), total)
                        e.store(total, out, start * e.itemsize)


def _prefetch(name: str, doc: str) -> Any:
    def definition(typingctx: Any, row: ConstantType, *rest: types.Type) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
            e = Emitter(builder, row.constant.shape.double)
            _, base, offsets, first, end = args
            with cgutils.for_range(builder, end, first) as loop:
                prefetch_bytes(e, _row_of(e, base, offsets, loop.index), 0, row.constant.bytes)
            return context.get_dummy_value()

        return types.void(row, *[_INT] * 4), codegen

    return named_intrinsic(name, doc, "row base offsets first end", definition)


prefetch_keys = _prefetch("prefetch_keys", "Ask for the keys ``first`` to ``end`` of a window row.")
