"""Checks of the arrays that a graph is built from; each message names the remedy."""

from numbers import Integral
from typing import Any

import torch
from torch import Tensor

Size = int | tuple[int, int] | None


def is_whole(number: Any) -> bool:
    """Whether it is an integer, of Python or NumPy; True and False are none."""
    return isinstance(number, (int, Integral)) and not isinstance(number, bool)


def as_int(number: int) -> int:
    """A whole number as Python's; a compiler's symbolic size stays symbolic."""
    return number if isinstance(number, int) else int(number)


def check_index_range(index: Tensor, size: int, what: str) -> None:
    """Raise ``ValueError`` unless every entry of ``index`` lies in ``[0, size)``."""
    if index.numel() == 0:
        return
    low, high = (int(v) for v in torch.aminmax(index))
    if low < 0:
        raise ValueError(
            f"{what} must be node indices in [0, {size}), got {low}; "
            "drop negative padding entries before building the graph"
        )
    if high >= size:
        raise ValueError(
            f"{what} must be node indices in [0, {size}), got {high}; "
            f"pass size={high + 1} or more, or remove the edge"
        )


def check_places(numbers: Tensor, count: int, what: str, remedy: str) -> None:
    """Raise unless ``numbers`` are integers in ``[0, count)``.

    On a GPU the range is left to the indexing that follows: to look would wait for the device.

    Raises:
        TypeError: Not integers; a mask would be read as 0 and 1.
        ValueError: One out of range.
    """
    if numbers.dtype == torch.bool or numbers.is_floating_point() or numbers.is_complex():
        raise TypeError(f"{what} must be integers in [0, {count}), got {numbers.dtype}; {remedy}")
    if numbers.is_cuda or torch.compiler.is_compiling() or not numbers.numel():
        return
    low, high = (int(v) for v in torch.aminmax(numbers))
    if low < 0 or high >= count:
        bad = low if low < 0 else high
        raise ValueError(f"{what} must be in [0, {count}), got {bad}; {remedy}")


def check_edge_index(edge_index: Tensor) -> None:
    """Raise unless ``edge_index`` is an integer tensor of shape [2, E]."""
    if not isinstance(edge_index, Tensor):
        raise TypeError(f"edge_index must be a tensor [2, E], got {type(edge_index).__name__}")
    if edge_index.dim() == 2 and edge_index.shape[0] == edge_index.shape[1] > 2:
        raise ValueError(
            f"edge_index must have shape [2, E], got a matrix {list(edge_index.shape)}; of an "
            "adjacency A with A[source, target] pass A.nonzero().t()"
        )
    if edge_index.dtype not in (torch.int64, torch.int32):
        raise TypeError(
            f"edge_index must have dtype int64 or int32, got {edge_index.dtype}; "
            "call edge_index.long()"
        )
    if edge_index.dim() != 2 or edge_index.shape[0] != 2:
        hint = "; call edge_index.t()" if edge_index.shape[-1:] == (2,) else ""
        raise ValueError(f"edge_index must have shape [2, E], got {list(edge_index.shape)}{hint}")


def normal_size(size: Size) -> tuple[int, int] | None:
    """``size`` as (sources, targets), or None; raise ``ValueError`` unless it is one."""
    if size is None:
        return None
    pair: tuple[int, ...] = (size, size) if is_whole(size) else (-1,)  # type: ignore[assignment]
    if isinstance(size, list | tuple):
        pair = tuple(size)
    if len(pair) != 2 or any(not is_whole(n) or n < 0 for n in pair):
        raise ValueError(
            "size must be the number of nodes, (num_sources, num_targets) or None, "
            f"as non-negative integers, got {size!r}"
        )
    first, second = map(as_int, pair)
    return first, second


def infer_size(edge_index: Tensor, size: Size) -> tuple[int, int]:
    """(sources, targets): ``size``, or the largest index plus one for both."""
    pair = normal_size(size)
    if pair is not None:
        return pair
    nodes = int(edge_index.max()) + 1 if edge_index.numel() else 0
    return nodes, nodes


def check_csr(indptr: Tensor, indices: Tensor, edge_perm: Tensor | None) -> None:
    """Raise unless the arrays are offsets, indices and edge ids of one CSR."""
    for name, array in (("indptr", indptr), ("indices", indices)):
        if not isinstance(array, Tensor) or array.dtype not in (torch.int32, torch.int64):
            came = array.dtype if isinstance(array, Tensor) else type(array).__name__
            raise TypeError(f"{name} must be an int64 (or int32) tensor, got {came}")
        if array.dim() != 1:
            raise ValueError(f"{name} must be one-dimensional, got shape {list(array.shape)}")
    if indptr.device != indices.device:
        raise ValueError(
            f"indptr and indices must be on one device, got {indptr.device} and "
            f"{indices.device}; move one with .to()"
        )
    edges = indices.numel()
    if indptr.numel() == 0 or int(indptr[0]) != 0 or int(indptr[-1]) != edges:
        raise ValueError(
            f"indptr must start at 0 and end at the number of indices {edges}, got "
            f"{indptr[:1].tolist()} to {indptr[-1:].tolist()}"
        )
    if bool((indptr.diff() < 0).any()):
        raise ValueError("indptr must not decrease; it holds row offsets, not row numbers")
    if edge_perm is not None:
        _check_edge_perm(edge_perm, indices)


def _check_edge_perm(edge_perm: Tensor, indices: Tensor) -> None:
    edges = indices.numel()
    if not isinstance(edge_perm, Tensor):
        raise TypeError(f"edge_perm must be an int64 tensor [E], got {type(edge_perm).__name__}")
    if edge_perm.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"edge_perm must be an int64 (or int32) tensor, got {edge_perm.dtype}")
    if edge_perm.shape != indices.shape or edge_perm.device != indices.device:
        raise ValueError(
            f"edge_perm must hold one edge id per index [{edges}] on {indices.device}, got "
            f"{list(edge_perm.shape)} on {edge_perm.device}"
        )
    check_index_range(edge_perm, edges, "edge_perm")
    if edges and int(torch.bincount(edge_perm, minlength=edges).max()) != 1:
        raise ValueError("edge_perm must be a permutation of the edge ids, got a repeated id")


def rows_sorted(indptr: Tensor, indices: Tensor) -> bool:
    """Whether the columns ascend within every row."""
    if indices.numel() < 2:
        return True
    falls = indices.diff() < 0
    starts = indptr[1:-1]
    starts = starts[(starts > 0) & (starts < indices.numel())]
    falls[starts - 1] = False
    return not bool(falls.any())
