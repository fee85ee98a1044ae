"""Which implementation runs: never a different meaning, never a silent fall-back."""

import os
import warnings
from importlib.util import find_spec

import torch

from graphattn.errors import BackendUnavailable
from graphattn.graph.sort import has_numba

IMPLS = ("auto", "reference", "cpu", "triton")
HAS_NUMBA = has_numba()
HAS_TRITON = find_spec("triton") is not None
_warned: set[str] = set()


def resolve(impl: str, device: torch.device) -> str:
    """Name the implementation for tensors on ``device``: "reference", "cpu" or "triton".

    ``auto`` takes Triton on CUDA, Numba on the CPU and the reference elsewhere. A named
    implementation that cannot run raises :class:`BackendUnavailable` with the reason.
    """
    if impl not in IMPLS:
        raise ValueError(f"impl must be one of {', '.join(IMPLS)}, got {impl!r}")
    if impl == "auto":
        return _automatic(device.type)
    reason = _obstacle(impl, device.type)
    if reason is not None:
        raise BackendUnavailable(f"impl={impl!r} cannot run: {reason}")
    return impl


def _automatic(device: str) -> str:
    if device == "cuda":
        if not HAS_TRITON:
            raise BackendUnavailable(
                "tensors are on CUDA but Triton is not installed; install triton, "
                "or pass impl='reference' (slow, allocates per-edge vectors)"
            )
        return "triton"
    if device == "cpu" and HAS_NUMBA:
        return "cpu"
    if device == "cpu" and "numba" not in _warned:
        _warned.add("numba")
        warnings.warn(
            "Numba is not installed: CPU attention runs on the reference implementation, which is "
            "tens of times slower and allocates per-edge vectors; pip install numba",
            stacklevel=4,
        )
    return "reference"


def _obstacle(impl: str, device: str) -> str | None:
    if impl == "cpu":
        if not HAS_NUMBA:
            return "Numba is not installed; pip install numba"
        if device != "cpu":
            return f"it needs CPU tensors, got {device}; use impl='auto'"
    if impl == "triton":
        if not HAS_TRITON:
            return "Triton is not installed; pip install triton"
        if device != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
            return (
                f"it needs CUDA tensors, got {device}; move them to the GPU, or set "
                "TRITON_INTERPRET=1 before the first import of triton to interpret the kernels"
            )
    return None
