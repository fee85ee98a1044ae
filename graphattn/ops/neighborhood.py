"""na1d, na2d, na3d: NATTEN's neighbourhood attention as attention over a GridGraph."""

from collections.abc import Sequence
from typing import Any, TypedDict, Unpack

from torch import Tensor

from graphattn.graph import GridGraph, complete, shared
from graphattn.ops.attention import attention
from graphattn.ops.bias import TableBias
from graphattn.ops.checks import FLOATS, check_weights
from graphattn.ops.merge import merge

Sizes = int | Sequence[int]
Flags = bool | Sequence[bool]

# What NATTEN's tuning arguments are when nobody tunes.
_UNTUNED: dict[str, Any] = {
    "attention_kwargs": None,
    "backend": None,
    "q_tile_shape": None,
    "kv_tile_shape": None,
    "backward_q_tile_shape": None,
    "backward_kv_tile_shape": None,
    "backward_kv_splits": None,
    "backward_use_pt_reduction": False,
    "run_persistent_kernel": True,
    "kernel_schedule": None,
    "torch_compile": False,
}


class Options(TypedDict, total=False):
    """Keywords that all three functions share; see :func:`na2d`."""

    additional_keys: Tensor | None
    additional_values: Tensor | None
    return_lse: bool
    rpb: Tensor | None
    border: str
    dropout_p: float
    strict_natten: bool
    impl: str
    attention_kwargs: None
    backend: None
    q_tile_shape: None
    kv_tile_shape: None
    backward_q_tile_shape: None
    backward_kv_tile_shape: None
    backward_kv_splits: None
    backward_use_pt_reduction: bool | None
    run_persistent_kernel: bool | None
    kernel_schedule: None
    torch_compile: bool | None


def na1d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = 1,
    dilation: Sizes | None = 1,
    is_causal: Flags | None = False,
    scale: float | None = None,
    **options: Unpack[Options],
) -> Any:
    """Neighbourhood attention on a sequence ``[B, X, H, D]``; see :func:`na2d`."""
    window = kernel_size, stride, dilation, is_causal
    return _attend(1, query, key, value, window, scale, options)


def na2d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = 1,
    dilation: Sizes | None = 1,
    is_causal: Flags | None = False,
    scale: float | None = None,
    **options: Unpack[Options],
) -> Any:
    r"""Neighbourhood attention on images: every pixel attends to the window around it.

    Swap ``natten.na2d`` for this: layout, names, defaults and windows are NATTEN's (see
    :class:`graphattn.GridGraph` for the rule), on CPU and GPU, for training too, with any head
    width.

    Args:
        query: ``[B, X, Y, H, D]``; :func:`na1d` has one axis in place of ``X, Y``, :func:`na3d`
            three.
        key: ``[B, X, Y, Hkv, D]``; query head ``h`` reads head ``h // (H / Hkv)``.
        value: ``[B, X, Y, Hkv, Dv]``.
        kernel_size: Window per axis; one number serves all.
        stride: Queries that share a window, per axis; ``None`` means 1.
        dilation: Distance of the keys in a window, per axis; ``None`` means 1.
        is_causal: Whether later keys are left out, bool per axis; ``None`` means False.
        scale: Factor of the dot product; ``None`` means ``D ** -0.5``.
        additional_keys: ``[B, M, Hkv, D]``, which every query attends to besides its window.
        additional_values: ``[B, M, Hkv, Dv]``; both or neither.
        return_lse: Also return the log of the softmax denominators ``[B, X, Y, H]`` in float32,
            differentiable.
        rpb: Relative position bias ``[H, 2 k_1 - 1, 2 k_2 - 1]``, indexed by key minus query as in
            NATTEN up to 0.17; odd windows, no causal axis. Its gradient is deterministic.
        border: ``"clamp"`` (NATTEN's), ``"truncate"`` or ``"wrap"``.
        dropout_p: Probability of dropping a weight.
        strict_natten: Refuse a window of 1 and take ``scale=0.0`` for the default, as NATTEN does.
        impl: As in :func:`graphattn.attention`.
        **options: NATTEN's tuning arguments (``backend``, tile shapes, ``torch_compile``, ...) are
            accepted at their defaults, and refused otherwise: kernels are chosen by themselves.

    Returns:
        ``[B, X, Y, H, Dv]``, or ``(output, lse)``.

    Raises:
        ValueError: shapes or windows do not fit; the message names the tensor and the axis.
        TypeError: an argument is unknown or of the wrong type.

    Memory: outputs and LSE, whatever the window. On the GPU dropout, ``"wrap"``, float64 and heads
    beyond 256 bytes need the edges written down, once for each geometry: 4 bytes each, 12 more for
    training.
    """
    window = kernel_size, stride, dilation, is_causal
    return _attend(2, query, key, value, window, scale, options)


def na3d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = 1,
    dilation: Sizes | None = 1,
    is_causal: Flags | None = False,
    scale: float | None = None,
    **options: Unpack[Options],
) -> Any:
    """Neighbourhood attention on volumes or video ``[B, X, Y, Z, H, D]``; see :func:`na2d`."""
    window = kernel_size, stride, dilation, is_causal
    return _attend(3, query, key, value, window, scale, options)


def _attend(
    dims: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    window: tuple[Any, ...],
    scale: float | None,
    options: Options,
) -> Any:
    _check_options(options)
    spatial = _check_layout(dims, query, key, value)
    strict = options.get("strict_natten", False)
    if strict and scale == 0.0:
        scale = None
    if window[0] is None:
        raise TypeError(f"kernel_size must be an integer or {dims} of them, got None")
    window = tuple(
        usual if given is None else given
        for given, usual in zip(window, (0, 1, 1, False), strict=True)
    )
    rule = (*window, options.get("border", "clamp"), str(query.device))
    grid = shared(GridGraph, spatial, *rule)
    if strict:
        _check_strict(grid)
    q, k, v = (t.flatten(1, dims) for t in (query, key, value))
    bias = _bias(options.get("rpb"), grid, query.shape[-2])
    common: dict[str, Any] = {
        "scale": scale,
        "impl": options.get("impl", "auto"),
        "dropout_p": options.get("dropout_p", 0.0),
        "return_lse": True,
    }
    out, lse = attention(q, k, v, grid, bias=bias, **common)
    extra = _additional(options, k, v)
    if extra is not None:
        every = shared(complete, grid.num_rows, extra[0].shape[1])
        out, lse = merge([(out, lse), attention(q, *extra, every, **common)])
    out, lse = (t.unflatten(1, spatial) for t in (out, lse))
    return (out, lse) if options.get("return_lse", False) else out


def _check_options(options: Options) -> None:
    known = Options.__annotations__
    for name, given in options.items():
        if name not in known:
            raise TypeError(f"unknown argument {name!r}; expected one of {', '.join(known)}")
        if name in _UNTUNED and given is not None and given != _UNTUNED[name]:
            raise ValueError(
                f"{name}={given!r} tunes NATTEN's own kernels; leave it at {_UNTUNED[name]!r}, "
                "kernels are chosen by themselves here (see impl)"
            )


def _check_layout(dims: int, query: Tensor, key: Tensor, value: Tensor) -> tuple[int, ...]:
    """Spatial shape of [B, *spatial, H, D], which all three must share with B."""
    axes = "XYZ"[:dims]
    wanted = f"[B, {', '.join(axes)}, heads, width]"
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor {wanted}, got {type(tensor).__name__}")
        if tensor.dtype not in FLOATS:
            raise TypeError(f"{name} must be a floating point tensor, got {tensor.dtype}")
        if tensor.dim() != dims + 3:
            raise ValueError(
                f"{name} must have shape {wanted} (heads after the axes), got {list(tensor.shape)}"
            )
        for number, (mine, first) in enumerate(
            zip(tensor.shape[: dims + 1], query.shape, strict=False)
        ):
            if mine != first:
                axis = "B" if number == 0 else f"axis {number - 1} ({axes[number - 1]})"
                raise ValueError(
                    f"query, key and value must share batch and extents; {axis} is {first} for "
                    f"query and {mine} for {name}"
                )
    return tuple(query.shape[1 : dims + 1])


def _check_strict(grid: GridGraph) -> None:
    for number, axis in enumerate(grid.axes):
        if axis.kernel_size < 2:
            raise ValueError(
                f"kernel_size of axis {number} must be at least 2 under strict_natten, "
                f"got {axis.kernel_size}"
            )


def _bias(rpb: Tensor | None, grid: GridGraph, heads: int) -> TableBias | None:
    if rpb is None:
        return None
    check_rpb(grid)
    wanted = [heads, *grid.relative_shape]
    check_weights("rpb", rpb, "[heads, 2 k - 1 for each axis]", tuple(wanted), grid)
    return TableBias(rpb.flatten(1))


def check_rpb(grid: GridGraph) -> None:
    """Raise unless a relative position bias means the same as NATTEN's on this grid."""
    for number, axis in enumerate(grid.axes):
        if axis.is_causal:
            raise ValueError(
                f"axis {number} is causal, but a relative position bias needs both sides of a "
                "window; drop is_causal or rpb"
            )
        if axis.kernel_size % 2 == 0:
            raise ValueError(
                "a relative position bias needs windows with a middle, but kernel_size of axis "
                f"{number} is {axis.kernel_size}; take an odd one"
            )


def _additional(options: Options, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor] | None:
    """Additional keys and values, checked against ``key`` and ``value`` [B, N, H, D]."""
    keys, values = options.get("additional_keys"), options.get("additional_values")
    if keys is None and values is None:
        return None
    if keys is None or values is None:
        raise ValueError("additional_keys and additional_values go together: pass both or neither")
    for name, tensor, like in (("keys", keys, key), ("values", values, value)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"additional_{name} must be a tensor, got {type(tensor).__name__}")
        batch, _, heads, width = like.shape
        wanted = (batch, keys.shape[1] if keys.dim() > 1 else 0, heads, width)
        if tuple(tensor.shape) != wanted:
            raise ValueError(
                f"additional_{name} must have shape [B, M, heads, width] = [{batch}, M, {heads}, "
                f"{width}] with one M for both, got {list(tensor.shape)}"
            )
    return None if keys.shape[1] == 0 else (keys, values)
