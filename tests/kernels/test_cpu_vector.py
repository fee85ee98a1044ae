"""The vector vocabulary by itself: exp2, trees, folds, weighted sums, hashed dropout."""

import math

import numba
import numpy as np
import pytest
import torch

from graphattn.kernels.cpu.dots import dots, dots_shared, head_table
from graphattn.kernels.cpu.memory import keep
from graphattn.kernels.cpu.shape import Shape, head_groups, padded_width
from graphattn.kernels.cpu.sums import weighted_sum
from graphattn.kernels.cpu.tables import Table
from graphattn.kernels.cpu.vector import (
    clip,
    exp2,
    fold_max,
    fold_sum,
    head_of_lanes,
    load,
    store,
    within,
)
from graphattn.kernels.reference.dropout import keep_mask

BLOCK = 16


def make(double: bool = False, heads: int = 4, width: int = 16) -> Shape:
    return Shape(double, heads, width, width, 8, 32, 64, BLOCK)


def kind(shape: Shape) -> type:
    return np.float64 if shape.double else np.float32


def at(array: np.ndarray) -> int:
    return array.ctypes.data


@numba.njit
def _exp2(shape, source, target, count):
    for n in range(count):
        store(target + 64 * n, exp2(load(shape, source + 64 * n)))


@numba.njit
def _folds(shape, source, target):
    store(target, fold_sum(shape, load(shape, source)))
    store(target + 64, fold_max(shape, load(shape, source)))


@numba.njit
def _limits(shape, source, target, bound, count):
    found = load(shape, source)
    store(target, clip(found, bound))
    store(target + 64, within(found, bound, found))
    store(target + 128, head_of_lanes(found, count, -math.inf))


@numba.njit
def _dots(shape, own, base, index, target):
    table = Table(base, index, shape.keys.bytes)
    for p in range(0, shape.block, shape.tree):
        store(target + p * shape.head_bytes, dots(shape.keys, own, table, p))


@numba.njit
def _dots_shared(shape, own, base, index, target):
    table = Table(base, index, shape.shared.bytes)
    for p in range(0, shape.block, shape.tree):
        store(target + p * shape.head_bytes, dots_shared(shape.features, own, table, p))


@numba.njit
def _head_table(shape, base, index, target):
    table = Table(base, index, shape.stats.bytes)
    for p in range(0, shape.block, shape.tree):
        store(target + p * shape.head_bytes, head_table(shape, table, p))


@numba.njit
def _weighted_sum(shape, weights, base, index, count, target):
    weighted_sum(shape.keys, target, weights, Table(base, index, shape.keys.bytes), count)


@numba.njit
def _keep(shape, words, first, second, threshold, target):
    for p in range(0, shape.block, shape.tree):
        found = keep(shape, words + 8 * p, first, second, threshold, 2.0)
        store(target + p * shape.head_bytes, found)


@pytest.mark.parametrize("double, bound", [(False, 3e-7), (True, 1e-15)])
def test_exp2_error_and_special_values(double: bool, bound: float) -> None:
    shape = make(double)
    low, high = (-1021, 1022) if double else (-125, 126)
    x = np.linspace(low, high, shape.lanes * 4001).astype(kind(shape))
    special = [-np.inf, np.nan, np.inf, 0.0, -1e30, 2.0 * high, 1.5 * low, -0.0]
    x[: len(special)] = special
    found = np.empty_like(x)
    _exp2(shape, at(x), at(found), len(x) // shape.lanes)
    expected = np.exp2(x[8:].astype(np.longdouble))
    assert float((np.abs(found[8:] - expected) / expected).max()) < bound
    np.testing.assert_array_equal(found[:8], [0.0, np.nan, np.inf, 1.0, 0.0, np.inf, 0.0, 1.0])


@pytest.mark.parametrize("heads", [1, 4, 8])
def test_folds_combine_the_lanes_of_each_head(heads: int) -> None:
    shape = make(heads=heads)
    x = np.random.default_rng(0).standard_normal(shape.lanes).astype(np.float32)
    found = np.empty((2, shape.lanes), np.float32)
    _folds(shape, at(x), at(found))
    by_head = x.reshape(-1, heads)
    repeats = shape.lanes // heads
    np.testing.assert_allclose(found[0], np.tile(by_head.sum(0), repeats), rtol=1e-5)
    np.testing.assert_array_equal(found[1], np.tile(by_head.max(0), repeats))


def test_limits_include_their_bounds_and_pass_nan() -> None:
    shape = make()
    x = np.linspace(-2, 2, shape.lanes).astype(np.float32)
    x[:5] = [np.nan, 1.0, -1.0, np.inf, -np.inf]
    found = np.empty((3, shape.lanes), np.float32)
    _limits(shape, at(x), at(found), 1.0, 3)
    np.testing.assert_array_equal(found[0], np.clip(x, -1, 1))
    np.testing.assert_array_equal(found[1], np.where(np.abs(x) <= 1, x, 0))
    np.testing.assert_array_equal(found[2], [*x[:3], *[-np.inf] * (shape.lanes - 3)])


@pytest.mark.parametrize(
    "double, heads, width",
    [(False, 8, 16), (False, 4, 4), (False, 2, 8), (False, 1, 48), (True, 2, 4), (True, 8, 24)],
)
def test_trees_and_sums(double: bool, heads: int, width: int) -> None:
    shape, rng = make(double, heads, width), np.random.default_rng(1)

    def normal(*size: int) -> np.ndarray:
        return rng.standard_normal(size).astype(kind(shape))

    own, table, index = normal(heads, width), normal(30, heads, width), rng.integers(0, 30, BLOCK)
    scores, tolerance = np.empty((BLOCK, heads), kind(shape)), 1e-12 if double else 1e-5
    _dots(shape, at(own), at(table), at(index), at(scores))
    expected = np.einsum("hd,phd->ph", own, table[index])
    np.testing.assert_allclose(scores, expected, atol=tolerance)
    own_features, features = normal(heads, 8), normal(30, 8)
    _dots_shared(shape, at(own_features), at(features), at(index), at(scores))
    expected = np.einsum("hf,pf->ph", own_features, features[index])
    np.testing.assert_allclose(scores, expected, atol=tolerance)
    total = normal(heads, width)
    expected = total + np.einsum("ph,phd->hd", scores[:7], table[index[:7]])
    _weighted_sum(shape, at(scores), at(table), at(index), 7, at(total))
    np.testing.assert_allclose(total, expected, atol=10 * tolerance)
    stats = normal(30, 2, heads)
    _head_table(shape, at(stats), at(index), at(scores))
    np.testing.assert_array_equal(scores, stats[index, 0])


@pytest.mark.parametrize("heads", [2, 16])
def test_keep_is_the_reference_hash(heads: int) -> None:
    shape, edges = make(heads=heads), torch.randint(0, 2**31, (BLOCK,))
    streams = torch.randint(0, 2**32, (heads, 2))
    found = torch.empty(BLOCK, heads)
    first, second = streams.T.contiguous()
    threshold = int(0.3 * 2**32)
    addresses = (edges.data_ptr(), first.data_ptr(), second.data_ptr())
    _keep(shape, *addresses, threshold, found.data_ptr())
    assert torch.equal(found, 2.0 * keep_mask(streams, edges, 0.3))


@pytest.mark.parametrize("width", [1, 4, 5, 8, 9, 16, 17, 70, 256])
@pytest.mark.parametrize("heads", [1, 2, 3, 8, 12, 48])
@pytest.mark.parametrize("double", [False, True])
def test_head_groups_fill_vectors(width: int, heads: int, double: bool) -> None:
    padded = padded_width(width, double)
    lanes = 8 if double else 16
    total, group = head_groups(heads, padded, padded, 0, double)
    assert padded >= width and total >= heads and total % group == 0
    assert group * padded % lanes == 0 and lanes % group == 0
