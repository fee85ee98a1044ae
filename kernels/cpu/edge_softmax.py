"""CPU softmax over the edges of every row: torch tensors in, torch tensors out.

The definition is kernels/reference/edge_softmax.py. Scores of a block of edges are staged
neighbour-major, so that a vector holds all heads of a few edges, as in the attention kernels.
"""

import math
from functools import cache
from typing import NamedTuple

import torch
from numba.core import types
from torch import Tensor

from graphattn.kernels.cpu.compile import Kernel, helper
from graphattn.kernels.cpu.memory import read, read_integer, scratch, write
from graphattn.kernels.cpu.pages import empty
from graphattn.kernels.cpu.rows import compute_dtype, edge_id, index_bits, run_rows
from graphattn.kernels.cpu.shape import VECTOR_BYTES, Shape
from graphattn.kernels.cpu.vector import (
    LOG2_E,
    exp2,
    fold_max,
    fold_sum,
    head_of_lanes,
    load,
    replace,
    splat,
    store,
)
from graphattn.kernels.layout import Layout

LOWEST_SINGLE, LOWEST_DOUBLE = -3.4028234663852886e38, -1.7976931348623157e308
_BLOCK = 64
_WORK_PER_NUMBER = 8


class _Sizes(NamedTuple):
    """Run-time sizes: batch entries, edges, heads, and groups of heads that share a vector."""

    batch: int
    edges: int
    heads: int
    groups: int


@helper(types.void)
def _stage(shape, size, group, start, count, edges, source, target):
    """Copy the numbers of a block of edges to scratch; 0 for heads that only pad."""
    heads = min(shape.heads, size.heads - group * shape.heads)
    for p in range(count):
        place = edge_id(shape, edges, start + p) * size.heads + group * shape.heads
        for h in range(shape.heads):
            found = read(shape, source, place + h) if h < heads else 0.0
            write(shape, target, p * shape.heads + h, found)


@helper(types.void)
def _unstage(shape, size, group, start, count, edges, source, target):
    """Copy a block of numbers from scratch to its edges."""
    heads = min(shape.heads, size.heads - group * shape.heads)
    for p in range(count):
        place = edge_id(shape, edges, start + p) * size.heads + group * shape.heads
        for h in range(heads):
            write(shape, target, place + h, read(shape, source, p * shape.heads + h))


def _softmax_rows(shape, size, first, last, indptr, indices, edges, scores, weights):
    """Rows ``first`` to ``last``: running max and mass, then the weights."""
    staged = scratch(shape.score_bytes)
    lowest = LOWEST_DOUBLE if shape.itemsize == 8 else LOWEST_SINGLE
    for part in range(size.batch * size.groups):
        b, group = part // size.groups, part % size.groups
        jump = b * size.edges * size.heads * shape.itemsize
        for i in range(first, last):
            begin, end = read_integer(indptr, i), read_integer(indptr, i + 1)
            top, mass = splat(shape, lowest), splat(shape, 0.0)
            for start in range(begin, end, shape.block):
                count, before = min(shape.block, end - start), top
                _stage(shape, size, group, start, count, edges, scores + jump, staged)
                for p in range(0, count, shape.tree):
                    place = staged + p * shape.head_bytes
                    # What pads the last vector has no weight; a NaN is lost here, not below.
                    found = head_of_lanes(load(shape, place), (count - p) * shape.heads, -math.inf)
                    store(place, found)
                    top = max(top, found)
                top = fold_max(shape, top)
                new = splat(shape, 0.0)
                for p in range(0, count, shape.tree):
                    gap = load(shape, staged + p * shape.head_bytes) - top
                    new = new + exp2(gap * LOG2_E)
                mass = mass * exp2((before - top) * LOG2_E) + new
            scale = replace(1.0 / fold_sum(shape, mass), math.inf, 0.0)
            for start in range(begin, end, shape.block):
                count = min(shape.block, end - start)
                _stage(shape, size, group, start, count, edges, scores + jump, staged)
                for p in range(0, count, shape.tree):
                    place = staged + p * shape.head_bytes
                    store(place, exp2((load(shape, place) - top) * LOG2_E) * scale)
                _unstage(shape, size, group, start, count, edges, staged, weights + jump)


def _pull_rows(shape, size, first, last, indptr, indices, edges, grad, weights, pull):
    """Rows ``first`` to ``last``: w (g - sum w g)."""
    staged, grads = scratch(shape.score_bytes), scratch(shape.score_bytes)
    for part in range(size.batch * size.groups):
        b, group = part // size.groups, part % size.groups
        jump = b * size.edges * size.heads * shape.itemsize
        for i in range(first, last):
            begin, end = read_integer(indptr, i), read_integer(indptr, i + 1)
            mean = splat(shape, 0.0)
            for start in range(begin, end, shape.block):
                count, new = min(shape.block, end - start), splat(shape, 0.0)
                _stage(shape, size, group, start, count, edges, weights + jump, staged)
                _stage(shape, size, group, start, count, edges, grad + jump, grads)
                for p in range(0, count, shape.tree):
                    at = p * shape.head_bytes
                    product = load(shape, staged + at) * load(shape, grads + at)
                    new = new + head_of_lanes(product, (count - p) * shape.heads, 0.0)
                mean = mean + new
            mean = fold_sum(shape, mean)
            for start in range(begin, end, shape.block):
                count = min(shape.block, end - start)
                _stage(shape, size, group, start, count, edges, weights + jump, staged)
                _stage(shape, size, group, start, count, edges, grad + jump, grads)
                for p in range(0, count, shape.tree):
                    at = p * shape.head_bytes
                    store(staged + at, load(shape, staged + at) * (load(shape, grads + at) - mean))
                _unstage(shape, size, group, start, count, edges, staged, pull + jump)


softmax_rows = Kernel(_softmax_rows)
pull_rows = Kernel(_pull_rows)


def edge_softmax_forward(scores: Tensor, rows: Layout) -> Tensor:
    """scores [B, E, H] in the caller's order -> weights; meaning as in kernels/reference."""
    return _run(softmax_rows, rows, scores)


def edge_softmax_backward(grad: Tensor, weights: Tensor, rows: Layout) -> Tensor:
    """Gradient of the scores from that of the weights, both [B, E, H]."""
    return _run(pull_rows, rows, grad, weights)


def _run(kernel: Kernel, rows: Layout, *inputs: Tensor) -> Tensor:
    like = inputs[0]
    high = compute_dtype(like)
    wide = [tensor.to(high).contiguous() for tensor in inputs]
    out = empty(like, like.shape, high)
    batch, edges, heads = like.shape
    if out.numel() > 0:
        shape = _shape(high == torch.float64, heads, *index_bits(rows))
        size = _Sizes(batch, edges, heads, -(-heads // shape.heads))
        run_rows(kernel, shape, size, rows, _WORK_PER_NUMBER * out.numel(), *wide, out)
    return out.to(like.dtype)


@cache
def _shape(double: bool, heads: int, index: int, edge: int) -> Shape:
    """Heads in one vector: a power of two."""
    group = min(1 << (heads - 1).bit_length(), VECTOR_BYTES // (8 if double else 4))
    return Shape(double, group, 0, 0, 0, index, edge, _BLOCK)
