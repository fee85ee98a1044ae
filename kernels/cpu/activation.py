"""Activations and their slopes as vector IR; the definition is kernels/reference/message.py."""

import math
from collections.abc import Callable

from graphattn.kernels.cpu.emitter import Emitter, Value, emit_exp2
from graphattn.kernels.cpu.vector import LOG2_E

# exp(x^2) erfc(x) (x + c) as a polynomial in (x - c) / (x + c), fitted at Chebyshev nodes:
# relative error 6e-9 (float32, c = 2) and 5e-15 (float64, c = 3.75) before rounding.
_ERFC_SINGLE = (1.02158271006196, -0.6871606618349453, 0.27947166741506124, -0.036442715408749084)
_ERFC_SINGLE += (-0.021504756052194426, 0.006482733410539242, 0.0030611381688153243)
_ERFC_SINGLE += (-0.0008512526364757173, -0.0005979389669123012, 6.520622841136653e-05)
_ERFC_SINGLE += (8.049981808975692e-05,)
_ERFC_DOUBLE = (1.0919229095627885, -0.9587415766529228, 0.7363189252220927, -0.49047029120614005)
_ERFC_DOUBLE += (0.2790620490180938, -0.13195540120726384, 0.049118778866434724)
_ERFC_DOUBLE += (-0.012535879802184152, 0.0009863360794692122, 0.0007948219829737602)
_ERFC_DOUBLE += (-0.000348637687153434, 1.0597280853327403e-05, 3.744576646235734e-05)
_ERFC_DOUBLE += (-8.910510020048307e-06, -3.242817157606555e-06, 1.6652374142300922e-06)
_ERFC_DOUBLE += (2.2705933470686262e-07, -2.724662039475434e-07, 8.709654129041518e-09)
_ERFC_DOUBLE += (4.508580568899694e-08, -9.085847975672217e-09, -6.012454375927206e-09)
_ERFC_DOUBLE += (1.0356906601323723e-09,)
# erfc is 0 far below this; it keeps the quotient of infinities out.
_FAR = 100.0

Pair = tuple[Value, Value]
"""phi(z) and its derivative."""


def _identity(e: Emitter, z: Value, slope: float) -> Pair:
    return z, e.constant(1.0, z.type.count)


def _relu(e: Emitter, z: Value, slope: float) -> Pair:
    return _leaky_relu(e, z, 0.0)


def _leaky_relu(e: Emitter, z: Value, slope: float) -> Pair:
    zero, one = e.constant(0.0, z.type.count), e.constant(1.0, z.type.count)
    low = e.constant(slope, z.type.count)
    # NaN is not at most 0 and passes.
    small = e.builder.fmul(z, low) if slope else zero
    return e.select("<=", z, zero, small, z), e.select(">", z, zero, one, low)


def _square(e: Emitter, z: Value, slope: float) -> Pair:
    return e.builder.fmul(z, z), e.builder.fadd(z, z)


def _sigmoid(e: Emitter, z: Value) -> Value:
    b, one = e.builder, e.constant(1.0, z.type.count)
    power = emit_exp2(e, b.fmul(z, e.constant(-LOG2_E, z.type.count)))
    return b.fdiv(one, b.fadd(one, power))


def _silu(e: Emitter, z: Value, slope: float) -> Pair:
    b, one, gate = e.builder, e.constant(1.0, z.type.count), _sigmoid(e, z)
    value = b.fmul(z, gate)
    return value, b.fadd(gate, b.fmul(value, b.fsub(one, gate)))


def _tanh(e: Emitter, z: Value, slope: float) -> Pair:
    b, one, two = (e.builder, *(e.constant(n, z.type.count) for n in (1.0, 2.0)))
    value = b.fsub(b.fmul(two, _sigmoid(e, b.fmul(two, z))), one)
    return value, b.fsub(one, b.fmul(value, value))


def _gelu(e: Emitter, z: Value, slope: float) -> Pair:
    """z Phi(z), and Phi(z) + z times the normal density."""
    b, lanes = e.builder, z.type.count
    zero, one = e.constant(0.0, lanes), e.constant(1.0, lanes)
    bell = emit_exp2(e, b.fmul(b.fmul(z, z), e.constant(-0.5 * LOG2_E, lanes)))
    away = e.select("<", z, zero, b.fneg(z), z)
    away = b.fmul(away, e.constant(math.sqrt(0.5), lanes))
    away = e.select(">", away, e.constant(_FAR, lanes), e.constant(_FAR, lanes), away)
    center = e.constant(3.75 if e.double else 2.0, lanes)
    above = b.fadd(away, center)
    place = b.fdiv(b.fsub(away, center), above)
    coefficients = _ERFC_DOUBLE if e.double else _ERFC_SINGLE
    found = e.constant(coefficients[-1], lanes)
    for c in coefficients[-2::-1]:
        found = e.fma(found, place, e.constant(c, lanes))
    tail = b.fmul(e.constant(0.5, lanes), b.fmul(bell, b.fdiv(found, above)))
    mass = e.select("<", z, zero, tail, b.fsub(one, tail))
    density = b.fmul(bell, e.constant(1.0 / math.sqrt(2.0 * math.pi), lanes))
    return b.fmul(z, mass), e.fma(z, density, mass)


_EMIT: dict[str, Callable[[Emitter, Value, float], Pair]] = {
    "identity": _identity,
    "relu": _relu,
    "leaky_relu": _leaky_relu,
    "gelu": _gelu,
    "silu": _silu,
    "tanh": _tanh,
    "square": _square,
}


def emit_activation(e: Emitter, name: str, z: Value, slope: float) -> Pair:
    """phi(z) and phi'(z); what nobody uses costs nothing, LLVM drops it."""
    return _EMIT[name](e, z, slope)
