"""Fresh memory for results: large ones on huge pages, where Linux offers them.

The first write to a new page costs a fault, and so does giving it back: of a result of 51 MB that
is 12,500 faults in pages of 4 KiB, 25 in pages of 2 MiB. numpy asks for the same for its arrays.
"""

import ctypes
import mmap
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

# Below two huge pages there may be no whole one inside.
LEAST_BYTES = 2**22


@cache
def _advise() -> Any:
    """The C library's ``madvise``, or None where there is none or no huge pages."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    found = getattr(ctypes.CDLL(None), "madvise", None)
    if found is not None:
        found.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    return found


def on_huge_pages(tensor: Tensor) -> Tensor:
    """The same tensor, whose memory has not been written yet; asks only, so it cannot fail."""
    size = tensor.numel() * tensor.element_size()
    if size >= LEAST_BYTES and tensor.device.type == "cpu" and (advise := _advise()):
        begin = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        # A kernel without huge pages refuses; the tensor then lies on small ones, as it would have.
        advise(begin, tensor.data_ptr() + size - begin, mmap.MADV_HUGEPAGE)
    return tensor


def empty(like: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """Uninitialised tensor of ``shape``, in ``like``'s dtype unless told."""
    return on_huge_pages(like.new_empty(shape, dtype=dtype))


def zeros(like: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    """Zeroed tensor of ``shape``, in ``like``'s dtype unless told."""
    return empty(like, shape, dtype).zero_()
