"""top_m: the sub-graph of every row's m best edges."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graphattn.graph import CSRGraph, as_graph
from graphattn.graph.checks import is_whole
from graphattn.kernels.reference import top_m as reference
from graphattn.ops._dispatch import resolve
from graphattn.ops.checks import check_edge_tensor
from graphattn.ops.fused import flatten, kernels, unflatten


def top_m(scores: Tensor, graph: Any, m: int, *, impl: str = "auto") -> tuple[CSRGraph, Tensor]:
    """Keep the ``m`` edges of largest score in every row.

    Args:
        scores: ``[E]`` in the caller's edge order.
        graph: A :class:`CSRGraph` or whatever :func:`as_graph` takes.
        m: Edges to keep per row, at least 1; rows with fewer keep all of them.
        impl: ``"auto"``, ``"reference"``, ``"cpu"`` (Numba) or ``"triton"``; never changes the
            meaning.

    Returns:
        The new graph, and for each of its edges the caller's id of the old edge, ``[E']`` int64:
        ``edge_attr[ids]`` follows, and so do differentiable scores, as ``scores[ids]``. The new
        graph's caller's order is row-major, its ``edge_perm`` is None.

    Ties go to the lower column, then to the lower edge id. NaN is larger than every number, as in
    ``torch.topk``; ``-inf`` is kept only where a row has nothing better.

    Raises:
        ValueError: ``m`` is below 1, or scores does not fit the graph.
        TypeError: ``m`` is not an integer, or scores is not a floating point tensor.
        BackendUnavailable: ``impl`` cannot run here.

    Makes a graph, so it belongs outside compiled code and reads one size back from the device.
    Memory 13 bytes per edge beyond the result.
    """
    graph = as_graph(graph)
    check_edge_tensor("scores", scores, graph, (graph.num_edges,))
    check_m(m)
    bits = top_m_bits(scores[None, :, None], graph, m, resolve(impl, scores.device))
    keep = bits[0, :, 0].bool()
    ids = graph.edge_perm
    at_position = keep if ids is None else keep[ids]
    kept = at_position.nonzero().squeeze(1)
    before = torch.zeros(graph.num_edges + 1, dtype=torch.int64, device=graph.device)
    torch.cumsum(at_position, 0, out=before[1:])
    smaller = CSRGraph._trusted(before[graph.indptr], graph.indices[kept], graph.num_cols, None)
    return smaller, kept if ids is None else ids[kept].to(torch.int64)


def check_m(m: int) -> None:
    """Check that ``m`` is an integer of at least 1."""
    if not is_whole(m):
        raise TypeError(f"m must be an integer, got {type(m).__name__}; call int(m)")
    if m < 1:
        raise ValueError(f"m must be at least 1, got {m}; every row keeps its m best edges")


def top_m_bits(scores: Tensor, graph: CSRGraph, m: int, impl: str) -> Tensor:
    """Which edges are among the m largest of their row, per head; traceable, never syncs.

    scores ``[B, E, H]`` in the caller's order -> int32 ``[B, E, ceil(H / 32)]`` in the caller's
    order: bit ``h % 32`` of word ``h // 32``. Not differentiable.
    """
    scores = scores.detach()
    if impl == "reference":
        return reference.top_m_bits(scores, graph.rows_layout(impl), m)
    bits: Tensor = top_m_op(scores, flatten(graph.rows_layout(impl)), m, impl)
    return bits


@torch.library.custom_op("graphattn::top_m_bits", mutates_args=())
def top_m_op(scores: Tensor, rows: Sequence[Tensor], m: int, impl: str) -> Tensor:
    bits: Tensor = kernels(impl, "top_m").top_m_bits(scores.contiguous(), unflatten(rows), m)
    return bits


@top_m_op.register_fake
def _(scores: Tensor, rows: Sequence[Tensor], m: int, impl: str) -> Tensor:
    batch, edges, heads = scores.shape
    return scores.new_empty((batch, edges, -(-heads // 32)), dtype=torch.int32)
