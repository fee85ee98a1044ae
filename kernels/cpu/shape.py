"""What a CPU kernel knows at compile time, and how that reaches Numba.

A ``Shape`` is passed to a kernel as its first argument. All of it lives in the Numba *type*, so
each shape compiles its own machine code from one Python function, and the disk cache is keyed by
it. The type also carries the version of the kernel's sources: editing any helper that a kernel is
made of invalidates what is cached of that kernel, and of no other.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from numba.core import types
from numba.core.typing.templates import AttributeTemplate
from numba.extending import (
    NativeValue,
    infer_getattr,
    lower_getattr_generic,
    models,
    register_model,
    typeof_impl,
    unbox,
)

VECTOR_BYTES = 64
SEGMENT = 32
"""Queries of a grid row that are staged together, in pairs."""
PAIR_SLOTS = 64
"""Keys that a pair of them is scored against before any is summed."""
GROUP_BYTES = 1024


@dataclass(frozen=True)
class Shape:
    """Compile-time sizes of a kernel: what one row of one head group looks like.

    ``heads`` heads (a power of two, at most ``lanes``) are handled together; ``key``, ``value``
    and ``feature`` are padded widths per head; ``block`` neighbours are scored before any is
    summed. Scores of a block are neighbour-major: lane ``l`` belongs to head ``l % heads``.
    ``storage`` is how query, key, value and their like lie in memory: "bf16", "f16", or "" for
    the dtype that is computed with. ``activation`` and ``slope`` are those of additive scores.
    """

    double: bool
    heads: int
    key: int
    value: int
    feature: int
    index_bits: int
    edge_bits: int
    block: int
    storage: str = ""
    activation: str = ""
    slope: float = 0.0

    @property
    def itemsize(self) -> int:
        """Bytes of one number as it is computed with."""
        return 8 if self.double else 4

    @property
    def lanes(self) -> int:
        """Numbers in one vector of scores."""
        return VECTOR_BYTES // self.itemsize

    @property
    def tree(self) -> int:
        """Neighbours scored by one reduction tree."""
        return self.lanes // self.heads

    @property
    def slot_bytes(self) -> int:
        """Bytes of one integer per neighbour of a block, and of a tree's padding."""
        return 8 * (self.block + self.lanes)

    @property
    def head_bytes(self) -> int:
        """Bytes of one number per head."""
        return self.itemsize * self.heads

    @property
    def score_bytes(self) -> int:
        """Bytes of one score per neighbour and head of a block, and one spare vector."""
        return self.itemsize * self.block * self.heads + VECTOR_BYTES

    @property
    def pair_bytes(self) -> int:
        """Bytes of the scores of a pair of queries."""
        return 2 * PAIR_SLOTS * self.itemsize

    @property
    def segment_bytes(self) -> int:
        """Bytes of the scores of a segment."""
        return SEGMENT // 2 * self.pair_bytes

    @property
    def keys(self) -> "Row":
        """Rows of query and key."""
        return Row(self, self.key, self.heads, self.storage)

    @property
    def values(self) -> "Row":
        """Rows of value, output and its gradient."""
        return Row(self, self.value, self.heads, self.storage)

    @property
    def features(self) -> "Row":
        """Rows of the projected query that meets edge features."""
        return Row(self, self.feature, self.heads)

    @property
    def stats(self) -> "Row":
        """Rows of (lse, delta), which the pass over columns gathers."""
        return Row(self, 2, self.heads)

    @property
    def shared(self) -> "Row":
        """Rows of edge features: one for all heads."""
        return Row(self, self.feature, 1)


@dataclass(frozen=True)
class Row:
    """A contiguous row of ``heads`` x ``width`` numbers; ``storage`` as in :class:`Shape`."""

    shape: Shape
    width: int
    heads: int
    storage: str = ""

    @property
    def wide(self) -> "Row":
        """The same row in the dtype that is computed with."""
        return replace(self, storage="")

    @property
    def single(self) -> "Row":
        """The part of the row that belongs to one head."""
        return replace(self, heads=1)

    @property
    def itemsize(self) -> int:
        """Bytes of one number in memory."""
        return 2 if self.storage else self.shape.itemsize

    @property
    def bytes(self) -> int:
        """Bytes of the row."""
        return self.heads * self.width * self.itemsize

    @property
    def spare_bytes(self) -> int:
        """Bytes of three rows."""
        return 3 * self.bytes

    @property
    def segment_bytes(self) -> int:
        """Bytes of one row for every query of a segment."""
        return self.bytes * SEGMENT

    @property
    def block_bytes(self) -> int:
        """Bytes of one row for every neighbour of a block."""
        return self.bytes * self.shape.block


class ConstantType(types.Type):
    """Numba type of a value that is all type: a ``Shape``, a ``Row``, or a version alone."""

    def __init__(self, constant: "Shape | Row | str", version: str) -> None:
        super().__init__(name=f"{constant} {version}")
        self.constant = constant
        self.version = version


@cache
def numba_type(shape: Shape, version: str) -> ConstantType:
    """The Numba type that carries a shape into a kernel of this version."""
    return ConstantType(shape, version)


register_model(ConstantType)(models.OpaqueModel)


@infer_getattr
class _ConstantAttributes(AttributeTemplate):
    key = ConstantType

    def generic_resolve(self, typ: ConstantType, attr: str) -> types.Type:
        found = getattr(typ.constant, attr)
        if isinstance(found, (Row, Shape)):
            return ConstantType(found, typ.version)
        return types.literal(found)


@lower_getattr_generic(ConstantType)
def _lower_attribute(context: Any, builder: Any, typ: ConstantType, value: Any, attr: str) -> Any:
    found = getattr(typ.constant, attr)
    if isinstance(found, (Row, Shape)):
        return context.get_dummy_value()
    return context.get_constant(types.intp, found)


@typeof_impl.register(Shape)
def _typeof_shape(value: Shape, context: Any) -> ConstantType:
    # Only for functions that are compiled without Kernel, and so without a cache on disk.
    return numba_type(value, "")


@unbox(ConstantType)
def _unbox_constant(typ: ConstantType, value: Any, c: Any) -> NativeValue:
    return NativeValue(c.context.get_dummy_value())


def padded_width(width: int, double: bool) -> int:
    """Head width that the vectors handle: 4, 8 or a multiple of one vector."""
    lanes = 8 if double else 16
    return next((small for small in (4, 8) if width <= small), -(-width // lanes) * lanes)


def head_groups(heads: int, key: int, value: int, feature: int, double: bool) -> tuple[int, int]:
    """Heads after padding, and how many of them a kernel handles together.

    A group fills whole vectors of key and value, and is a power of two of at most one vector of
    scores and ``GROUP_BYTES`` per row.
    """
    itemsize = 8 if double else 4
    lanes = VECTOR_BYTES // itemsize
    group = max(lanes // min(key, value), 1)
    padded = -(-heads // group) * group
    widest = max(key, value, feature) * itemsize
    while padded % (2 * group) == 0 and 2 * group <= lanes and 2 * group * widest <= GROUP_BYTES:
        group *= 2
    return padded, group
