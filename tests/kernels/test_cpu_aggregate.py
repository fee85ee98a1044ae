"""CPU aggregation, edge softmax and top-m kernels: every width, threads, memory, accuracy."""

import pytest
import torch
from torch import Tensor

from graphattn.graph.csr import CSRGraph
from graphattn.kernels.cpu import aggregate, edge_softmax, top_m
from graphattn.kernels.cpu.reduction import cut_row, make_reduction, row_pieces
from graphattn.kernels.layout import Layout
from graphattn.kernels.reference import aggregate as reference

ROWS, COLUMNS, EDGES = 37, 29, 401
ALL = reference.REDUCTIONS
WIDTHS = [(1, 13), (1, 75), (8, 4), (5, 24), (3, 70)]
MORE_WIDTHS = [(1, n) for n in (1, 2, 3, 5, 8, 16, 24, 33, 64, 130)]
MORE_WIDTHS += [*WIDTHS, (3, 1), (2, 5), (3, 8), (6, 16), (2, 96)]


def skewed_graph(rows: int = ROWS, columns: int = COLUMNS, edges: int = EDGES) -> CSRGraph:
    """Bipartite, unsorted, with a hub row, empty rows and columns, and duplicate edges."""
    source, target = torch.randint(0, columns, (edges,)), torch.randint(0, rows, (edges,))
    target[: edges // 4], source[edges // 2 : edges // 2 + 9] = 3, 2
    target[target == 7], source[source == 4] = 8, 5
    source[5:9], target[5:9] = 6, 9
    return CSRGraph.from_edge_index(torch.stack([source, target]), (columns, rows))


def both(
    x: Tensor, weight: Tensor | None, layouts: tuple[Layout, Layout], names: tuple[str, ...]
) -> tuple[list[Tensor], list[Tensor]]:
    """Results, statistics and gradients of the kernels, and of the reference."""
    rows, cols = layouts
    found, want = [], []
    for module, results in ((aggregate, found), (reference, want)):
        out, stats = module.aggregate_forward(x, weight, rows, reduce=names)
        results += [out, stats]
    pull = torch.cos(torch.arange(want[0].numel(), dtype=x.dtype)).view_as(want[0])
    pulls = reference.message_pulls(pull, want[1], rows.indptr, reduce=names)
    for module, results in ((aggregate, found), (reference, want)):
        grads = module.aggregate_backward(
            pulls, x, weight, cols, reduce=names, dtype=x.dtype, needs=(True, True)
        )
        results += [g for g in grads if g is not None]
    return found, want


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("size", WIDTHS, ids=str)
def test_every_width(size: tuple[int, int]) -> None:
    heads, width = size
    graph, weight = skewed_graph(), torch.randn(1, EDGES, heads, dtype=torch.float64)
    layouts, x = graph.layout("cpu"), torch.randn(2, COLUMNS, heads, width, dtype=torch.float64)
    for found, want in zip(*both(x, weight, layouts, ("sum",)), strict=True):
        torch.testing.assert_close(found, want, rtol=1e-11, atol=1e-11)


@pytest.mark.slow
@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", MORE_WIDTHS, ids=str)
@pytest.mark.parametrize("names", [("mean",), ("min", "max"), ("var",), ALL], ids=str)
def test_every_width_and_reduction(
    size: tuple[int, int], names: tuple[str, ...], dtype: torch.dtype
) -> None:
    heads, width = size
    x = torch.randn(2, COLUMNS, heads, width, dtype=dtype)
    graph, close = skewed_graph(), 1e-10 if dtype == torch.float64 else 2e-4
    # A single weight of one number per edge needs no heads: the public function folds them.
    weights = [torch.randn(n, EDGES, heads, dtype=dtype) for n in (1, 2)]
    for weight in [*weights, *([None] if heads == 1 else [])]:
        for found, want in zip(*both(x, weight, graph.layout("cpu"), names), strict=True):
            torch.testing.assert_close(found, want, rtol=close, atol=close)


@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.bfloat16, (1, 75)), (torch.float16, (3, 3))], ids=str
)
def test_half_precision_rows_are_read_as_they_are(
    dtype: torch.dtype, size: tuple[int, int]
) -> None:
    """The same bits as float32 copies would give, forward and backward."""
    rows, cols = skewed_graph().layout("cpu")
    heads, width = size
    x, weight = torch.randn(2, COLUMNS, heads, width).to(dtype), torch.randn(1, EDGES, heads)
    pulls = torch.randn(2, ROWS, 1, heads, width).to(dtype)
    call = {"reduce": ("sum",), "dtype": torch.float32, "needs": (True, True)}
    out, stats = aggregate.aggregate_forward(x, weight, rows, reduce=("sum", "max"))
    whole, level = aggregate.aggregate_forward(x.float(), weight, rows, reduce=("sum", "max"))
    assert torch.equal(out, whole.to(dtype)) and torch.equal(stats, level)
    found = aggregate.aggregate_backward(pulls, x, weight, cols, **call)
    want = aggregate.aggregate_backward(pulls.float(), x.float(), weight, cols, **call)
    assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))


def test_only_the_gradients_asked_for() -> None:
    rows, cols = skewed_graph().layout("cpu")
    x, weight = torch.randn(1, COLUMNS, 2, 40), torch.randn(1, EDGES, 2)
    _, stats = aggregate.aggregate_forward(x, weight, rows, reduce=("sum", "max"))
    pulls = reference.message_pulls(
        torch.randn(2, 1, ROWS, 2, 40), stats, rows.indptr, reduce=("sum", "max")
    )
    whole = [
        aggregate.aggregate_backward(
            pulls, x, weight, cols, reduce=("sum", "max"), dtype=x.dtype, needs=needs
        )
        for needs in ((True, True), (True, False), (False, True))
    ]
    assert torch.equal(whole[0][0], whole[1][0]) and torch.equal(whole[0][1], whole[2][1])
    assert whole[1][1] is None and whole[2][0] is None


def test_pieces_cover_a_row_once() -> None:
    for double in (False, True):
        for heads, width in [*MORE_WIDTHS, (1, 1433), (16, 3), (7, 65)]:
            shape, cut = make_reduction(double, heads, width, ("sum",), True, 32, 64, "")
            for row in (shape.full, shape.tail):
                fresh = [
                    n
                    for piece in row_pieces(row)
                    for n in range(piece.start, piece.start + piece.lanes)[-piece.fresh :]
                ]
                assert sorted(fresh) == list(range(row.heads * row.width))
            sizes = [row.heads * row.width for row in (shape.full, shape.tail)]
            assert cut.outer * (cut.slices * sizes[0] + sizes[1]) == heads * width


def test_widths_that_end_alike_share_machine_code() -> None:
    shapes = {make_reduction(False, 1, n, ("sum",), False, 32, 0, "")[0] for n in (128, 192, 256)}
    assert len(shapes) == 1 and cut_row(1, 256, 64)[1] == (1, 4)


def plain_call(graph: CSRGraph, x: Tensor, weight: Tensor) -> list[Tensor]:
    rows, cols = graph.layout("cpu")
    out, stats = aggregate.aggregate_forward(x, weight, rows, reduce=ALL)
    pulls = reference.message_pulls(out.cos(), stats, rows.indptr, reduce=ALL)
    grads = aggregate.aggregate_backward(
        pulls, x, weight, cols, reduce=ALL, dtype=x.dtype, needs=(True, True)
    )
    soft = edge_softmax.edge_softmax_forward(weight, rows)
    pull = edge_softmax.edge_softmax_backward(weight.cos(), soft, rows)
    return [out, stats, *grads, soft, pull, top_m.top_m_bits(weight, rows, 3)]


def test_threads_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphattn.kernels.cpu.threads.INLINE_WORK", 0)
    graph = skewed_graph(700, 500, 9001)
    x, weight = torch.randn(2, 500, 2, 9), torch.randn(1, 9001, 2)
    found = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(plain_call(graph, x, weight))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_int64_and_int32_arrays_give_the_same_bits() -> None:
    graph, x, weight = skewed_graph(), torch.randn(1, COLUMNS, 2, 9), torch.randn(1, EDGES, 2)
    assert graph.edge_perm is not None
    other = CSRGraph(graph.indptr, graph.indices.long(), graph.num_cols, graph.edge_perm.int())
    for a, b in zip(plain_call(graph, x, weight), plain_call(other, x, weight), strict=True):
        assert torch.equal(a, b)


def test_edge_order_is_the_callers() -> None:
    """The same graph in row-major order: the edge tensors move, the results do not."""
    graph, x, weight = skewed_graph(), torch.randn(1, COLUMNS, 2, 9), torch.randn(1, EDGES, 2)
    plain = CSRGraph(graph.indptr, graph.indices, graph.num_cols)
    moved = plain_call(plain, x, weight[:, graph.edge_perm])
    for number, (a, b) in enumerate(zip(plain_call(graph, x, weight), moved, strict=True)):
        assert torch.equal(a if number < 3 else a[:, graph.edge_perm], b)


def test_long_rows_sum_accurately() -> None:
    """Blocks of 64: far below the error of adding 10^5 numbers one by one."""
    count = 100_000
    star = CSRGraph.from_edge_index(torch.stack([torch.arange(count), torch.zeros(count).long()]))
    x = torch.rand(1, count, 1, 1)
    rows, _ = star.layout("cpu")
    out, _ = aggregate.aggregate_forward(x, None, rows, reduce=("sum", "var"))
    wide = x.double().flatten()
    assert abs(float(out[0, 0, 0]) - float(wide.sum())) < 2e-6 * count
    torch.testing.assert_close(
        float(out[1, 0, 0]), float(wide.var(correction=0)), rtol=3e-6, atol=0
    )


def test_values_near_the_largest_number_do_not_overflow_on_the_way() -> None:
    star = CSRGraph.from_edge_index(torch.stack([torch.arange(2), torch.zeros(2).long()]), 2)
    rows, _ = star.layout("cpu")
    x = torch.full((1, 2, 1, 3), 3e38)
    out, stats = aggregate.aggregate_forward(x, None, rows, reduce=("min", "max", "var", "std"))
    assert out[:, 0, 0].flatten().tolist() == [float(x[0, 0, 0, 0])] * 6 + [0.0] * 6
    assert bool((stats[3, 0, 0] == 2).all())


def test_peak_memory_has_no_term_in_edges() -> None:
    sizes = []
    for edges in (2000, 20000):
        graph = skewed_graph(300, 200, edges)
        layouts, x = graph.layout("cpu"), torch.randn(1, 200, 1, 32)
        with torch.profiler.profile(profile_memory=True) as profile:
            out, stats = aggregate.aggregate_forward(x, None, layouts[0], reduce=ALL)
            pulls = reference.message_pulls(out, stats, layouts[0].indptr, reduce=ALL)
            aggregate.aggregate_backward(
                pulls, x, None, layouts[1], reduce=ALL, dtype=x.dtype, needs=(True, False)
            )
        used = [e.self_cpu_memory_usage for e in profile.key_averages()]
        sizes.append(sum(n for n in used if n > 0))
    assert sizes[0] == sizes[1]
