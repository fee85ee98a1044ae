"""Memory: scratch, scalars, whole rows; the dropout hash, and the bits of a mask."""

import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from graphattn.kernels.cpu.emitter import I32, I64, Emitter, Value
from graphattn.kernels.cpu.shape import ConstantType, Row
from graphattn.kernels.cpu.sums import head_weights, weight_lanes
from graphattn.kernels.cpu.tables import pieces
from graphattn.kernels.cpu.vector import VectorType, named_intrinsic

_ADDRESS = types.int64


@intrinsic(prefer_literal=True)
def scratch(typingctx: Any, size: types.IntegerLiteral) -> Any:
    """Address of ``size`` bytes on the stack of the calling kernel, aligned to a cache line."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        kind = ir.ArrayType(ir.IntType(8), size.literal_value)
        with builder.goto_entry_block():
            held = builder.alloca(kind)
        held.align = 64
        return builder.ptrtoint(held, I64)

    return _ADDRESS(size), codegen


@intrinsic
def read_integer(typingctx: Any, address: types.Type, position: types.Type) -> Any:
    """An int64 of an array."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        at = builder.add(args[0], builder.mul(args[1], ir.Constant(I64, 8)))
        return Emitter(builder, True).load_integer(at, 0)

    return types.int64(_ADDRESS, types.int64), codegen


@intrinsic(prefer_literal=True)
def read_index(
    typingctx: Any, bits: types.IntegerLiteral, address: types.Type, position: types.Type
) -> Any:
    """An integer of an array of int32 or int64."""
    size = bits.literal_value

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        at = builder.add(args[1], builder.mul(args[2], ir.Constant(I64, size // 8)))
        return Emitter(builder, True).load_integer(at, 0, size)

    return types.int64(bits, _ADDRESS, types.int64), codegen


@intrinsic
def write_integer(
    typingctx: Any, address: types.Type, position: types.Type, number: types.Type
) -> Any:
    """Set an int64 of an array."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        at = builder.add(args[0], builder.mul(args[1], ir.Constant(I64, 8)))
        builder.store(args[2], Emitter(builder, True).address(at), align=8)
        return context.get_dummy_value()

    return types.void(_ADDRESS, types.int64, types.int64), codegen


def _scalar(shape: ConstantType) -> types.Type:
    return types.float64 if shape.constant.double else types.float32


@intrinsic
def read(typingctx: Any, shape: ConstantType, address: types.Type, position: types.Type) -> Any:
    """A number of an array."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        e = Emitter(builder, shape.constant.double)
        at = builder.add(args[1], builder.mul(args[2], ir.Constant(I64, e.itemsize)))
        return builder.load(e.address(at), align=e.itemsize, typ=e.scalar)

    return _scalar(shape)(shape, _ADDRESS, types.int64), codegen


@intrinsic
def write(
    typingctx: Any,
    shape: ConstantType,
    address: types.Type,
    position: types.Type,
    number: types.Type,
) -> Any:
    """Set a number of an array."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        e = Emitter(builder, shape.constant.double)
        at = builder.add(args[1], builder.mul(args[2], ir.Constant(I64, e.itemsize)))
        builder.store(args[3], e.address(at), align=e.itemsize)
        return context.get_dummy_value()

    return types.void(shape, _ADDRESS, types.int64, _scalar(shape)), codegen


def _row_intrinsic(name: str, doc: str, kinds: str, emit: Callable[..., Value]) -> Any:
    """An operation on every number of a row.

    ``kinds`` spells the arguments after the row: "to" is read and written, "a" and "b" are read,
    "x" is a number, "weights" holds one number per head.
    """

    def operation(typingctx: Any, row: ConstantType, *given: types.Type) -> Any:
        number = _scalar(ConstantType(row.constant.shape, row.version))

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
            e = Emitter(builder, row.constant.shape.double)
            _each_piece(e, row.constant, kinds.split(), emit, args[1:])
            return context.get_dummy_value()

        expected = [number if kind == "x" else _ADDRESS for kind in kinds.split()]
        return types.void(row, *expected), codegen

    return named_intrinsic(name, doc, f"row {kinds}", operation)


def _each_piece(
    e: Emitter, row: Row, kinds: list[str], emit: Callable[..., Value], args: Any
) -> None:
    for offset, lanes in pieces(row, weight_lanes(e, row) if "weights" in kinds else e.lanes):
        values = []
        for kind, value in zip(kinds, args, strict=True):
            if kind == "x":
                values.append(e.splat(value, lanes))
            elif kind == "weights":
                values.append(head_weights(e, row, value, offset // e.itemsize, lanes))
            else:
                values.append(e.load(value, offset, lanes))
        e.store(emit(e, *values), args[0], offset)


row_zero = _row_intrinsic("row_zero", "to = 0.", "to", lambda e, to: e.constant(0.0, to.type.count))
row_scale = _row_intrinsic(
    "row_scale", "to = a * x.", "to a x", lambda e, to, a, x: e.builder.fmul(a, x)
)
row_multiply = _row_intrinsic(
    "row_multiply", "to = a * b.", "to a b", lambda e, to, a, b: e.builder.fmul(a, b)
)
row_add_product = _row_intrinsic(
    "row_add_product", "to += a * b.", "to a b", lambda e, to, a, b: e.fma(a, b, to)
)
row_weigh = _row_intrinsic(
    "row_weigh",
    "to = a * weight of the head.",
    "to a weights",
    lambda e, to, a, w: e.builder.fmul(a, w),
)
row_add_weighed = _row_intrinsic(
    "row_add_weighed",
    "to += a * weight of the head.",
    "to a weights",
    lambda e, to, a, w: e.fma(a, w, to),
)


@intrinsic
def as_wide(typingctx: Any, row: ConstantType, address: types.Type, spare: types.Type) -> Any:
    """Address of a stored row's numbers to compute with: its own, or ``spare``, widened."""
    kind = row.constant

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        if not kind.storage:
            return args[1]
        e = Emitter(builder, kind.shape.double)
        for offset, lanes in pieces(kind, e.lanes):
            found = e.load_stored(kind.storage, args[1], offset // e.itemsize, lanes)
            e.store(found, args[2], offset)
        return args[2]

    return _ADDRESS(row, _ADDRESS, _ADDRESS), codegen


@intrinsic
def mix_heads(
    typingctx: Any, row: ConstantType, total: types.Type, source: types.Type, weights: types.Type
) -> Any:
    """total[f] += sum_h weights[h] * source[h, f]: a row of one head from a row of all heads."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        many = row.constant
        e, one = Emitter(builder, many.shape.double), Row(many.shape, many.width, 1)
        _, total, source, weights = args
        for offset, lanes in pieces(one, e.lanes):
            found = e.load(total, offset, lanes)
            for head in range(many.heads):
                number = e.address(weights, head * e.itemsize)
                weight = builder.load(number, align=e.itemsize, typ=e.scalar)
                part = e.load(source, head * one.bytes + offset, lanes)
                found = e.fma(e.splat(weight, lanes), part, found)
            e.store(found, total, offset)
        return context.get_dummy_value()

    return types.void(row, *[_ADDRESS] * 3), codegen


@intrinsic
def keep(
    typingctx: Any,
    shape: ConstantType,
    words: types.Type,
    first: types.Type,
    second: types.Type,
    threshold: types.Type,
    factor: types.Type,
) -> Any:
    """``factor`` where dropout keeps a score of this vector, else 0.

    ``words``: folded edge ids of the neighbours; ``first``, ``second``: stream words per head,
    all int64 slots. The hash is that of kernels/reference/dropout.py.
    """
    result = VectorType(shape.constant.double)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        e = Emitter(builder, shape.constant.double)
        heads, tree = shape.constant.heads, shape.constant.tree
        edge = _words(e, args[1], tree, [lane // heads for lane in range(e.lanes)])
        one, two = (
            _words(e, a, heads, [lane % heads for lane in range(e.lanes)]) for a in args[2:4]
        )
        hashed = _hash(e, edge, one, two)
        limit = e.splat(builder.trunc(args[4], I32), e.lanes)
        kept = builder.icmp_unsigned(">=", hashed, limit)
        return builder.select(kept, e.splat(args[5], e.lanes), e.constant(0.0, e.lanes))

    number = _scalar(shape)
    return result(shape, *[_ADDRESS] * 3, types.int64, number), codegen


@intrinsic
def surviving(typingctx: Any, shape: ConstantType, vector: VectorType, bits: types.Type) -> Any:
    """Scores whose bit is set, and -inf: head h of a neighbour has bit h of its int64 slot."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        e, heads = Emitter(builder, vector.double), shape.constant.heads
        lanes = [lane // heads for lane in range(e.lanes)]
        words = _words(e, args[2], shape.constant.tree, lanes)
        chosen = ir.Constant(words.type, [1 << (lane % heads) for lane in range(e.lanes)])
        unset = builder.icmp_signed("==", builder.and_(words, chosen), words.type(None))
        return builder.select(unset, e.constant(-math.inf, e.lanes), args[1])

    return vector(shape, vector, _ADDRESS), codegen


def _words(e: Emitter, address: Value, count: int, lanes: list[int]) -> Value:
    """``count`` int64 slots cut to 32 bits and spread over the lanes."""
    kind = ir.VectorType(I64, count)
    found = e.builder.load(e.address(address), align=8, typ=kind)
    return e.shuffle(e.builder.trunc(found, ir.VectorType(I32, count)), None, lanes)


def _hash(e: Emitter, x: Value, first: Value, second: Value) -> Value:
    b, kind = e.builder, x.type

    def word(number: int) -> Value:
        return ir.Constant(kind, [number] * kind.count)

    x = b.xor(x, first)
    x = b.xor(x, b.lshr(x, word(16)))
    x = b.mul(x, word(0x7FEB352D))
    x = b.xor(x, b.lshr(x, word(15)))
    x = b.mul(b.add(x, second), word(0x846CA68B))
    return b.xor(x, b.lshr(x, word(16)))
