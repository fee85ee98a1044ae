"""CPU choice of the m largest scores of every row: torch tensors in, torch tensors out.

The definition is kernels/reference/top_m.py. Scores are compared as integers in the same order.
A heap of the m best so far ends with the least survivor at its root: O(degree log m), and close
to O(degree) where m is small, because most edges fail against the root.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from torch import Tensor

from graphattn.kernels.cpu.compile import Kernel, helper
from graphattn.kernels.cpu.emitter import I32, I64, Emitter, Value
from graphattn.kernels.cpu.memory import read_integer, write_integer
from graphattn.kernels.cpu.rows import compute_dtype, edge_id, index_bits, run_rows
from graphattn.kernels.cpu.shape import ConstantType, Shape
from graphattn.kernels.layout import Layout

_WORK_PER_NUMBER = 16


class _Sizes(NamedTuple):
    """Run-time sizes: batch entries, edges, heads, words of bits per edge, m."""

    batch: int
    edges: int
    heads: int
    words: int
    most: int


@intrinsic
def order_key(typingctx: Any, shape: ConstantType, address: types.Type, place: types.Type) -> Any:
    """A number of an array as an int64 in the same order; -0 equals 0, NaN is the largest."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        e = Emitter(builder, shape.constant.double)
        at = builder.add(args[1], builder.mul(args[2], ir.Constant(I64, e.itemsize)))
        number = builder.load(e.address(at), align=e.itemsize, typ=e.scalar)
        number = builder.fadd(number, e.scalar(0.0))
        bits = builder.bitcast(number, ir.IntType(8 * e.itemsize))
        bits = bits if e.double else builder.sext(bits, I64)
        sign = builder.ashr(bits, ir.Constant(I64, 63))
        key = builder.xor(bits, builder.lshr(sign, ir.Constant(I64, 1)))
        unordered = builder.fcmp_unordered("uno", number, number)
        return builder.select(unordered, ir.Constant(I64, 2**63 - 1), key)

    return types.int64(shape, types.int64, types.int64), codegen


@intrinsic
def set_bit(typingctx: Any, words: types.Type, place: types.Type, bit: types.Type) -> Any:
    """Set one bit of an array of int32."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Value:
        e = Emitter(builder, True)
        at = e.address(builder.add(args[0], builder.mul(args[1], ir.Constant(I64, 4))))
        one = builder.shl(ir.Constant(I32, 1), builder.trunc(args[2], I32))
        builder.store(builder.or_(builder.load(at, align=4, typ=I32), one), at, align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), codegen


@helper(types.void)
def _sift(heap, size, at, key):
    """Put a key at or below a place of a heap whose least key is on top."""
    child = 2 * at + 1
    while child < size:
        if child + 1 < size and read_integer(heap, child + 1) < read_integer(heap, child):
            child += 1
        if read_integer(heap, child) >= key:
            break
        write_integer(heap, at, read_integer(heap, child))
        at, child = child, 2 * child + 1
    write_integer(heap, at, key)


@helper(types.void)
def _best(shape, size, begin, end, edges, scores, heap):
    """Fill the heap with the keys of the ``most`` best edges of a row that has more than that.

    ``scores``: address of the first edge's number of the head.
    """
    for p in range(size.most):
        place = edge_id(shape, edges, begin + p) * size.heads
        write_integer(heap, p, order_key(shape, scores, place))
    for p in range(size.most // 2 - 1, -1, -1):
        _sift(heap, size.most, p, read_integer(heap, p))
    for position in range(begin + size.most, end):
        key = order_key(shape, scores, edge_id(shape, edges, position) * size.heads)
        if key > read_integer(heap, 0):
            _sift(heap, size.most, 0, key)


@helper(types.void)
def _mark(shape, size, begin, end, edges, scores, heap, bits, bit):
    """Set the bit of the edges above the heap's least key, and of the first that tie with it."""
    least, quota = read_integer(heap, 0), 0
    for p in range(size.most):
        quota += 1 if read_integer(heap, p) == least else 0
    for position in range(begin, end):
        edge = edge_id(shape, edges, position)
        key = order_key(shape, scores, edge * size.heads)
        if key > least or (key == least and quota > 0):
            set_bit(bits, edge * size.words, bit)
        quota -= 1 if key == least else 0


def _top_rows(shape, size, first, last, indptr, indices, edges, scores, bits):
    """Rows ``first`` to ``last``."""
    longest = 0
    for i in range(first, last):
        longest = max(longest, read_integer(indptr, i + 1) - read_integer(indptr, i))
    held = np.empty(min(size.most, longest) + 1, np.int64)
    heap = np.int64(held.ctypes.data)
    for b in range(size.batch):
        for i in range(first, last):
            begin, end = read_integer(indptr, i), read_integer(indptr, i + 1)
            for h in range(size.heads):
                source = scores + (b * size.edges * size.heads + h) * shape.itemsize
                target = bits + 4 * (b * size.edges * size.words + h // 32)
                if end - begin <= size.most:
                    for p in range(begin, end):
                        set_bit(target, edge_id(shape, edges, p) * size.words, h % 32)
                else:
                    _best(shape, size, begin, end, edges, source, heap)
                    _mark(shape, size, begin, end, edges, source, heap, target, h % 32)
    # The heap is known by its address alone: without this it would be freed early.
    held[0] = 0


top_rows = Kernel(_top_rows)


def top_m_bits(scores: Tensor, rows: Layout, m: int) -> Tensor:
    """Which edges are among the m largest of their row, per head; as in kernels/reference.

    scores [B, E, H] in the caller's order -> int32 [B, E, ceil(H / 32)]. Memory: the result, 8 m
    bytes per thread, and a float32 copy of half-precision scores.
    """
    batch, edges, heads = scores.shape
    wide = scores.to(compute_dtype(scores)).contiguous()
    size = _Sizes(batch, edges, heads, -(-heads // 32), min(m, edges))
    bits = torch.zeros((batch, edges, size.words), dtype=torch.int32, device=scores.device)
    if scores.numel() > 0:
        shape = Shape(wide.dtype == torch.float64, 1, 0, 0, 0, *index_bits(rows), 1)
        run_rows(top_rows, shape, size, rows, _WORK_PER_NUMBER * scores.numel(), wide, bits)
    return bits
