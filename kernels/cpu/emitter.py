"""Portable LLVM vector IR: the only file that knows how the instructions are spelled.

A full vector has 64 bytes (16 float32 or 8 float64), which LLVM splits on narrower machines. No
intrinsic of one target is used; ``fmuladd`` fuses where the machine can.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from graphattn.kernels.cpu.shape import VECTOR_BYTES

Value = ir.Value
I32, I64 = ir.IntType(32), ir.IntType(64)
# Minimax in relative error for 2^f on [-1/2, 1/2]: 1.9e-9 and 3.1e-18 before rounding.
_EXP2_SINGLE = (1.0, 0.69314720573719575, 0.24022646890645521, 0.055503287771053248)
_EXP2_SINGLE += (0.0096184889563311816, 0.0013399931177239738, 0.00015345812161311629)
_EXP2_DOUBLE = (1.0, 0.69314718055994533046, 0.24022650695910156204, 0.055504108664819921605)
_EXP2_DOUBLE += (0.0096181291075883352443, 0.0013333558146789921722, 0.00015403530462514432062)
_EXP2_DOUBLE += (1.5252733489988525649e-5, 1.321543308967639918e-6, 1.0178198021671930844e-7)
_EXP2_DOUBLE += (7.0741056135081427963e-9, 4.4352827069572771511e-10)


class Emitter:
    """Writes vector IR at the builder's position; ``lanes`` numbers make a full vector."""

    def __init__(self, builder: ir.IRBuilder | None, double: bool) -> None:
        self.builder: Any = builder
        self.double = double
        self.itemsize = 8 if double else 4
        self.lanes = VECTOR_BYTES // self.itemsize
        self.scalar: Any = ir.DoubleType() if double else ir.FloatType()

    def address(self, base: Value, offset: int = 0) -> Value:
        """Pointer to ``offset`` bytes past an int64 address."""
        return self.builder.inttoptr(self.add(base, offset), ir.PointerType())

    def add(self, base: Value, offset: int) -> Value:
        """An integer plus a constant."""
        return self.builder.add(base, ir.Constant(I64, offset)) if offset else base

    def load(self, base: Value, offset: int, lanes: int) -> Value:
        """``lanes`` numbers from memory, any alignment."""
        kind = ir.VectorType(self.scalar, lanes)
        return self.builder.load(self.address(base, offset), align=self.itemsize, typ=kind)

    def store(self, vector: Value, base: Value, offset: int) -> None:
        """Write a vector, any alignment."""
        self.builder.store(vector, self.address(base, offset), align=self.itemsize)

    def load_stored(self, storage: str, base: Value, number: int, lanes: int) -> Value:
        """``lanes`` numbers from the ``number``-th on, widened from how they are stored."""
        if not storage:
            return self.load(base, number * self.itemsize, lanes)
        b, wide = self.builder, ir.VectorType(self.scalar, lanes)
        kind = ir.VectorType(ir.HalfType() if storage == "f16" else ir.IntType(16), lanes)
        raw = b.load(self.address(base, 2 * number), align=2, typ=kind)
        if storage == "f16":
            return b.fpext(raw, wide)
        # bfloat16 is the upper half of a float32.
        whole = ir.VectorType(I32, lanes)
        return b.bitcast(b.shl(b.zext(raw, whole), ir.Constant(whole, [16] * lanes)), wide)

    def load_integer(self, base: Value, offset: int, bits: int = 64) -> Value:
        """An integer from memory, extended to 64 bits."""
        kind = ir.IntType(bits)
        found = self.builder.load(self.address(base, offset), align=bits // 8, typ=kind)
        return found if bits == 64 else self.builder.sext(found, I64)

    def constant(self, number: float, lanes: int) -> Value:
        """A vector of one number."""
        return ir.Constant(ir.VectorType(self.scalar, lanes), [number] * lanes)

    def shuffle(self, a: Value, b: Value | None, lanes: Sequence[int]) -> Value:
        """Pick lanes of ``a`` followed by ``b``."""
        mask = ir.Constant(ir.VectorType(I32, len(lanes)), [int(lane) for lane in lanes])
        other = ir.Constant(a.type, ir.Undefined) if b is None else b
        return self.builder.shuffle_vector(a, other, mask)

    def splat(self, number: Value, lanes: int) -> Value:
        """Repeat a scalar (float or integer) in every lane."""
        empty = ir.Constant(ir.VectorType(number.type, lanes), ir.Undefined)
        first = self.builder.insert_element(empty, number, ir.Constant(I32, 0))
        return self.shuffle(first, None, [0] * lanes)

    def join(self, parts: Sequence[Value]) -> Value:
        """Concatenate a power of two of equal vectors."""
        if len(parts) == 1:
            return parts[0]
        half = len(parts) // 2
        low, high = self.join(parts[:half]), self.join(parts[half:])
        return self.shuffle(low, high, range(2 * low.type.count))

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c, fused where the machine can."""
        kind = a.type
        name = f"llvm.fmuladd.v{kind.count}f{8 * self.itemsize}"
        function = ir.FunctionType(kind, [kind] * 3)
        return self.builder.call(
            cgutils.get_or_insert_function(self.builder.module, function, name), [a, b, c]
        )

    def select(self, test: str, a: Value, b: Value, yes: Value, no: Value) -> Value:
        """``yes`` where the ordered comparison ``a test b`` holds; NaN compares false."""
        return self.builder.select(self.builder.fcmp_ordered(test, a, b), yes, no)


def emit_exp2(e: Emitter, x: Value) -> Value:
    """2^x = 2^k p(x - k) with k the nearest integer, taken from the bits of x + 1.5 * 2^m.

    The product with 2^k carries a NaN of p on, whatever the integer bits became.
    """
    b, lanes = e.builder, x.type.count
    mantissa, bias = (52, 1023) if e.double else (23, 127)
    whole = ir.VectorType(ir.IntType(8 * e.itemsize), lanes)
    top, magic = e.constant(bias + 1.0, lanes), e.constant(1.5 * 2.0**mantissa, lanes)
    limited = e.select(">", x, top, top, x)
    shifted = b.fadd(limited, magic)
    f = b.fsub(limited, b.fsub(shifted, magic))
    coefficients = _EXP2_DOUBLE if e.double else _EXP2_SINGLE
    poly = e.constant(coefficients[-1], lanes)
    for c in coefficients[-2::-1]:
        poly = e.fma(poly, f, e.constant(c, lanes))
    k = b.sub(b.bitcast(shifted, whole), b.bitcast(magic, whole))
    exponent = b.shl(
        b.add(k, ir.Constant(whole, [bias] * lanes)), ir.Constant(whole, [mantissa] * lanes)
    )
    power = b.fmul(poly, b.bitcast(exponent, x.type))
    zero, least = e.constant(0.0, lanes), e.constant(1.0 - bias, lanes)
    return e.select("<", x, least, zero, power)
