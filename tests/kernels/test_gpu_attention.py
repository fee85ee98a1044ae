"""Triton kernels against the reference, on a GPU or in Triton's interpreter.

The interpreter must be chosen before triton is imported, so without a GPU these tests skip here
and test_gpu_processes.py runs this file in a process of its own.
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
from graphattn.kernels.reference import attention as reference

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(),
    reason="no GPU and not interpreted: test_gpu_processes.py runs it in its own process",
)
DEVICE = "cpu" if INTERPRETED else "cuda"
ROWS, COLS, EMPTY_ROW, MASKED_ROW = 37, 41, 3, 8
TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-6, torch.float16: 6e-3, torch.bfloat16: 4e-2}
OPTIONAL = ("bias", "gate", "edge_attr", "edge_query")


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
    from graphattn.kernels.gpu import arguments, attention

    if INTERPRETED:
        monkeypatch.setattr(arguments, "warp_size", lambda: 1 << 16)
    return attention


def edge_list() -> tuple[Tensor, Tensor]:
    """Sources and targets: two hub rows, a hub column, duplicates, an empty row and column."""
    generator = torch.Generator().manual_seed(1)
    hub_rows = [torch.full((70,), 5), torch.full((21,), 7)]
    target = torch.cat([torch.randint(0, ROWS, (130,), generator=generator), *hub_rows])
    source = torch.randint(1, COLS, (target.numel(),), generator=generator)
    source[90:130] = 11
    source[:4], target[:4] = source[0].clone(), target[0].clone()
    target[target == EMPTY_ROW] = 4
    target[4] = MASKED_ROW
    return source, target


def graph(source: Tensor, target: Tensor) -> CSRGraph:
    return CSRGraph.from_edge_index(torch.stack([source, target]).to(DEVICE), (COLS, ROWS))


def layouts(chunk: int = 16) -> tuple[Layout, Layout]:
    """Both orientations, with hubs cut so early that both merge levels run."""
    whole = graph(*edge_list())
    return tuple(
        layout._replace(plan=build_tasks(layout.indptr, chunk=chunk, fan_in=4))
        for layout in (whole.rows_layout(), whole.t().rows_layout())
    )


def inputs(
    dtype: torch.dtype, heads: int, dk: int, dv: int, batch: int, options: str
) -> tuple[list[Tensor], dict[str, Any]]:
    high = torch.float64 if dtype == torch.float64 else torch.float32
    edges = edge_list()[0].numel()

    def make(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, dtype=torch.float64).to(DEVICE, dtype).requires_grad_()

    dense = [make(batch, n, heads, d) for n, d in ((ROWS, dk), (COLS, dk), (COLS, dv))]
    given: dict[str, Any] = {"scale": 0.4, "clamp": 0.7 if "clamp" in options else None}
    if "bias" in options:
        bias = make(*((edges,) if "bias1" in options else (edges, heads)), dtype=high)
        bias.data[edge_list()[1] == MASKED_ROW] = -torch.inf
        bias.data[::7] = -torch.inf
        given["bias"] = bias
    if "gate" in options:
        given["gate"] = make(edges, heads, dk)
    if "edge" in options:
        given |= {"edge_attr": make(edges, 6), "edge_query": make(batch, ROWS, heads, 6)}
    if "drop" in options:
        streams = torch.randint(0, 2**32, (batch * heads, 2), device=DEVICE)
        given |= {"dropout_p": 0.3, "streams": streams}
    return dense, given


def detached(given: dict[str, Any]) -> dict[str, Any]:
    return {n: t.detach() if isinstance(t, Tensor) else t for n, t in given.items()}


def assert_close(found: Tensor, expected: Tensor, what: str) -> None:
    """Equal up to rounding of the storage dtype, relative to the largest number."""
    assert found.shape == expected.shape and found.dtype == expected.dtype, what
    assert torch.equal(found.isneginf(), expected.isneginf()), what
    finite = torch.where(expected.isneginf(), 0, expected).double()
    error = (torch.where(found.isneginf(), 0, found).double() - finite).abs().max()
    assert error <= TOLERANCE[found.dtype] * finite.abs().max(), f"{what}: error {error}"


def check(gpu: Any, *case: Any) -> None:
    """Outputs and every gradient against autograd through the reference; "whole": no hub is cut."""
    dense, given = inputs(*case)
    rows, cols = layouts(256 if "whole" in case[-1] else 16)
    gated = "gated" in case[-1]
    expected = reference.attention_forward(*dense, rows, return_gated=gated, **given)
    plain = [t.detach() for t in dense]
    found = gpu.attention_forward(*plain, rows, return_gated=gated, **detached(given))
    for name, a, b in zip(("out", "lse", "edge_out", "gated"), found, expected, strict=True):
        assert (a is None) == (b is None), name
        if a is not None:
            assert_close(a, b.detach(), name)
    pulls = [None if t is None else torch.randn_like(t) for t in expected]
    leaves = [*dense, *(given[name] for name in OPTIONAL if name in given)]
    live = ~expected[1].isneginf()
    total = (expected[1][live] * pulls[1][live]).sum()
    for position in (0, 2, 3):
        if pulls[position] is not None:
            total = total + (expected[position] * pulls[position]).sum()
    needs = tuple(name in given for name in OPTIONAL)
    grads = gpu.attention_backward(
        *pulls, *plain, *found[:3], rows, cols, needs=needs, **detached(given)
    )
    assert [g is not None for g in grads] == [True] * 3 + list(needs)
    names = ["query", "key", "value", *(name for name in OPTIONAL if name in given)]
    kept = [g for g in grads if g is not None]
    for name, a, b in zip(names, kept, torch.autograd.grad(total, leaves), strict=True):
        assert_close(a, b, f"grad_{name}")


CASES = [
    (torch.float64, 2, 4, 4, 1, "bias2 clamp"),
    (torch.float64, 3, 5, 3, 1, "gate gated"),
    (torch.float64, 3, 5, 7, 2, "edge drop bias1"),
    (torch.float64, 3, 256, 130, 1, "edge bias2"),
    (torch.float32, 1, 1, 1, 1, "drop"),
    (torch.bfloat16, 8, 16, 16, 1, "whole"),
    (torch.float16, 2, 4, 8, 1, "edge clamp"),
]
SWEEP = [
    (dtype, heads, dk, dv, batch, options)
    for dtype in (torch.float64, torch.float32, torch.bfloat16)
    for heads, dk, dv in ((8, 16, 16), (3, 24, 12), (1, 64, 64))
    for batch, options in (
        (1, "bias1 clamp drop gate gated"),
        (2, "bias2 gate"),
        (2, "edge bias1 clamp drop"),
    )
]


def label(case: tuple[Any, ...]) -> str:
    return "-".join(str(part).removeprefix("torch.").replace(" ", "+") for part in case)


@pytest.mark.parametrize("case", CASES, ids=label)
def test_outputs_and_gradients(gpu: Any, case: tuple[Any, ...]) -> None:
    check(gpu, *case)


@pytest.mark.slow
@pytest.mark.parametrize("case", SWEEP, ids=label)
def test_outputs_and_gradients_of_every_option(gpu: Any, case: tuple[Any, ...]) -> None:
    check(gpu, *case)


@pytest.mark.skipif(not INTERPRETED, reason="patches the number of slots")
def test_bits_do_not_depend_on_slots(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphattn.kernels.gpu import arguments

    dense, given = inputs(torch.float32, 2, 4, 4, 1, "bias2 drop")
    plain, given = [t.detach() for t in dense], detached(given)
    rows, cols = layouts()
    results = []
    for threads in (1 << 16, 32):
        monkeypatch.setattr(arguments, "warp_size", lambda threads=threads: threads)
        out, lse, *_ = gpu.attention_forward(*plain, rows, **given)
        needs = (True, False, False, False)
        grads = gpu.attention_backward(
            out.sin(), None, None, None, *plain, out, lse, None, rows, cols, needs=needs, **given
        )
        results.append((out, lse, *grads[:4]))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_nan_reaches_the_output_of_its_rows_alone(gpu: Any) -> None:
    source, target = edge_list()
    dense, _ = inputs(torch.float32, 2, 4, 4, 1, "")
    query, key, value = (t.detach() for t in dense)
    key[:, 11] = torch.nan
    out, lse, *_ = gpu.attention_forward(query, key, value, layouts()[0], scale=1.0, clamp=2.0)
    hit = torch.zeros(ROWS, dtype=torch.bool, device=DEVICE)
    hit[target[source == 11].to(DEVICE)] = True
    assert torch.equal(out.isnan().any(3).any(2)[0], hit)
    assert torch.equal(lse.isnan().any(2)[0], hit)


@pytest.mark.parametrize(("num_rows", "num_cols"), [(0, 3), (3, 0), (3, 4)])
def test_no_edges(gpu: Any, num_rows: int, num_cols: int) -> None:
    nothing = torch.empty(2, 0, dtype=torch.int64, device=DEVICE)
    rows, cols = CSRGraph.from_edge_index(nothing, (num_cols, num_rows)).layout("triton")
    query = torch.randn(1, num_rows, 2, 4, device=DEVICE)
    key = torch.randn(1, num_cols, 2, 4, device=DEVICE)
    out, lse, *_ = gpu.attention_forward(query, key, key, rows, scale=1.0)
    assert bool((out == 0).all()) and bool(lse.isneginf().all())
    grads = gpu.attention_backward(
        out, None, None, None, query, key, key, out, lse, None, rows, cols,
        scale=1.0, needs=(False,) * 4,
    )  # fmt: skip
    assert all(bool((g == 0).all()) for g in grads[:3])
