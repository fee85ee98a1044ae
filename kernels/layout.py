"""The raw form in which kernels see a graph: a few tensors, one set per orientation."""

from typing import NamedTuple

from torch import Tensor


class Layout(NamedTuple):
    """One orientation of a sparse graph as plain tensors.

    Row ``i`` owns the positions ``indptr[i] : indptr[i + 1]``. Seen from the rows these are the
    nodes that ``i`` attends to; the transposed layout has the key nodes as its rows and lists the
    query nodes that read them.

    indptr [rows + 1] int64; indices [E] int32 or int64; edges [E], the caller's edge id at each
    position, or [0] where it equals the position; plan, an implementation's own precomputed work
    division: ``chunks [C + 1]`` int64 row bounds of about equal edge count for the CPU, task
    tensors for the GPU.
    """

    indptr: Tensor
    indices: Tensor
    edges: Tensor
    plan: tuple[Tensor, ...]
