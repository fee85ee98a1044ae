"""GridGraph: sliding windows on 1-D, 2-D and 3-D grids, with NATTEN's rule at the border."""

from collections.abc import Sequence
from typing import TypeVar

import torch

from graphattn.graph.axes import BORDERS, Axis
from graphattn.graph.checks import as_int, is_whole
from graphattn.graph.product import ProductGraph

T = TypeVar("T", int, bool)


class GridGraph(ProductGraph):
    r"""Every node of a grid attends to the window around it (neighbourhood attention).

    Along each axis, with extent X, kernel size k, stride s and dilation d, a query ``q`` belongs
    to the residue class ``g = q mod d`` of ``n = ceil((X - g) / d)`` nodes, at ``p = q // d``:

    .. math::
        \ell = \min(\lfloor p / s \rfloor s + \lfloor s / 2 \rfloor,\; n - 1), \qquad
        N(q) = \{ g + d t : a \le t < a + k \}

    with ``a = clamp(l - k // 2, 0, n - k)``; even windows lean to the left. Under ``is_causal``
    the leader ``l`` is the last node of the stride group, the window ends at the query, and begins
    at ``max(l - k + 1, 0)``. In more dimensions a node attends to the product of the axes.

    Args:
        shape: Extents of 1, 2 or 3 axes.
        kernel_size: Window per axis, at least 1.
        stride: Neighbouring queries that share one window (GNA), at most ``kernel_size``.
        dilation: Distance of the keys in a window (DiNAT).
        is_causal: Whether keys after the query are left out; bool per axis.
        border: What a window does at the border. ``"clamp"`` (NATTEN): it moves inward and keeps
            its size. ``"truncate"``: what is outside is dropped, and a window may be larger than
            the grid. ``"wrap"``: it goes on at the other side.
        device: Where the tensors will be that attend over it; ``attention`` moves it by itself.

    One number (or bool) serves all axes. Attention over the graph and over its ``to_csr()`` give
    the same answer, as do edge tensors, whose order is that of ``to_csr()``.

    Raises:
        ValueError: a size does not fit; the message names the axis.
        TypeError: ``is_causal`` is not made of bools, or a size is not a whole number.

    Papers: Hassani et al., Neighborhood Attention Transformer (CVPR 2023); Hassani and Shi, DiNAT
    (2022); Hassani et al., Generalized Neighborhood Attention (2025).
    """

    def __init__(
        self,
        shape: Sequence[int] | int,
        kernel_size: Sequence[int] | int,
        stride: Sequence[int] | int = 1,
        dilation: Sequence[int] | int = 1,
        is_causal: Sequence[bool] | bool = False,
        border: str = "clamp",
        device: torch.device | str = "cpu",
    ) -> None:
        if border not in BORDERS:
            raise ValueError(f"border must be one of {', '.join(BORDERS)}, got {border!r}")
        extents = check_shape(shape)
        dims = len(extents)
        numbers = [
            per_axis(name, given, dims)
            for name, given in (
                ("kernel_size", kernel_size),
                ("stride", stride),
                ("dilation", dilation),
            )
        ]
        causal = _flags(is_causal, dims)
        axes = tuple(
            Axis(x, x, k, s, d, c, border)
            for x, k, s, d, c in zip(extents, *numbers, causal, strict=True)
        )
        for number, axis in enumerate(axes):
            _check_axis(number, axis)
        super().__init__(axes, device)

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """Window of every axis."""
        return tuple(axis.kernel_size for axis in self.axes)

    @property
    def border(self) -> str:
        """What a window does at the border."""
        return self.axes[0].rule

    def __repr__(self) -> str:
        parts = [f"{self.shape}", f"kernel_size={self.kernel_size}"]
        for name, usual in (("stride", 1), ("dilation", 1), ("is_causal", False)):
            values = tuple(getattr(axis, name) for axis in self.axes)
            if any(value != usual for value in values):
                parts.append(f"{name}={values}")
        return f"GridGraph({', '.join([*parts, f'border={self.border!r}'])})"


def check_shape(shape: Sequence[int] | int) -> tuple[int, ...]:
    """Extents of 1 to 3 axes as a tuple."""
    if isinstance(shape, Sequence) and not isinstance(shape, str):
        extents = tuple(shape)
    else:
        extents = (shape,)
    if len(extents) not in (1, 2, 3):
        raise ValueError(
            f"a grid has 1, 2 or 3 axes, got shape {extents}; leave batch and heads out, and fold "
            "further axes into the batch"
        )
    for axis, extent in enumerate(extents):
        _check_count("shape", axis, extent, 1)
    return tuple(map(as_int, extents))


def per_axis(name: str, given: Sequence[int] | int, dims: int, least: int = 1) -> tuple[int, ...]:
    """One whole number per axis, at least ``least``."""
    values = _spread(name, given, dims)
    for axis, value in enumerate(values):
        _check_count(name, axis, value, least)
    return tuple(map(as_int, values))


def _spread(name: str, given: Sequence[T] | T, dims: int) -> tuple[T, ...]:
    if isinstance(given, Sequence) and not isinstance(given, str):
        if len(given) != dims:
            raise ValueError(
                f"{name} must be one value or one for each of the {dims} axes, got {tuple(given)}"
            )
        return tuple(given)
    return (given,) * dims


def _check_count(name: str, axis: int, value: int, least: int) -> None:
    if not is_whole(value):
        raise TypeError(
            f"{name} of axis {axis} must be a whole number, got {value!r} of type "
            f"{type(value).__name__}; pass ints"
        )
    if value < least:
        raise ValueError(f"{name} of axis {axis} must be at least {least}, got {value}")


def _flags(given: Sequence[bool] | bool, dims: int) -> tuple[bool, ...]:
    values = _spread("is_causal", given, dims)
    for axis, value in enumerate(values):
        if not isinstance(value, bool):
            raise TypeError(
                f"is_causal of axis {axis} must be True or False, got {value!r} of type "
                f"{type(value).__name__}; pass Python bools"
            )
    return values


def _check_axis(number: int, axis: Axis) -> None:
    x, k, d = axis.rows, axis.kernel_size, axis.dilation
    if axis.stride > k:
        raise ValueError(
            f"stride of axis {number} must be at most its kernel_size {k}, got {axis.stride}; take "
            "a smaller stride or a larger window: queries far from theirs would not see themselves"
        )
    if axis.rule == "truncate":
        return
    if k * d > x:
        raise ValueError(
            f"kernel_size * dilation of axis {number} must be at most its extent {x}, got "
            f"{k} * {d}; use a smaller window, pad the grid, or border='truncate'"
        )
    if axis.rule == "wrap" and axis.is_causal:
        raise ValueError(
            f"axis {number} cannot be causal and wrap: a circle has no first node; take "
            "border='clamp' or 'truncate', or drop is_causal"
        )
    if axis.rule == "wrap" and x % d:
        raise ValueError(
            f"border='wrap' needs a dilation that divides the extent, got {d} and {x} on axis "
            f"{number}; pad the grid or take another dilation"
        )
