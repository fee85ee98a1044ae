"""Edge sorting as opaque operators, so that the compiler never traces data-dependent checks."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphattn.graph.checks import check_index_range

if TYPE_CHECKING:
    import numpy as np

_INT32_MAX = 2**31 - 1


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
    by_source, order = torch.sort(source, stable=True)
    _, by_target = torch.sort(target[order], stable=True)
    perm = order[by_target]
    counts = torch.bincount(target, minlength=num_rows)
    indices = by_source[by_target].to(index_dtype(num_cols))
    return indptr_from_counts(counts), indices, perm


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
    rows = torch.repeat_interleave(
        torch.arange(num_rows, device=indptr.device), indptr.diff(), output_size=indices.numel()
    )
    _, position = torch.sort(indices, stable=True)
    counts = torch.bincount(indices, minlength=num_cols)
    return indptr_from_counts(counts), rows[position].to(index_dtype(num_rows)), position


@transpose_csr.register_fake
def _(indptr: Tensor, indices: Tensor, num_cols: int) -> tuple[Tensor, Tensor, Tensor]:
    return (
        indptr.new_empty(num_cols + 1, dtype=torch.int64),
        indices.new_empty(indices.shape, dtype=index_dtype(indptr.shape[0] - 1)),
        indices.new_empty(indices.shape, dtype=torch.int64),
    )
