"""Edge sorting as opaque operators, so that the compiler never traces data-dependent checks."""

from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphattn.graph.checks import check_index_range

if TYPE_CHECKING:
    import numpy as np

_INT32_MAX = 2**31 - 1
_FEW = 1 << 15
"""Up to so many edges, sorting takes less time than loading the kernel."""


def index_dtype(num_cols: int) -> torch.dtype:
    """Narrowest supported dtype for column indices: half the index bytes whenever possible."""
    return torch.int32 if num_cols <= _INT32_MAX else torch.int64


def indptr_from_counts(counts: Tensor) -> Tensor:
    """Row offsets [rows + 1] from row counts [rows]."""
    indptr = torch.zeros(counts.numel() + 1, dtype=torch.int64, device=counts.device)
    torch.cumsum(counts, 0, out=indptr[1:])
    return indptr


def sort_keys(keys: "np.ndarray", merge: bool) -> "np.ndarray":
    """Integers [n] sorted in place, with ``merge`` without repetitions.

    np.unique hashes integers before it sorts them: 70 times slower on ten million edges.
    """
    import numpy as np

    keys.sort()
    if not merge:
        return keys
    first = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    return keys[first]


@torch.library.custom_op("graphattn::sort_edges", mutates_args=())
def sort_edges(
    source: Tensor, target: Tensor, num_rows: int, num_cols: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Sort an edge list by (target, source), ties by edge id.

    source, target [E] integers -> indptr [num_rows + 1], indices [E], edge ids [E].
    """
    check_index_range(source, num_cols, "edge_index[0] (sources)")
    check_index_range(target, num_rows, "edge_index[1] (targets)")
    rows = indptr_from_counts(torch.bincount(target, minlength=num_rows))
    if _by_counting(source, num_rows + num_cols):
        return rows, *_sorted_by_counting(source, target, rows, num_cols)
    by_source, order = torch.sort(source, stable=True)
    _, by_target = torch.sort(target[order], stable=True)
    return rows, by_source[by_target].to(index_dtype(num_cols)), order[by_target]


def _by_counting(edges: Tensor, nodes: int) -> bool:
    """Whether counting pays: it visits every node of both sides, and needs Numba."""
    many = edges.numel() > _FEW and nodes <= 4 * edges.numel()
    return many and edges.device.type == "cpu" and has_numba()


@cache
def has_numba() -> bool:
    """Whether Numba is installed."""
    return find_spec("numba") is not None


def _sorted_by_counting(
    source: Tensor, target: Tensor, rows: Tensor, num_cols: int
) -> tuple[Tensor, Tensor]:
    from graphattn.kernels.cpu.transpose import sort_by_target

    columns = indptr_from_counts(torch.bincount(source, minlength=num_cols))
    indices = source.new_empty(source.shape, dtype=index_dtype(num_cols))
    perm = source.new_empty(source.shape, dtype=torch.int64)
    given = (source.contiguous(), target.contiguous(), columns, rows, indices, perm)
    sort_by_target(*(part.numpy() for part in given))
    return indices, perm


@sort_edges.register_fake
def _(
    source: Tensor, target: Tensor, num_rows: int, num_cols: int
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        source.new_empty(num_rows + 1, dtype=torch.int64),
        source.new_empty(source.shape, dtype=index_dtype(num_cols)),
        source.new_empty(source.shape, dtype=torch.int64),
    )


@torch.library.custom_op("graphattn::transpose_csr", mutates_args=())
def transpose_csr(indptr: Tensor, indices: Tensor, num_cols: int) -> tuple[Tensor, Tensor, Tensor]:
    """Transpose a CSR whose rows are sorted.

    indptr [R + 1], indices [E] -> indptr [num_cols + 1], row of each entry [E] (ascending within
    a column), CSR position of each entry [E].
    """
    num_rows = indptr.numel() - 1
    columns = indptr_from_counts(torch.bincount(indices, minlength=num_cols))
    if _by_counting(indices, num_rows + num_cols):
        position = indices.new_empty(indices.shape, dtype=torch.int64)
        return columns, _rows_by_counting(indptr, indices, columns, position), position
    rows = torch.repeat_interleave(
        torch.arange(num_rows, device=indptr.device), indptr.diff(), output_size=indices.numel()
    )
    _, position = torch.sort(indices, stable=True)
    return columns, rows[position].to(index_dtype(num_rows)), position


def transpose_without_ids(indptr: Tensor, indices: Tensor, num_cols: int) -> tuple[Tensor, Tensor]:
    """As ``transpose_csr``, without the positions: on the CPU in memory of the result alone."""
    if not _by_counting(indices, indptr.numel() + num_cols):
        found: tuple[Tensor, Tensor, Tensor] = transpose_csr(indptr, indices, num_cols)
        return found[:2]
    columns = indptr_from_counts(torch.bincount(indices, minlength=num_cols))
    return columns, _rows_by_counting(indptr, indices, columns, None)


def _rows_by_counting(
    indptr: Tensor, indices: Tensor, columns: Tensor, position: Tensor | None
) -> Tensor:
    from graphattn.kernels.cpu.transpose import transpose

    rows = indices.new_empty(indices.shape, dtype=index_dtype(indptr.numel() - 1))
    where = None if position is None else position.numpy()
    entries = indptr.contiguous().numpy(), indices.contiguous().numpy()
    transpose(*entries, columns.numpy(), rows.numpy(), where)
    return rows


@transpose_csr.register_fake
def _(indptr: Tensor, indices: Tensor, num_cols: int) -> tuple[Tensor, Tensor, Tensor]:
    return (
        indptr.new_empty(num_cols + 1, dtype=torch.int64),
        indices.new_empty(indices.shape, dtype=index_dtype(indptr.shape[0] - 1)),
        indices.new_empty(indices.shape, dtype=torch.int64),
    )
