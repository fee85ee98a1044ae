"""Vectors of scores as Numba values: operators, load, store, clip, fold, exp2.

A ``Vector`` is one full vector of emitter.py; addresses are plain int64.
"""

import inspect
import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.imputils import lower_builtin
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic, models, register_model

from graphattn.kernels.cpu.emitter import I64, Emitter, Value, emit_exp2
from graphattn.kernels.cpu.shape import ConstantType

LOG2_E = 1.4426950408889634
LN_2 = 0.6931471805599453


class VectorType(types.Type):
    """Numba type of one LLVM vector of numbers."""

    def __init__(self, double: bool) -> None:
        super().__init__(name=f"Vector({'float64' if double else 'float32'})")
        self.double = double


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: VectorType) -> None:
        emit = Emitter(None, numba_type.double)
        super().__init__(manager, numba_type, ir.VectorType(emit.scalar, emit.lanes))


def _operand(e: Emitter, context: Any, value: Value, kind: types.Type) -> Value:
    """A Numba operand as a full vector: a vector itself, or a number repeated."""
    if isinstance(kind, VectorType):
        return value
    number = types.float64 if e.double else types.float32
    return e.splat(context.cast(e.builder, value, kind, number), e.lanes)


def _operator(key: Callable[..., Any], emit: Callable[[Any, Value, Value], Value]) -> None:
    """Give Vector a binary operator; the other side may be a number."""

    @infer_global(key)
    class _Template(AbstractTemplate):
        def generic(self, args: tuple[types.Type, ...], kws: dict[str, Any]) -> Any:
            vectors = [a for a in args if isinstance(a, VectorType)]
            plain = all(isinstance(a, (VectorType, types.Number)) for a in args)
            return signature(vectors[0], *args) if vectors and plain else None

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        e = Emitter(builder, sig.return_type.double)
        both = [_operand(e, context, *pair) for pair in zip(args, sig.args, strict=True)]
        return emit(builder, both[0], both[1])

    for left, right in ((VectorType, VectorType), (VectorType, types.Number)):
        lower_builtin(key, left, right)(lower)
    lower_builtin(key, types.Number, VectorType)(lower)


_operator(operator.add, lambda builder, a, b: builder.fadd(a, b))
_operator(operator.sub, lambda builder, a, b: builder.fsub(a, b))
_operator(operator.mul, lambda builder, a, b: builder.fmul(a, b))
_operator(operator.truediv, lambda builder, a, b: builder.fdiv(a, b))
# Operands that are NaN on the right pass, so a NaN score is never replaced by a bound.
_operator(max, lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))


def named_intrinsic(name: str, doc: str, parameters: str, definition: Callable[..., Any]) -> Any:
    """An intrinsic from a generic definition; Numba takes its parameters from the signature."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    names = ["typingctx", *parameters.split()]
    definition.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in names])
    definition.__name__, definition.__doc__ = name, doc
    return intrinsic(definition)


@intrinsic
def splat(typingctx: Any, shape: ConstantType, number: types.Type) -> Any:
    """A vector of one number."""
    result = VectorType(shape.constant.double)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        return _operand(Emitter(builder, result.double), context, args[1], sig.args[1])

    return result(shape, number), codegen


@intrinsic
def load(typingctx: Any, shape: ConstantType, address: types.Type) -> Any:
    """One vector from memory."""
    result = VectorType(shape.constant.double)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        e = Emitter(builder, result.double)
        return e.load(args[1], 0, e.lanes)

    return result(shape, types.int64), codegen


@intrinsic
def store(typingctx: Any, address: types.Type, vector: VectorType) -> Any:
    """Write one vector."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        Emitter(builder, vector.double).store(args[1], args[0], 0)
        return context.get_dummy_value()

    return types.void(types.int64, vector), codegen


@intrinsic
def store_heads(
    typingctx: Any, shape: ConstantType, address: types.Type, vector: VectorType
) -> Any:
    """Write the first number of every head."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        e = Emitter(builder, vector.double)
        e.store(e.shuffle(args[2], None, range(shape.constant.heads)), args[1], 0)
        return context.get_dummy_value()

    return types.void(shape, types.int64, vector), codegen


@intrinsic
def clip(typingctx: Any, vector: VectorType, bound: types.Type) -> Any:
    """Limit every lane to [-bound, bound]; NaN passes."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        e = Emitter(builder, vector.double)
        high = _operand(e, context, args[1], sig.args[1])
        low = builder.fneg(high)
        below = e.select(">", args[0], high, high, args[0])
        return e.select("<", below, low, low, below)

    return vector(vector, bound), codegen


@intrinsic
def within(typingctx: Any, test: VectorType, bound: types.Type, vector: VectorType) -> Any:
    """``vector`` where ``test`` lies in [-bound, bound], both included, else 0."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        e = Emitter(builder, vector.double)
        high, zero = _operand(e, context, args[1], sig.args[1]), e.constant(0.0, e.lanes)
        inside = e.select("<=", args[0], high, args[2], zero)
        return e.select(">=", args[0], builder.fneg(high), inside, zero)

    return vector(vector, bound, vector), codegen


@intrinsic
def replace(typingctx: Any, vector: VectorType, old: types.Type, new: types.Type) -> Any:
    """``new`` in every lane that equals ``old``."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        e = Emitter(builder, vector.double)
        old, new = (_operand(e, context, args[i], sig.args[i]) for i in (1, 2))
        return e.select("==", args[0], old, new, args[0])

    return vector(vector, old, new), codegen


@intrinsic
def head_of_lanes(typingctx: Any, vector: VectorType, count: types.Type, rest: types.Type) -> Any:
    """The first ``count`` lanes of a vector; the others become ``rest``."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        e = Emitter(builder, vector.double)
        lanes = ir.Constant(ir.VectorType(I64, e.lanes), list(range(e.lanes)))
        inside = builder.icmp_signed("<", lanes, e.splat(args[1], e.lanes))
        return builder.select(inside, args[0], _operand(e, context, args[2], sig.args[2]))

    return vector(vector, types.int64, rest), codegen


def _fold(name: str, combine: Callable[[Emitter, Value, Value], Value]) -> Any:
    def fold(typingctx: Any, shape: ConstantType, vector: VectorType) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
            e, found = Emitter(builder, vector.double), args[1]
            step = shape.constant.heads
            while step < e.lanes:
                turned = e.shuffle(found, None, [lane ^ step for lane in range(e.lanes)])
                found, step = combine(e, found, turned), 2 * step
            return found

        return vector(shape, vector), codegen

    doc = "Combine the lanes of each head; every lane holds its head's result."
    return named_intrinsic(name, doc, "shape vector", fold)


fold_sum = _fold("fold_sum", lambda e, a, b: e.builder.fadd(a, b))
fold_max = _fold("fold_max", lambda e, a, b: e.select(">", a, b, a, b))


@intrinsic
def exp2(typingctx: Any, vector: VectorType) -> Any:
    """2^x: relative error below 3e-7 (float32), 0 below the normal range, NaN passes."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        return emit_exp2(Emitter(builder, vector.double), args[0])

    return vector(vector), codegen
