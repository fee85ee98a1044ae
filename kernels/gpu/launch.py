"""The one place from which kernels are launched, or recorded to be compiled ahead of time."""

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


class _Recording(NamedTuple):
    launches: list[Launch]
    warp_size: int


_recording: _Recording | None = None


def warp_size() -> int:
    """Threads per warp: 64 on AMD's CDNA, else 32."""
    if _recording is not None:
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
    """As ``launch`` with the kernel's arguments in a dictionary: a long call costs microseconds."""
    if _recording is not None:
        _recording.launches.append(Launch(kernel, arguments, num_warps, max_registers))
    elif programs > 0:
        options = compile_options(num_warps, max_registers, torch.version.hip is not None)
        kernel[(programs,)](**(arguments | options))


def on_device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    """Context in which kernels run where the tensor is; free if that is the current device."""
    if not tensor.is_cuda or tensor.get_device() == torch.cuda.current_device():
        return _HERE
    return torch.cuda.device_of(tensor)


@contextmanager
def recording(warp_size: int) -> Iterator[list[Launch]]:
    """Collect launches instead of running them, as for a device with this warp size.

    Tensors may be on the meta device. Not for use while another thread launches kernels.
    """
    global _recording
    launches: list[Launch] = []
    _recording = _Recording(launches, warp_size)
    try:
        yield launches
    finally:
        _recording = None
