"""What the aggregation kernels know at compile time: reductions, and how a row is cut.

A row of x is ``heads`` x ``width`` numbers. A kernel walks the edges of a row once for every
*slice* of it that fits into registers; its machine code depends on the slice and not on the whole
width. A slice is cut into *pieces*, vectors that never mix numbers of different weights unless
whole heads fill them; the last piece of a head may overlap the one before.
"""

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from llvmlite.binding import get_host_cpu_features

from graphattn.kernels.cpu.shape import VECTOR_BYTES, Row, Shape

BLOCK = 64
"""Edges summed from zero before they join the total, which keeps rounding small."""
# Registers of 64 bytes for the state of a slice; half as wide ones spill far more of it.
_REGISTERS, _NARROW_REGISTERS = 24, 16
_MOST_VECTORS = 4
# Registers per vector of x: (sum, part); (base, mean, moment, shift, two sums); (extreme, ties).
_STATES = {"linear": 2, "spread": 6, "max": 2, "min": 2}


@dataclass(frozen=True, kw_only=True)
class Reduction(Shape):
    """Compile-time side of an aggregation: a ``Shape`` with what only reductions know.

    ``reduce``: names of reductions; ``weighted``: whether edges have a weight; ``needs``: which
    of the gradients of x and weight a backward kernel makes. ``full_*`` and ``tail_*``: heads and
    width of a slice, and of what is left of a row (0: nothing). ``edge_bits`` 0: edge ids are
    positions. ``kept``: whether a forward kernel writes what the backward pass will read.

    Of non-linear messages alone (message.py): ``activation`` and the slope of a leaky one;
    ``featured``: whether edges have features; ``by_rows``: whether a backward kernel walks the
    rows, which own the terms of the gradient; ``feature_needs``: whether it makes the gradients
    of the edge features and of their projection; ``total``: whether it also sums the messages.
    """

    reduce: tuple[str, ...]
    weighted: bool
    needs: tuple[bool, bool]
    full_heads: int
    full_width: int
    tail_heads: int
    tail_width: int
    kept: bool = True
    activation: str = ""
    slope: float = 0.0
    featured: bool = False
    by_rows: bool = False
    feature_needs: tuple[bool, bool] = (False, False)
    total: bool = False

    @property
    def full(self) -> Row:
        """The slice that repeats along a row, as gathered rows are stored."""
        return Row(self, self.full_width, self.full_heads, self.storage)

    @property
    def tail(self) -> Row:
        """The last, shorter slice of a row."""
        return Row(self, self.tail_width, self.tail_heads, self.storage)

    @property
    def head_step(self) -> int:
        """Bytes of the weights that one slice uses up: none where a head has many slices."""
        return self.itemsize * self.full_heads if self.tail_width == self.full_width else 0

    @property
    def linear(self) -> bool:
        """Whether a sum or a mean is wanted."""
        return bool({"sum", "mean"} & set(self.reduce))

    @property
    def spread(self) -> bool:
        """Whether a variance or a deviation is wanted."""
        return bool({"var", "std"} & set(self.reduce))

    @property
    def extremes(self) -> tuple[str, ...]:
        """Those of max and min that are wanted, in the order of the statistics."""
        return tuple(name for name in ("max", "min") if name in self.reduce)

    @property
    def terms(self) -> int:
        """Numbers per channel that a row hands its edges in the backward pass."""
        return self.linear + 2 * self.spread + 2 * len(self.extremes)


class Cut(NamedTuple):
    """How often a kernel walks a row: ``outer`` times ``slices`` full slices and the tail."""

    outer: int
    slices: int


class Piece(NamedTuple):
    """A vector of a slice: first number, lanes, and how many of its last lanes are new."""

    start: int
    lanes: int
    fresh: int


def vectors_per_slice(reduce: tuple[str, ...], backward: bool) -> int:
    """Vectors of a slice, so that the state of all reductions stays in registers."""
    if backward:
        return _MOST_VECTORS
    families = {"sum": "linear", "mean": "linear", "var": "spread", "std": "spread"}
    states = sum(_STATES[name] for name in {families.get(name, name) for name in reduce})
    registers = _REGISTERS if _wide() else _NARROW_REGISTERS
    return max(1, min(_MOST_VECTORS, registers // states))


@cache
def _wide() -> bool:
    """Whether the machine has vectors of 64 bytes."""
    return bool(get_host_cpu_features().get("avx512f"))


@cache
def cut_row(heads: int, width: int, span: int) -> tuple[tuple[int, int, int, int], Cut]:
    """(full heads, full width, tail heads, tail width) for slices of ``span`` numbers."""
    if width <= span:
        group = min(heads, span // width)
        return (group, width, heads % group, width), Cut(1, heads // group)
    tail = width % span
    return (1, span, min(tail, 1), tail), Cut(heads, width // span)


@cache
def make_reduction(
    double: bool,
    heads: int,
    width: int,
    reduce: tuple[str, ...],
    weighted: bool,
    index_bits: int,
    edge_bits: int,
    storage: str,
    needs: tuple[bool, bool] | None = None,
    vectors: int = 0,
) -> tuple[Reduction, Cut]:
    """The compile-time shape for rows of ``heads`` x ``width``.

    ``storage``: of the gathered rows, as in ``Shape``; ``needs``: of a backward kernel;
    ``vectors``: of a slice, 0 for as many as the registers hold.
    """
    lanes = VECTOR_BYTES // (8 if double else 4)
    vectors = vectors or vectors_per_slice(reduce, needs is not None)
    sizes, cut = cut_row(heads, width, lanes * vectors)
    fixed = {"heads": 1, "key": 0, "value": 0, "feature": 0, "block": BLOCK}
    shape = Reduction(
        double=double,
        index_bits=index_bits,
        edge_bits=edge_bits if weighted else 0,
        storage=storage,
        reduce=reduce,
        weighted=weighted,
        needs=needs or (False, False),
        full_heads=sizes[0],
        full_width=sizes[1],
        tail_heads=sizes[2],
        tail_width=sizes[3],
        **fixed,
    )
    return shape, cut


def row_pieces(row: Row) -> list[Piece]:
    """The vectors that cover a slice."""
    total, lanes = row.heads * row.width, row.shape.lanes
    if total == 0:
        return []
    while lanes > 1 and lanes >= row.width:
        if lanes % row.width == 0 and total % lanes == 0:
            return [Piece(start, lanes, lanes) for start in range(0, total, lanes)]
        lanes //= 2
    part = min(row.shape.lanes, 1 << (row.width.bit_length() - 1))
    inside = [Piece(start, part, part) for start in range(0, row.width - part + 1, part)]
    rest = row.width % part
    inside += [Piece(row.width - part, part, rest)] if rest else []
    starts = range(0, total, row.width)
    return [piece._replace(start=first + piece.start) for first in starts for piece in inside]
