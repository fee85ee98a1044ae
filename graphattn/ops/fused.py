"""What the fused operators share: kernel modules, layouts in schemas, refusal of forward mode."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from torch import Tensor
from torch.autograd import forward_ad

from graphattn.kernels.layout import Layout

_FOLDER = {"cpu": "cpu", "triton": "gpu"}


def flatten(layout: Layout) -> list[Tensor]:
    """A layout as the flat list that operator schemas can carry."""
    return [layout.indptr, layout.indices, layout.edges, *layout.plan]


def unflatten(flat: Sequence[Tensor]) -> Layout:
    """A layout from the flat list that operator schemas can carry."""
    return Layout(flat[0], flat[1], flat[2], tuple(flat[3:]))


def kernels(impl: str, name: str) -> Any:
    """A kernel module; imported when a kernel runs, so that Triton and Numba stay lazy."""
    return import_module(f"graphattn.kernels.{_FOLDER[impl]}.{name}")


def or_empty(tensor: Tensor | None, like: Tensor) -> Tensor:
    """The tensor, or an empty one in its place: operators return a fixed number of tensors."""
    return like.new_empty(0) if tensor is None else tensor


def check_reverse_mode(impl: str) -> None:
    """Raise under forward-mode differentiation: a fused operator would drop the tangents."""
    if forward_ad._current_level >= 0:
        raise ValueError(
            f"impl={impl!r} has no forward-mode derivative; pass impl='reference' under "
            "torch.func.jvp and torch.autograd.forward_ad"
        )
