"""One axis of a grid: who attends to whom along it, as start and count tables.

Along an axis every neighbourhood is an interval of a residue class modulo the dilation. With the
class ``g = q mod d``, the position ``p = q // d`` and the class size ``n = ceil((X - g) / d)``,
a rule gives the bounds ``a(p) <= ... < b(p)``; both never decrease with ``p``. That makes the
reverse (who reads key ``j``) an interval too, found by searching the bounds.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphattn.kernels.grid import AXES, COUNT, FIELDS

BORDERS = ("clamp", "truncate", "wrap")


@dataclass(frozen=True)
class Axis:
    """One axis: ``rows`` coordinates attend to ``cols``.

    ``rule`` is a border of a sliding window (``clamp``, ``truncate``, ``wrap``), ``blocks``: the
    window of ``kernel_size`` that contains the query, windows beginning at ``shift``, widened by
    ``halo`` on both sides; or ``all``.
    """

    rows: int
    cols: int
    kernel_size: int = 1
    stride: int = 1
    dilation: int = 1
    is_causal: bool = False
    rule: str = "clamp"
    shift: int = 0
    halo: int = 0

    @property
    def reach(self) -> int:
        """Relative positions, in dilated steps, lie between -reach and reach."""
        if self.rule == "blocks":
            return self.kernel_size + self.halo - 1
        return max(self.rows, self.cols) - 1 if self.rule == "all" else self.kernel_size - 1

    @property
    def width(self) -> int:
        """Number of relative positions: 2 k - 1 for a window of k."""
        return 2 * self.reach + 1

    @property
    def num_edges(self) -> int:
        """Sum of the counts; :math:`k X` for ``clamp`` and ``wrap`` without a causal flag."""
        if self.rule == "all":
            return self.rows * self.cols
        if self.rule in ("clamp", "wrap") and not self.is_causal:
            return self.rows * self.kernel_size
        flags = (self.stride, self.dilation, self.is_causal, self.rule, self.shift, self.halo)
        counted: int = _count_edges(self.rows, self.cols, self.kernel_size, *flags)
        return counted

    def counts(self) -> Tensor:
        """Number of neighbours of each coordinate [rows]."""
        a, b = bounds(self)
        return b - a


def _count_edges(*fields: Any) -> int:
    return int(Axis(*fields).counts().sum())


# Constant under torch.compile, which must not trace a look at numbers of a tensor. This is what
# torch.compiler.assume_constant_result does, which imports the whole compiler for it.
_count_edges._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _positions(axis: Axis) -> tuple[Tensor, Tensor, Tensor]:
    """Class, position in it and size of the class for every coordinate."""
    query = torch.arange(axis.rows)
    group, place = query % axis.dilation, query // axis.dilation
    return group, place, (axis.cols - group + axis.dilation - 1) // axis.dilation


def bounds(axis: Axis) -> tuple[Tensor, Tensor]:
    """First position ``a`` and end ``b`` of each query's window in its residue class.

    Windows that wrap may begin below 0 or end beyond the class; all others are cut or moved.
    """
    _, place, size = _positions(axis)
    if axis.rule == "all":
        return torch.zeros_like(place), torch.full_like(place, axis.cols)
    if axis.rule == "blocks":
        begin = (place - axis.shift).div(axis.kernel_size, rounding_mode="floor")
        begin = begin * axis.kernel_size + axis.shift - axis.halo
        end = begin + axis.kernel_size + 2 * axis.halo
        return begin.clamp(min=0), torch.minimum(end, size)
    return _window(axis, place, size)


def _window(axis: Axis, place: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """NATTEN's rule: the window of the leader of the query's stride group."""
    k, s = axis.kernel_size, axis.stride
    leader = place // s * s + (s - 1 if axis.is_causal else s // 2)
    leader = torch.minimum(leader, size - 1)
    if axis.is_causal:
        return (leader - k + 1).clamp(min=0), place + 1
    begin = leader - k // 2
    if axis.rule == "wrap":
        return begin, begin + k
    if axis.rule == "truncate":
        return begin.clamp(min=0), torch.minimum(begin + k, size)
    begin = torch.minimum(begin.clamp(min=0), size - k)
    return begin, begin + k


def forward_table(axis: Axis) -> Tensor:
    """Entries [rows, 8] of the lists of keys; see kernels/grid.py."""
    group, place, size = _positions(axis)
    a, b = bounds(axis)
    under, over = a < 0, b > size
    split = torch.where(under, b, torch.where(over, b - size, b - a))
    jump = torch.where(under | over, size - (b - a), 0) * axis.dilation
    first = torch.where(under | over, 0, a)
    relative = torch.where(under, 0, torch.where(over, size, a)) - place + axis.reach
    fold = torch.where(under | over, a - b, 0)
    return _table(group + axis.dilation * first, b - a, split, jump, relative, fold)


def reverse_table(axis: Axis) -> Tensor:
    """Entries [cols, 8] of the lists of queries that read each key."""
    a, b = bounds(axis)
    by_key = Axis(axis.cols, axis.rows, dilation=axis.dilation)
    group, place, size = _positions(by_key)
    shifts = [torch.zeros_like(size), size, -size] if axis.rule == "wrap" else [size - size]
    runs = [(m, *_readers(axis, a, b, group, place + m)) for m in shifts]
    return _joined(axis, group, place, runs)


def _readers(
    axis: Axis, a: Tensor, b: Tensor, group: Tensor, place: Tensor
) -> tuple[Tensor, Tensor]:
    """First reader and end, as positions of each key's class: a(p) <= place < b(p)."""
    order = torch.argsort(torch.arange(axis.rows) % axis.dilation, stable=True)
    first = torch.searchsorted(order % axis.dilation, torch.arange(axis.dilation))
    span = 4 * (axis.rows + axis.cols + 1)  # classes far enough apart for one search
    base = order % axis.dilation * span
    begin = torch.searchsorted(base + b[order], group * span + place, right=True)
    end = torch.searchsorted(base + a[order], group * span + place, right=True)
    return begin - first[group], end - first[group]


def _joined(
    axis: Axis, group: Tensor, place: Tensor, runs: list[tuple[Tensor, Tensor, Tensor]]
) -> Tensor:
    """A table of readers from up to two runs that are not empty, in ascending order."""
    count = torch.stack([end - begin for _, begin, end in runs])
    begin = torch.stack([begin for _, begin, _ in runs])
    shift = torch.stack([shift for shift, _, _ in runs])
    last = int(begin.max()) + 1 if begin.numel() else 1
    order = torch.argsort(torch.where(count > 0, begin, last), dim=0, stable=True)[:2]
    count, begin, shift = (t.gather(0, order) for t in (count, begin, shift))
    two = (count[1] > 0) if len(count) > 1 else torch.zeros_like(place, dtype=torch.bool)
    other, far = (begin[-1], shift[-1])
    relative = place + shift[0] - begin[0] + axis.reach
    jump = torch.where(two, other - begin[0] - count[0], 0)
    fold = torch.where(two, far - shift[0] - (other - begin[0]) + count[0], 0)
    total = count.sum(0) if len(count) > 1 else count[0]
    start = group + axis.dilation * begin[0]
    return _table(start, total, count[0], axis.dilation * jump, relative, fold)


def _table(*fields: Tensor) -> Tensor:
    count = fields[1]
    before = count.cumsum(0) - count
    return torch.stack([*fields, before, torch.zeros_like(count)], 1)


def build_tables(axes: tuple[Axis, ...]) -> Tensor:
    """Tables [2, T, 8] of keys by queries, and of queries by keys; see kernels/grid.py."""
    axes = (*[Axis(1, 1)] * (AXES - len(axes)), *axes)
    both = []
    for make, slope in ((forward_table, 1), (reverse_table, -1)):
        tables = [make(axis) for axis in axes]
        heads, first = [], AXES
        for axis, table in zip(axes, tables, strict=True):
            sizes = (axis.rows, axis.cols) if slope == 1 else (axis.cols, axis.rows)
            count = table[:, COUNT]
            total, most = int(count.sum()), int(count.max()) if count.numel() else 0
            heads.append([*sizes, axis.dilation, total, axis.width, slope, first, most])
            first += table.shape[0]
        both.append(torch.cat([torch.tensor(heads), *tables]))
    longest = max(t.shape[0] for t in both)
    padded = [torch.cat([t, t.new_zeros(longest - t.shape[0], FIELDS)]) for t in both]
    return torch.stack(padded)
