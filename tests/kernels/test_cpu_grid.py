"""The CPU kernel that takes a grid's queries in pairs: against float64, its CSR, and itself."""

from typing import Any

import pytest
import torch
from torch import Tensor

import graphattn as ga
from graphattn.kernels.cpu import attention
from graphattn.kernels.cpu.launch import prepare
from graphattn.kernels.score import Score

GRIDS = [
    # Odd extents leave a query without a partner; 5 x 13 keys are more than a pair's slots.
    ga.GridGraph((6, 21), (5, 13)),
    ga.GridGraph((5, 9), (3, 2), stride=(1, 2), dilation=(1, 3), is_causal=(False, True)),
    ga.GridGraph((4, 8), (3, 4), dilation=(1, 2), border="wrap"),
    ga.GridGraph((2, 3, 7), (2, 3, 9), border="truncate"),
    ga.GridGraph(75, 31),
]


@pytest.fixture(autouse=True)
def of_any_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small windows, which the other kernel is faster for, are quicker to check."""
    monkeypatch.setattr(attention, "LEAST_KEYS", 0)


def nodes(graph: Any, dtype: torch.dtype = torch.float32, width: int = 16) -> list[Tensor]:
    return [torch.randn(2, graph.num_rows, 2, width, dtype=dtype) for _ in range(3)]


def taken(graph: Any, tensors: list[Tensor]) -> bool:
    """Whether the kernel for pairs answers the call."""
    call = prepare(*tensors, attention.FORWARD_BLOCK, Score(), False)
    return attention.takes_pairs(call, graph.rows_layout())


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("graph", GRIDS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_equals_the_reference_in_float64(graph: Any, dtype: torch.dtype) -> None:
    tensors = nodes(graph, dtype)
    assert taken(graph, tensors)
    found = ga.attention(*tensors, graph, return_lse=True)
    exact = [t.double() for t in tensors]
    wanted = ga.attention(*exact, graph.to_csr(), return_lse=True, impl="reference")
    written = ga.attention(*tensors, graph.to_csr(), return_lse=True)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    for ours, expected, by_csr in zip(found, wanted, written, strict=True):
        torch.testing.assert_close(ours.double(), expected, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(ours, by_csr, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("graph", GRIDS[:3], ids=repr)
def test_a_key_reaches_its_own_queries_alone(graph: Any) -> None:
    """A pair reads keys of both queries, and 0 * inf is NaN."""
    query, key, value = nodes(graph)
    key[:, 7], value[:, 7] = torch.nan, torch.inf
    out, lse = ga.attention(query, key, value, graph, return_lse=True)
    csr = graph.to_csr()
    readers = torch.zeros(graph.num_rows, dtype=torch.bool)
    readers[csr.row_index()[csr.indices == 7]] = True
    assert torch.equal(lse.isnan().all(2).all(0), readers) and readers.sum() > 0
    assert torch.equal(out.isfinite().all(3).all(2).all(0), ~readers)


def test_same_bits_for_any_division_of_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = GRIDS[0]
    tensors = nodes(graph)
    first = ga.attention(*tensors, graph, return_lse=True)
    monkeypatch.setattr("graphattn.kernels.cpu.threads.INLINE_WORK", 0)
    for threads in (2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        again = ga.attention(*tensors, graph, return_lse=True)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_what_it_leaves_to_the_kernel_for_edge_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not taken(GRIDS[0], nodes(GRIDS[0], width=4))  # no half vector
    assert not taken(ga.GridGraph(80, 33), nodes(ga.GridGraph(80, 33)))  # more keys than slots
    column = ga.GridGraph((9, 1), (3, 1))
    assert not taken(column, nodes(column))  # no partners
    assert not taken(GRIDS[0].to_csr(), nodes(GRIDS[0]))
    monkeypatch.setattr(attention, "LEAST_KEYS", 13)
    assert taken(GRIDS[0], nodes(GRIDS[0])) and not taken(GRIDS[2], nodes(GRIDS[2]))
