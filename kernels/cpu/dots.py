"""Dot products of heads: reduction trees that give one full vector of scores at a time.

Every intrinsic takes a ``Row`` (heads x width, known at compile time), addresses of rows, and a
``Table`` of gathered rows, from whose slot ``p`` on one tree of neighbours is read.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from numba.core import types
from numba.extending import intrinsic

from graphattn.kernels.cpu.emitter import Emitter, Value
from graphattn.kernels.cpu.shape import ConstantType, Row
from graphattn.kernels.cpu.tables import TABLE, table_rows
from graphattn.kernels.cpu.vector import VectorType, named_intrinsic

Leaf = Callable[[int, int], Value]


def _combine(e: Emitter, a: Value, b: Value, width: int) -> Value:
    """Add the halves of every ``width``-lane segment of ``a`` and ``b`` into one vector.

    Within 128 bits the lanes are picked so that each shuffle is one instruction.
    """
    low, high = _halves(a.type.count, width, 16 // e.itemsize)
    return e.builder.fadd(e.shuffle(a, b, low), e.shuffle(a, b, high))


def _halves(lanes: int, width: int, quad: int) -> tuple[list[int], list[int]]:
    span, half = max(width, quad), width // 2
    picks: tuple[list[int], list[int]] = ([], [])
    for start in range(0, lanes, span):
        for side in (0, lanes):
            for segment in range(start, start + span, width):
                for part in (0, 1):
                    first = side + segment + part * half
                    picks[part].extend(range(first, first + half))
    return picks


def _tree_order(leaves: list[list[int]], width: int, quad: int) -> list[int]:
    """Label of every lane after the tree of ``_reduce``, given the labels of each leaf."""
    if len(leaves) == 1:
        return leaves[0]
    half = len(leaves) // 2
    both = _tree_order(leaves[:half], width, quad) + _tree_order(leaves[half:], width, quad)
    low, _ = _halves(len(leaves[0]), width // half, quad)
    return [both[lane] for lane in low]


def _reduce(e: Emitter, leaves: list[Callable[[], Value]], width: int) -> Value:
    """Sum the ``width``-lane segments of the leaves, depth first to keep few values alive."""
    if len(leaves) == 1:
        return leaves[0]()
    half = len(leaves) // 2
    a, b = _reduce(e, leaves[:half], width), _reduce(e, leaves[half:], width)
    return _combine(e, a, b, width // half)


def _score_tree(e: Emitter, row: Row, leaf: Leaf) -> Value:
    """One vector of sums, neighbour-major, from ``leaf(neighbour, head)``.

    A leaf has half a vector of lanes and holds one head, or two heads of width 4.
    """
    part = e.lanes // 2
    width = min(row.width, part)
    heads = list(range(0, row.shape.heads, part // width))
    places = [(u, h) for u in range(row.shape.tree) for h in heads]
    leaves = [partial(leaf, *place) for place in places]
    starts = range(0, len(leaves), width)
    return e.join([ordered_tree(e, leaves[start : start + width], width) for start in starts])


def ordered_tree(e: Emitter, leaves: list[Callable[[], Value]], width: int) -> Value:
    """Half a vector of sums of ``width``-lane segments, in the order of the leaves."""
    part, quad = e.lanes // 2, 16 // e.itemsize
    labels = [[n * (part // width) + lane // width for lane in range(part)] for n in range(width)]
    order = _tree_order(labels, width, quad)
    if width == part:
        return _reduce(e, [leaves[order.index(n)] for n in range(part)], width)
    return e.shuffle(_reduce(e, leaves, width), None, [order.index(n) for n in range(part)])


def _products(e: Emitter, row: Row, a: Value, a_head: int, b: Value, b_head: int) -> Value:
    """Lane-wise products of one head of a wide row and a stored one, down to half a vector."""
    part, total = e.lanes // 2, None
    for start in range(0, max(row.width, part), part):
        x = e.load(a, (a_head * row.width + start) * e.itemsize, part)
        y = e.load_stored(row.storage, b, b_head * row.width + start, part)
        total = e.builder.fmul(x, y) if total is None else e.fma(x, y, total)
    return total


def _tree_intrinsic(name: str, doc: str, parameters: str, make_leaf: Callable[..., Leaf]) -> Any:
    def tree(typingctx: Any, row: ConstantType, *addresses: types.Type) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
            e = Emitter(builder, row.constant.shape.double)
            return _score_tree(e, row.constant, make_leaf(e, row.constant, *args[1:]))

        kinds = [TABLE if "table" in name else types.int64 for name in parameters.split()[1:]]
        return VectorType(row.constant.shape.double)(row, *kinds), codegen

    return named_intrinsic(name, doc, parameters, tree)


def _own_leaf(e: Emitter, row: Row, own: Value, table: Value, slot: Value) -> Leaf:
    at = table_rows(e, table, slot, row.shape.tree)
    return lambda u, h: _products(e, row, own, h, at[u], h)


def _shared_leaf(e: Emitter, row: Row, own: Value, table: Value, slot: Value) -> Leaf:
    at = table_rows(e, table, slot, row.shape.tree)
    return lambda u, h: _products(e, row, own, h, at[u], 0)


dots = _tree_intrinsic(
    "dots", "own . table row, per neighbour and head.", "row own table slot", _own_leaf
)
dots_shared = _tree_intrinsic(
    "dots_shared", "As dots, one table row for all heads.", "row own table slot", _shared_leaf
)
dots_row = _tree_intrinsic(
    "dots_row",
    "a . b per head, repeated for every neighbour of a vector.",
    "row a b",
    lambda e, row, a, b: lambda u, h: _products(e, row, a, h, b, h),
)


@intrinsic
def head_values(typingctx: Any, shape: ConstantType, address: types.Type) -> Any:
    """One number per head from memory, repeated over a vector."""
    heads, result = shape.constant.heads, VectorType(shape.constant.double)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        e = Emitter(builder, result.double)
        return e.shuffle(e.load(args[1], 0, heads), None, [n % heads for n in range(e.lanes)])

    return result(shape, types.int64), codegen


@intrinsic
def head_table(typingctx: Any, shape: ConstantType, table: types.Type, slot: types.Type) -> Any:
    """One number per head from the start of each neighbour's table row, neighbour-major."""
    result = VectorType(shape.constant.double)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        e = Emitter(builder, result.double)
        rows = table_rows(e, args[1], args[2], shape.constant.tree)
        return e.join([e.load(at, 0, shape.constant.heads) for at in rows])

    return result(shape, TABLE, types.int64), codegen
