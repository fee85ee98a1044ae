"""The one place from which kernels are launched, or recorded to be compiled ahead of time."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

_HERE = nullcontext()


class Launch(NamedTuple):
    """A kernel with the arguments and compile options of one launch."""

    kernel: Any
    arguments: dict[str, Any]
    num_warps: int
    max_registers: int | None
    programs: int


class _Recording(threading.local):
    """Launches of this thread that are written down instead of made."""

    launches: list[Launch] | None = None
    warp_size: int | None = None


_recording = _Recording()
_compiled: dict[tuple[Any, ...], Any] = {}
_fixed: dict[Any, list[bool]] = {}


def warp_size() -> int:
    """Threads per warp: 64 on AMD's CDNA, else 32."""
    if _recording.warp_size is not None:
        return _recording.warp_size
    return 64 if torch.version.hip else 32


def compile_options(num_warps: int, max_registers: int | None, is_hip: bool) -> dict[str, Any]:
    """Compiler options of a launch.

    Fused multiply-add is asked for explicitly: Triton's default differs between versions, and
    with it would the bits of the results. The register limit is an option of NVIDIA's alone.
    """
    options: dict[str, Any] = {"num_warps": num_warps, "enable_fp_fusion": True}
    if max_registers is not None and not is_hip:
        options["maxnreg"] = max_registers
    return options


def launch(
    kernel: Any,
    programs: int,
    num_warps: int,
    max_registers: int | None = None,
    **arguments: Any,
) -> None:
    """Run ``programs`` programs of a kernel on the current device; nothing for none."""
    launch_with(kernel, programs, arguments, num_warps, max_registers)


def launch_with(
    kernel: Any,
    programs: int,
    arguments: dict[str, Any],
    num_warps: int,
    max_registers: int | None = None,
) -> None:
    """As ``launch`` with the kernel's arguments in a dictionary."""
    if _recording.launches is not None:
        found = Launch(kernel, arguments, num_warps, max_registers, programs)
        _recording.launches.append(found)
    elif programs > 0:
        values = [arguments[name] for name in kernel.arg_names]
        launch_values(kernel, programs, values, num_warps, max_registers)


def launch_values(
    kernel: Any, programs: int, values: list[Any], num_warps: int, max_registers: int | None
) -> Any:
    """As ``launch`` with the arguments in their order; returns the compiled kernel, if any.

    Triton's own way from arguments to machine code takes as long as a small kernel runs several
    times over. It is gone once per signature; after that the compiled kernel is called. None is
    returned by the interpreter, and where a tensor that is not aligned has its own machine code.
    """
    if not hasattr(kernel, "params"):  # the interpreter's
        kernel[(programs,)](*values, num_warps=num_warps)
        return None
    key = _signature(kernel, values, num_warps, max_registers)
    compiled = _compiled.get(key)
    if compiled is None:
        options = compile_options(num_warps, max_registers, torch.version.hip is not None)
        compiled = kernel[(programs,)](*values, **options)
        if key is None:
            return None
        _compiled[key] = compiled
    else:
        compiled[programs, 1, 1](*values)
    return compiled


def _signature(
    kernel: Any, values: list[Any], num_warps: int, max_registers: int | None
) -> tuple[Any, ...] | None:
    """What machine code depends on; None if a tensor is not aligned to 16 bytes."""
    key = [kernel.fn, torch.cuda.current_device(), num_warps, max_registers]
    for value, fixed in zip(values, _compiled_in(kernel), strict=True):
        if isinstance(value, Tensor):
            if value.data_ptr() % 16:
                return None
            key.append(value.dtype)
            if torch.version.hip:  # short tensors have machine code of their own there
                key.append(value.untyped_storage().size() < 2**31)
        elif fixed or value is None:
            key.append(value)
    return tuple(key)


def _compiled_in(kernel: Any) -> list[bool]:
    """Which arguments of a kernel are part of its machine code when they are no tensors."""
    if kernel.fn not in _fixed:
        _fixed[kernel.fn] = [
            parameter.is_constexpr
            or not (parameter.do_not_specialize or parameter.annotation_type.startswith("fp"))
            for parameter in kernel.params
        ]
    return _fixed[kernel.fn]


def on_device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """Context in which kernels run where the tensor is; free if that is the current device."""
    if not tensor.is_cuda or tensor.get_device() == torch.cuda.current_device():
        return _HERE
    return torch.cuda.device_of(tensor)


@contextmanager
def recording(warp_size: int | None = None) -> Iterator[list[Launch]]:
    """Collect this thread's launches instead of making them, as for a device with this warp size.

    Tensors may be on the meta device.
    """
    launches: list[Launch] = []
    before = _recording.launches, _recording.warp_size
    _recording.launches, _recording.warp_size = launches, warp_size
    try:
        yield launches
    finally:
        _recording.launches, _recording.warp_size = before
