"""Launchers of the Triton kernels for non-linear messages; the machinery is aggregate.py's.

Nothing here reads from the device, so calls can be captured in a CUDA graph.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from graphattn.kernels.gpu.aggregate import (
    cut,
    edge_arguments,
    families,
    reduce_bent,
    tile_arguments,
)
from graphattn.kernels.gpu.arguments import accumulator, divide
from graphattn.kernels.gpu.changes import change_rows
from graphattn.kernels.gpu.launch import launch, warp_size
from graphattn.kernels.gpu.levels import merge_sums, partial_rows
from graphattn.kernels.gpu.tuning import change_registers
from graphattn.kernels.layout import Layout


class Gradients(NamedTuple):
    """Where a pass writes; None for what is not wanted."""

    own: Tensor | None = None
    weight: Tensor | None = None
    attr: Tensor | None = None


def message_forward(
    a: Tensor,
    b: Tensor,
    weight: Tensor | None,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    rows: Layout,
    *,
    activation: str,
    slope: float,
    reduce: tuple[str, ...],
) -> tuple[Tensor, Tensor]:
    """Reduce the messages of every row; meaning as in kernels/reference."""
    bent = _bent(edge_attr, edge_proj, activation, slope, accumulator(a.dtype)) | {"own": a}
    return reduce_bent(b, weight, rows, reduce, bent)


def message_backward(
    pulls: Tensor,
    a: Tensor,
    b: Tensor,
    weight: Tensor | None,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    rows: Layout,
    cols: Layout,
    *,
    activation: str,
    slope: float,
    reduce: tuple[str, ...],
    needs: tuple[bool, ...],
    total: bool = False,
) -> tuple[Tensor | None, ...]:
    """Gradients of (a, b, weight, edge_attr, edge_proj); meaning as in kernels/reference.

    Allocates them, partial sums of hubs, one row of a beside its terms, and for the projection one
    row per feature at a time: its gradient takes a pass for each. The total takes one as well.
    """
    high = accumulator(a.dtype)
    given = a, b, weight, edge_attr, edge_proj
    # Rows of a node without edges are written too; zeros for edges of empty tensors.
    grads = [
        None
        if t is None or not need
        else torch.zeros_like(t, memory_format=torch.contiguous_format)
        for t, need in zip(given, needs, strict=True)
    ]
    if a.numel() == 0 or b.numel() == 0:
        return (*grads, a.new_zeros(a.shape[2:], dtype=high)) if total else tuple(grads)
    wide = [None if t is None else t.to(high) for t in (grads[2], grads[3])]
    bent = _bent(edge_attr, edge_proj, activation, slope, high)
    pulls = pulls.to(high).contiguous()
    if needs[0] or wide[0] is not None or wide[1] is not None:
        into = Gradients(grads[0], *wide)
        _change(a, b, pulls, weight, bent, rows, reduce, into)
    if needs[1]:
        table = torch.cat([a.to(high).unsqueeze(2), pulls], 2)
        _change(b, table, None, weight, bent, cols, reduce, Gradients(grads[1]))
    if grads[4] is not None:
        for f in range(grads[4].shape[2]):
            part = a.new_empty(a.shape, dtype=high)
            _change(a, b, pulls, weight, bent, rows, reduce, Gradients(part), f)
            grads[4][..., f] = part.sum((0, 1))
    found = [grads[0], grads[1], *wide, grads[4]]
    grads = [
        g if g is None or t is None else g.to(t.dtype) for g, t in zip(found, given, strict=True)
    ]
    if not total:
        return tuple(grads)
    options = {"activation": activation, "slope": slope, "reduce": ("sum",)}
    sums, _ = message_forward(*given, rows, **options)
    return *grads, sums[0].to(high).sum((0, 1))


def _change(
    own: Tensor,
    near: Tensor,
    pulls: Tensor | None,
    weight: Tensor | None,
    bent: dict[str, Any],
    layout: Layout,
    reduce: tuple[str, ...],
    grads: Gradients,
    feature: int | None = None,
) -> None:
    """One pass: by rows with ``pulls``, else by columns; for ``feature`` weighed by it.

    Where tiles or batch entries share an edge's gradient, they run one after the other and add up.
    """
    batch, num_own, heads, width = own.shape
    high, work = accumulator(own.dtype), divide(layout)
    linear, spread, top, bottom = families(reduce)
    terms = linear + 2 * (spread + top + bottom)
    slices = cut(heads, width, near.element_size(), warp_size())
    shared = weight is not None and weight.shape[0] == 1 and batch > 1
    units = batch * slices.groups
    add = grads.weight is not None and (shared or slices.width_groups > 1)
    add_attr = grads.attr is not None and units > 1
    one_by_one = add or add_attr
    (part,) = partial_rows((grads.own,), work.chunks, high)
    blocks = work.num_tasks // slices.slots
    with torch.cuda.device_of(own):
        for first_unit in range(units if one_by_one else 1):
            launch(
                change_rows,
                blocks if one_by_one else units * blocks,
                num_warps=slices.warps,
                max_registers=change_registers(terms, near.element_size()),
                near=near,
                pulls=pulls,
                weight=weight,
                grad=grads.own,
                grad_weight=grads.weight,
                grad_attr=grads.attr,
                part=part,
                num_own=num_own,
                num_near=near.shape[1],
                first_unit=first_unit,
                feature=feature or 0,
                TERMS=terms,
                LINEAR=linear,
                SPREAD=spread,
                MAX=top,
                MIN=bottom,
                ADD=add,
                ADD_ATTR=add_attr,
                BY_ROWS=pulls is not None,
                BY_FEATURE=feature is not None,
                **(bent | {"own": own}),
                **tile_arguments(heads, width, high, slices),
                **edge_arguments(work, slices, weight, terms + 1, bent["attr"] is not None),
            )
        merge_sums(part, grads.own, work)


def _bent(
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
    activation: str,
    slope: float,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """What makes a message of gathered numbers, but for the row's own."""
    featured = edge_attr is not None and edge_proj is not None
    return {
        "attr": edge_attr.contiguous() if featured and edge_attr is not None else None,
        "proj": edge_proj.to(dtype).permute(2, 0, 1).contiguous()
        if featured and edge_proj is not None
        else None,
        "ACTIVATION": activation,
        "SLOPE": slope if activation == "leaky_relu" else 0.0,
        "FEATURES": edge_attr.shape[1] if featured and edge_attr is not None else 0,
    }
