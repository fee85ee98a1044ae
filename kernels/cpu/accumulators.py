"""Running states of the reductions, as vector IR: sums, moments, extremes.

Edges come in blocks. An accumulator is begun once per row, opened with the first message of each
block, stepped through all of its messages, closed, and finished at the end of the row.
"""

import math
from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils

from graphattn.kernels.cpu.emitter import Emitter, Value
from graphattn.kernels.cpu.reduction import Reduction

LEAST_VARIANCE = 1e-5
"""As kernels/reference/aggregate.py: std is 0 up to this variance."""


class Message(NamedTuple):
    """What an edge carries: x, its factor (None for 1), and their product."""

    x: Value
    factor: Value | None
    product: Value


def square_root(e: Emitter, vector: Value) -> Value:
    """The root of every lane."""
    kind = vector.type
    name = f"llvm.sqrt.v{kind.count}f{8 * e.itemsize}"
    function = ir.FunctionType(kind, [kind])
    return e.builder.call(
        cgutils.get_or_insert_function(e.builder.module, function, name), [vector]
    )


class Accumulator:
    """A few vectors of state in memory of the entry block, which LLVM turns into registers."""

    def __init__(self, e: Emitter, lanes: int, names: str) -> None:
        self.e, self.lanes = e, lanes
        kind = ir.VectorType(e.scalar, lanes)
        self.kind = kind
        self._held = {name: cgutils.alloca_once(e.builder, kind) for name in names.split()}

    def get(self, name: str) -> Value:
        """A vector of the state."""
        return self.e.builder.load(self._held[name], typ=self.kind)

    def set(self, **vectors: Value) -> None:
        """Change vectors of the state."""
        for name, vector in vectors.items():
            self.e.builder.store(vector, self._held[name])

    def constant(self, number: float) -> Value:
        """A vector of one number."""
        return self.e.constant(number, self.lanes)

    def begin(self) -> None:
        """Start a row."""
        raise NotImplementedError

    def open(self, first: Message | None, fresh: Value | None) -> None:
        """Start a block; ``fresh``: whether it is the first of its row."""

    def step(self, message: Message) -> None:
        """Take one edge."""
        raise NotImplementedError

    def close(self, before: Value | None, count: Value | None) -> None:
        """End a block of ``count`` edges that ``before`` edges went ahead of."""

    def finish(self, count: Value, found: dict[str, Value]) -> list[Value]:
        """Add the results of a row of ``count`` edges to ``found``; return what is saved."""
        raise NotImplementedError


class _Sum(Accumulator):
    def __init__(self, e: Emitter, lanes: int) -> None:
        super().__init__(e, lanes, "total part")

    def begin(self) -> None:
        self.set(total=self.constant(0.0))

    def open(self, first: Message | None, fresh: Value | None) -> None:
        self.set(part=self.constant(0.0))

    def step(self, message: Message) -> None:
        part = self.get("part")
        if message.factor is None:
            self.set(part=self.e.builder.fadd(part, message.x))
        else:
            self.set(part=self.e.fma(message.factor, message.x, part))

    def close(self, before: Value | None, count: Value | None) -> None:
        self.set(total=self.e.builder.fadd(self.get("total"), self.get("part")))

    def result(self) -> Value:
        """The sum."""
        return self.get("total")

    def finish(self, count: Value, found: dict[str, Value]) -> list[Value]:
        found["sum"] = self.get("total")
        found["mean"] = self.e.builder.fdiv(found["sum"], self.e.splat(count, self.lanes))
        return []


class _Spread(Accumulator):
    """Mean and moment, the sum of squared distances to the mean.

    Within a block, sums of distances to its first message: no cancellation beyond the block's
    length. Blocks are merged by the formula of Chan, Golub and LeVeque (1983), with means counted
    from the first message of the row, so that a large mean does not round their differences.
    """

    def __init__(self, e: Emitter, lanes: int) -> None:
        super().__init__(e, lanes, "base mean moment shift first second")

    def begin(self) -> None:
        zero = self.constant(0.0)
        self.set(base=zero, mean=zero, moment=zero)

    def open(self, first: Message | None, fresh: Value | None) -> None:
        assert first is not None
        base = self.e.builder.select(fresh, first.product, self.get("base"))
        zero = self.constant(0.0)
        self.set(base=base, shift=first.product, first=zero, second=zero)

    def step(self, message: Message) -> None:
        away = self.e.builder.fsub(message.product, self.get("shift"))
        self.set(
            first=self.e.builder.fadd(self.get("first"), away),
            second=self.e.fma(away, away, self.get("second")),
        )

    def close(self, before: Value | None, count: Value | None) -> None:
        e, b = self.e, self.e.builder
        total = b.fadd(before, count)
        share, cross = b.fdiv(count, total), b.fdiv(b.fmul(before, count), total)
        size, share, cross = (e.splat(n, self.lanes) for n in (count, share, cross))
        first, zero = self.get("first"), self.constant(0.0)
        away = b.fdiv(first, size)
        moment = b.fsub(self.get("second"), b.fmul(first, away))
        # Rounding alone makes it negative; NaN is not below 0 and stays.
        moment = e.select("<", moment, zero, zero, moment)
        mean = b.fadd(b.fsub(self.get("shift"), self.get("base")), away)
        apart = b.fsub(mean, self.get("mean"))
        between = b.fmul(b.fmul(apart, cross), apart)
        self.set(
            mean=e.fma(apart, share, self.get("mean")),
            moment=b.fadd(b.fadd(self.get("moment"), moment), between),
        )

    def finish(self, count: Value, found: dict[str, Value]) -> list[Value]:
        e, b = self.e, self.e.builder
        variance = b.fdiv(self.get("moment"), e.splat(count, self.lanes))
        root = square_root(e, variance)
        least, zero = self.constant(LEAST_VARIANCE), self.constant(0.0)
        found["var"], found["std"] = variance, e.select("<=", variance, least, zero, root)
        return [b.fadd(self.get("base"), self.get("mean")), variance]


class _Extreme(Accumulator):
    """The largest or smallest message and the number of edges that reach it; NaN wins."""

    def __init__(self, e: Emitter, lanes: int, name: str) -> None:
        super().__init__(e, lanes, "best ties")
        self.name = name

    def begin(self) -> None:
        worst = -math.inf if self.name == "max" else math.inf
        self.set(best=self.constant(worst), ties=self.constant(0.0))

    def step(self, message: Message) -> None:
        b, m, best, ties = self.e.builder, message.product, self.get("best"), self.get("ties")
        better = b.fcmp_ordered(">" if self.name == "max" else "<", m, best)
        better = b.or_(better, b.fcmp_unordered("uno", m, m))
        one = self.constant(1.0)
        ties = self.e.select("==", m, best, b.fadd(ties, one), ties)
        self.set(best=b.select(better, m, best), ties=b.select(better, one, ties))

    def finish(self, count: Value, found: dict[str, Value]) -> list[Value]:
        b, best = self.e.builder, self.get("best")
        found[self.name] = best
        return [best, b.select(b.fcmp_unordered("uno", best, best), best, self.get("ties"))]


def accumulators(e: Emitter, lanes: int, shape: Reduction) -> list[Any]:
    """The states that a set of reductions needs, in the order of their statistics."""
    found: list[Accumulator] = []
    if shape.linear:
        found.append(_Sum(e, lanes))
    if shape.spread:
        found.append(_Spread(e, lanes))
    return found + [_Extreme(e, lanes, name) for name in shape.extremes]


def plain_sum(e: Emitter, lanes: int) -> _Sum:
    """A plain sum, for gradients."""
    return _Sum(e, lanes)
