"""Tile kernels for grids against the reference, on a GPU or in Triton's interpreter.

As in test_gpu_attention.py these tests skip without a GPU; test_gpu_grid_builds.py interprets them
in a process of its own.
"""

import os
from typing import Any

import pytest
import torch
from torch import Tensor

import graphattn as ga
from graphattn import GridGraph
from graphattn.graph import ProductGraph

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(),
    reason="no GPU and not interpreted: test_gpu_grid_builds.py runs it in its own process",
)
DEVICE = "cpu" if INTERPRETED else "cuda"
FEW: list[tuple[ProductGraph, int, int, int]] = [
    (GridGraph((5, 9), (2, 3), dilation=(2, 1), is_causal=(True, False)), 1, 5, 3),
    (GridGraph((2, 3, 9), (2, 2, 3), stride=(1, 2, 2)), 1, 4, 4),
]
MANY: list[tuple[ProductGraph, int, int, int]] = [
    (GridGraph((11, 22), 7), 2, 16, 16),
    (GridGraph((24, 24), 9), 1, 8, 8),
    (GridGraph((5, 30), (5, 13)), 1, 4, 4),
    (GridGraph((4, 40), (4, 17)), 1, 4, 4),
    (GridGraph((3, 60), (3, 40)), 1, 4, 4),
    (GridGraph(150, 13, stride=4, dilation=2), 2, 4, 4),
    (GridGraph((7, 8), 12, border="truncate"), 1, 4, 20),
    (GridGraph((3, 5, 6), (2, 3, 3), is_causal=(True, False, True)), 1, 4, 4),
    (ga.halo((9, 9), 4, 1), 1, 4, 4),
    (ga.grid_blocks((9, 14), (4, 5), 2), 1, 4, 4),
    (ga.complete(70, 9), 1, 4, 4),
]


def leaves_of(graph: ProductGraph, batch: int, dk: int, dv: int, heads: int = 2) -> list[Tensor]:
    shapes = (graph.num_rows, dk), (graph.num_cols, dk), (graph.num_cols, dv)
    return [torch.randn(batch, n, heads, d, device=DEVICE).requires_grad_() for n, d in shapes]


def results(graph: Any, leaves: list[Tensor], impl: str) -> list[Tensor]:
    """Output, LSE and gradients; a fourth leaf is a table of relative positions."""
    bias = ga.TableBias(leaves[3]) if len(leaves) > 3 else None
    out, lse = ga.attention(*leaves[:3], graph, bias=bias, return_lse=True, impl=impl)
    return [out, lse, *torch.autograd.grad((out.sin() * lse[..., None]).sum(), leaves)]


def check(graph: ProductGraph, batch: int, dk: int, dv: int, biased: bool, heads: int = 2) -> None:
    """Output, LSE and gradients equal the reference in float64; no edge is written down."""
    leaves = leaves_of(graph, batch, dk, dv, heads)
    if biased:
        leaves.append(torch.randn(heads, graph.num_relative, device=DEVICE).requires_grad_())
    found = results(graph, leaves, "triton")
    assert graph.to(DEVICE)._csr is None
    wide = [t.detach().double().requires_grad_() for t in leaves]
    for a, b in zip(found, results(graph, wide, "reference"), strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=2e-5, atol=2e-5)


@pytest.fixture(autouse=True)
def unwritten() -> None:
    """Graphs of this file forget what other tests made them write down."""
    for graph, *_ in (*FEW, *MANY):
        graph._csr = None


@pytest.mark.parametrize("case", FEW, ids=str)
def test_outputs_and_gradients(case: tuple[ProductGraph, int, int, int]) -> None:
    check(*case, biased=False)


@pytest.mark.slow
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("case", [*FEW, *MANY], ids=str)
def test_outputs_and_gradients_of_many_grids(
    case: tuple[ProductGraph, int, int, int], biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interpreted, one head of the large grids, and one step of a program for a table's gradient.

    It has a program for every head and relative position, which took most of the time.
    """
    from graphattn.kernels.gpu import grid

    large = INTERPRETED and case in MANY
    if large:
        monkeypatch.setattr(grid, "TABLE_BLOCK", 1024)
    check(*case, biased, heads=1 if large else 2)


@pytest.mark.slow
def test_shares_of_a_table_are_summed_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphattn.kernels.gpu import grid

    graph = GridGraph((5, 6), 3)
    leaves = [*leaves_of(graph, 2, 4, 4), torch.randn(2, 25, device=DEVICE).requires_grad_()]
    whole = results(graph, leaves, "triton")
    monkeypatch.setattr(grid, "SMALLEST_SHARE", 7)
    for one, many in zip(whole, results(graph, leaves, "triton"), strict=True):
        torch.testing.assert_close(one, many, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("word", ["clamp", "wrap", "float64"])
def test_other_calls_go_over_the_edges(word: str) -> None:
    graph = GridGraph((3, 4), 3, border="wrap" if word == "wrap" else "clamp")
    leaves = leaves_of(graph, 1, 4, 4)
    bias = ga.TableBias(torch.randn(2, 25, device=DEVICE))
    clamp = 1.0 if word == "clamp" else None
    if word == "float64":
        leaves = [t.detach().double().requires_grad_() for t in leaves]
    found = ga.attention(*leaves, graph, bias=bias, clamp=clamp, impl="triton")
    assert graph.to(DEVICE)._csr is not None
    wanted = ga.attention(*leaves, graph, bias=bias, clamp=clamp, impl="reference")
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_nan_reaches_no_further_than_the_tiles_that_read_it() -> None:
    """Its readers have it, and of others those whose tile meets it: products have no mask."""
    graph = GridGraph((8, 60), 3)
    query, key, value = (t.detach() for t in leaves_of(graph, 1, 4, 4))
    value[:, 2] = torch.nan
    out = ga.attention(query, key, value, graph, impl="triton").isnan().any(-1).any(-1)
    found = out.view(8, 60)
    assert bool(found[:2, 1:4].all()) and not bool(found[:, 24:].any())
