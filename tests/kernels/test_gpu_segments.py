"""Triton aggregation, edge softmax and top-m against the reference, on a GPU or interpreted.

Without a GPU these tests skip here, and test_gpu_segment_builds.py runs this file in a process of
its own in which triton is interpreted.
"""

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from graphattn.graph import CSRGraph
from graphattn.graph.tasks import build_tasks
from graphattn.kernels.layout import Layout
from graphattn.kernels.reference import aggregate as reference
from graphattn.kernels.reference import edge_softmax as softmax
from graphattn.kernels.reference import top_m

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(),
    reason="no GPU and not interpreted: test_gpu_segment_builds.py runs it in its own process",
)
DEVICE = "cpu" if INTERPRETED else "cuda"
ROWS, COLS, EMPTY_ROW, HUB = 37, 41, 3, 5
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.float16: 6e-3, torch.bfloat16: 4e-2}
ALL = reference.REDUCTIONS


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    """Uninitialised memory reads NaN, so that a result never written cannot pass."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The launchers; interpreted with as many slots per program as there are, to save time."""
    from graphattn.kernels.gpu import aggregate

    if INTERPRETED:
        monkeypatch.setattr(aggregate, "warp_size", lambda: 1 << 16)
    return aggregate


def graph() -> CSRGraph:
    """Two hub rows, a hub column, duplicates, an empty row and column, in random edge order."""
    generator = torch.Generator().manual_seed(1)
    hub_rows = [torch.full((70,), HUB), torch.full((21,), 7)]
    target = torch.cat([torch.randint(0, ROWS, (130,), generator=generator), *hub_rows])
    source = torch.randint(1, COLS, (target.numel(),), generator=generator)
    source[90:130] = 11
    source[:4], target[:4] = source[0].clone(), target[0].clone()
    target[target == EMPTY_ROW] = 4
    return CSRGraph.from_edge_index(torch.stack([source, target]).to(DEVICE), (COLS, ROWS))


def layouts(chunk: int = 16) -> tuple[Layout, Layout]:
    """Both orientations, with hubs cut so early that both merge levels run."""
    whole = graph()
    return tuple(
        layout._replace(plan=build_tasks(layout.indptr, chunk=chunk, fan_in=4))
        for layout in (whole.rows_layout(), whole.t().rows_layout())
    )


def make(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).to(DEVICE, dtype)


def assert_close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert found.shape == expected.shape and found.dtype == expected.dtype
    error = (found.double() - expected.double()).abs().max()
    assert error <= TOLERANCE[dtype] * expected.double().abs().max().clamp(min=1.0), error


def check_aggregate(
    gpu: Any,
    dtype: torch.dtype,
    heads: int,
    width: int,
    batch: int,
    weights: int,
    names: tuple[str, ...],
    chunk: int = 16,
) -> None:
    """Results, statistics and gradients; ``weights``: batch entries of the weight, 0 for none."""
    rows, cols = layouts(chunk)
    high = torch.float64 if dtype == torch.float64 else torch.float32
    x = make(batch, COLS, heads, width, dtype=dtype)
    weight = make(weights, rows.indices.numel(), heads, dtype=high) if weights else None
    out, stats = gpu.aggregate_forward(x, weight, rows, reduce=names)
    wanted = reference.aggregate_forward(x, weight, rows, reduce=names)
    for found, want in zip((out, stats), wanted, strict=True):
        if want.numel():
            assert_close(found, want, dtype)
    pull = make(*out.shape, dtype=dtype)
    pulls = reference.message_pulls(pull, wanted[1], rows.indptr, reduce=names)
    call = {"reduce": names, "dtype": dtype, "needs": (True, weights > 0)}
    given = x if weights or stats.shape[0] else None
    grads = gpu.aggregate_backward(pulls, given, weight, cols, **call)
    expected = reference.aggregate_backward(pulls, given, weight, cols, **call)
    for found, want in zip(grads, expected, strict=True):
        assert (found is None) == (want is None)
        if want is not None:
            assert_close(found, want, dtype)


CASES = [
    (torch.float64, 2, 4, 1, 1, ALL),
    (torch.float64, 3, 5, 2, 1, ("sum", "max")),
    (torch.float64, 1, 700, 1, 1, ("mean", "min", "var")),
    (torch.float64, 2, 3, 2, 2, ("mean",)),
    (torch.float32, 1, 1, 1, 0, ("sum",)),
    (torch.float32, 5, 3, 1, 1, ("std",), 256),
    (torch.bfloat16, 8, 16, 1, 0, ("sum",)),
    (torch.float16, 2, 4, 1, 1, ("mean",)),
]
# Interpreted, the dtype decides conversions alone; on a device also slots, loads and registers.
SWEEP = [
    (dtype, heads, width, batch, weights, names, chunk)
    for dtype in (torch.float64, torch.float32, torch.bfloat16)
    for heads, width in ((8, 16), (3, 24), (1, 130), (20, 40))
    for batch, weights in ((1, 0), (2, 1), (2, 2))
    for names, chunk in ((ALL, 16), (("mean",), 256), (("min", "var"), 16))
    # Ties and spreads of rounded numbers differ by more than rounding.
    if dtype != torch.bfloat16 or names == ("mean",)
    if not INTERPRETED or dtype == torch.float64 or heads in (3, 8)
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_aggregate(gpu: Any, case: tuple[Any, ...]) -> None:
    check_aggregate(gpu, *case)


@pytest.mark.slow
@pytest.mark.parametrize("case", SWEEP, ids=str)
def test_aggregate_sweep(gpu: Any, case: tuple[Any, ...]) -> None:
    check_aggregate(gpu, *case)


@pytest.mark.skipif(not INTERPRETED, reason="patches the number of slots")
def test_bits_do_not_depend_on_slots(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, cols = layouts()
    x = make(1, COLS, 2, 4, dtype=torch.float32)
    weight = make(1, rows.indices.numel(), 2, dtype=torch.float32)
    results = []
    for threads in (1 << 16, 32):
        monkeypatch.setattr(gpu, "warp_size", lambda threads=threads: threads)
        out, stats = gpu.aggregate_forward(x, weight, rows, reduce=ALL)
        pulls = reference.message_pulls(out.sin(), stats, rows.indptr, reduce=ALL)
        grads = gpu.aggregate_backward(
            pulls, x, weight, cols, reduce=ALL, dtype=x.dtype, needs=(True, True)
        )
        results.append((out, stats, *grads))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_nan_reaches_its_rows_and_ties_of_hubs_are_counted(gpu: Any) -> None:
    source, target = graph().edge_index()
    x = torch.ones(1, COLS, 1, 2, device=DEVICE)
    x[0, 9, 0, 1] = torch.nan
    rows, _ = layouts()
    out, stats = gpu.aggregate_forward(x, None, rows, reduce=ALL)
    hit = torch.zeros(ROWS, dtype=torch.bool, device=DEVICE)
    hit[target[source == 9]] = True
    assert all(torch.equal(plane, hit) for plane in out[:, 0, :, 0, 1].isnan())
    assert not out[..., 0].isnan().any() and not out[:, 0, EMPTY_ROW].any()
    assert torch.equal(stats[3, 0, :, 0, 0], rows.indptr.diff().float())


def check_softmax(dtype: torch.dtype, batch: int, heads: int, chunk: int) -> None:
    from graphattn.kernels.gpu import edge_softmax

    rows, _ = layouts(chunk)
    scores = make(batch, rows.indices.numel(), heads, dtype=dtype)
    target = graph().edge_index()[1]
    scores[:, target == 8] = -torch.inf
    scores[:, ::7] = -torch.inf
    scores[0, (target == HUB).nonzero()[3], 0] = torch.nan
    found = edge_softmax.edge_softmax_forward(scores, rows)
    want = softmax.edge_softmax_forward(scores, rows)
    assert torch.equal(found.isnan(), want.isnan())
    weights = want.nan_to_num()
    assert_close(found.nan_to_num(), weights, dtype)
    pull = make(*scores.shape, dtype=dtype)
    grad = edge_softmax.edge_softmax_backward(pull, weights, rows)
    assert_close(grad, softmax.edge_softmax_backward(pull, weights, rows), dtype)


def check_top_m(dtype: torch.dtype, batch: int, heads: int, m: int) -> None:
    from graphattn.kernels.gpu.top_m import top_m_bits

    # The interpreter takes subnormal bfloat16 numbers for 0.
    least = 1e-30 if dtype == torch.bfloat16 else 1e-40
    special = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0, -0.0, -3.0, least, -least])
    rows, _ = layouts()
    shape = batch, rows.indices.numel(), heads
    scores = make(*shape, dtype=dtype)
    some = torch.rand(shape, device=DEVICE) < 0.5
    scores[some] = special[torch.randint(0, 8, shape)].to(DEVICE, dtype)[some]
    assert torch.equal(top_m_bits(scores, rows, m), top_m.top_m_bits(scores, rows, m))


@pytest.mark.parametrize("case", [(torch.float64, 2, 3, 16), (torch.float32, 1, 18, 256)], ids=str)
def test_softmax(case: tuple[Any, ...]) -> None:
    check_softmax(*case)


@pytest.mark.parametrize("case", [(torch.float64, 1, 1, 1), (torch.float32, 2, 3, 4)], ids=str)
def test_top_m(case: tuple[Any, ...]) -> None:
    check_top_m(*case)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("batch", "heads", "last"), [(1, 1, 1), (2, 3, 4), (1, 40, 20), (1, 2, 99)]
)
def test_softmax_and_top_m_sweep(dtype: torch.dtype, batch: int, heads: int, last: int) -> None:
    check_softmax(dtype, batch, heads, 16 if last < 20 else 256)
    check_top_m(dtype, batch, heads, last)


@pytest.mark.parametrize(("num_rows", "num_cols"), [(0, 3), (3, 0), (3, 4)])
def test_no_edges(gpu: Any, num_rows: int, num_cols: int) -> None:
    from graphattn.kernels.gpu.edge_softmax import edge_softmax_forward
    from graphattn.kernels.gpu.top_m import top_m_bits

    nothing = torch.empty(2, 0, dtype=torch.int64, device=DEVICE)
    rows, cols = CSRGraph.from_edge_index(nothing, (num_cols, num_rows)).layout("triton")
    x, weight = torch.randn(1, num_cols, 2, 4, device=DEVICE), torch.empty(1, 0, 2, device=DEVICE)
    out, stats = gpu.aggregate_forward(x, weight, rows, reduce=ALL)
    assert out.shape[2] == num_rows and not out.any()
    pulls = reference.message_pulls(out, stats, rows.indptr, reduce=ALL)
    grads = gpu.aggregate_backward(
        pulls, x, weight, cols, reduce=ALL, dtype=x.dtype, needs=(True, True)
    )
    assert grads[0].shape == x.shape and not grads[0].any() and grads[1].shape == weight.shape
    assert edge_softmax_forward(weight, rows).shape == weight.shape
    assert top_m_bits(weight, rows, 1).shape == (1, 0, 1)


def test_public_functions_reach_the_kernels() -> None:
    from graphattn.ops.aggregate import aggregate
    from graphattn.ops.edge_softmax import edge_softmax
    from graphattn.ops.top_m import top_m as best

    whole, results = graph(), []
    x = make(COLS, 2, 3, dtype=torch.float64).requires_grad_()
    scores = make(whole.num_edges, 2, dtype=torch.float64).requires_grad_()
    for impl in ("reference", "triton"):
        weight = edge_softmax(scores, whole, impl=impl)
        outs = aggregate(x, whole, weight, ["sum", "max", "std"], impl=impl)
        loss = sum(out.sin().sum() for out in outs)
        ids = best(scores[:, 0], whole, 3, impl=impl)[1]
        results.append([*outs, ids.double(), *torch.autograd.grad(loss, [x, scores])])
    for found, want in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-11)
