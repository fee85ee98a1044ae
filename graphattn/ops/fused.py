"""What the fused operators share: the direct call, kernel modules, layouts in schemas."""

from collections.abc import Callable, Sequence
from functools import cache, wraps
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from graphattn.kernels.layout import Layout

_FOLDER = {"cpu": "cpu", "triton": "gpu"}
PLAIN = (Tensor, torch.nn.Parameter)
"""Types whose operators do what they say; subclasses may want to see them."""

Function = Callable[..., Any]


def direct(
    operator: Any, function: Function, save: Function | None = None, pull: Function | None = None
) -> Function:
    """A call that skips torch's dispatcher where nobody listens to it.

    The way through the dispatcher into an operator written in Python costs several times the
    kernel of a small graph. In eager mode ``function``, which is the operator's body, is called at
    once, under a plain ``autograd.Function`` of the same ``save`` and ``pull`` where a gradient is
    wanted. Compilers, dispatch modes, function transforms and tensor subclasses see the operator.
    """
    derived = function
    if save is not None and pull is not None:
        operator.register_autograd(pull, setup_context=save)
        derived = _with_derivative(function, save, pull)

    def watched(*inputs: Any) -> Any:
        return operator(*(list(i) if type(i) is Flat else i for i in inputs))

    def call(*inputs: Any) -> Any:
        if torch.compiler.is_compiling() or is_watched():
            return watched(*inputs)
        wanted = False
        for given in inputs:
            kind = type(given)
            if kind in PLAIN:
                wanted = wanted or given.requires_grad
            elif kind is tuple or kind is list:
                for part in given:
                    if type(part) in PLAIN:
                        wanted = wanted or part.requires_grad
                    elif isinstance(part, Tensor):
                        return watched(*inputs)
            elif isinstance(given, Tensor):
                return watched(*inputs)
        return derived(*inputs) if wanted and torch.is_grad_enabled() else function(*inputs)

    return call


def is_watched() -> bool:
    """Whether a mode or a transform wants to see operators rather than their results."""
    modes: int = torch._C._len_torch_dispatch_stack()
    return modes > 0 or torch._C._are_functorch_transforms_active()


def _with_derivative(function: Function, save: Function, pull: Function) -> Function:
    class _Direct(torch.autograd.Function):
        # One method: with a separate ``setup_context`` torch binds the signature at every call.
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            found = function(*inputs)
            save(ctx, inputs, found)
            return found

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            # An operator's lists of tensors have lists of gradients; a Function's have None.
            return tuple(None if isinstance(g, list) else g for g in pull(ctx, *grads))

    return _Direct.apply


def may_train(*tensors: Tensor | None) -> bool:
    """Whether a backward pass may follow; tensors inside torch.vmap do not tell."""
    if not torch.is_grad_enabled():
        return False
    for tensor in tensors:
        if tensor is not None and tensor.requires_grad:
            return True
    return torch._C._are_functorch_transforms_active()


def filled(function: Function) -> Function:
    """``function`` with empty tensors for absent results: operators return a fixed number."""

    @wraps(function)
    def call(*inputs: Any) -> Any:
        found = function(*inputs)
        like = next(t for t in found if t is not None)
        return tuple(like.new_empty(0) if t is None else t for t in found)

    return call


class Flat(list[Tensor]):
    """A layout as a flat list that still knows the layout."""

    layout: Layout


def flatten(layout: Layout) -> list[Tensor]:
    """A layout as the flat list that operator schemas can carry."""
    return [layout.indptr, layout.indices, layout.edges, *layout.plan]


def flat(layout: Layout) -> list[Tensor]:
    """A layout for a ``direct`` call, which hands it on as it is where no operator is called."""
    tensors = flatten(layout)
    if torch.compiler.is_compiling():
        return tensors
    found = Flat(tensors)
    found.layout = layout
    return found


def unflatten(tensors: Sequence[Tensor]) -> Layout:
    """A layout from the flat list that operator schemas can carry."""
    if type(tensors) is Flat:
        return tensors.layout
    return Layout(tensors[0], tensors[1], tensors[2], tuple(tensors[3:]))


@cache
def kernels(impl: str, name: str) -> Any:
    """A kernel module; imported when a kernel runs, so that Triton and Numba stay lazy."""
    return import_module(f"graphattn.kernels.{_FOLDER[impl]}.{name}")


def check_reverse_mode(impl: str) -> None:
    """Raise under forward-mode differentiation: a fused operator would drop the tangents."""
    if forward_ad._current_level >= 0:
        raise ValueError(
            f"impl={impl!r} has no forward-mode derivative; pass impl='reference' under "
            "torch.func.jvp and torch.autograd.forward_ad"
        )
