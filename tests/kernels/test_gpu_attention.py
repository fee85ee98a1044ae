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
from graphattn.kernels.reference.attention import attention_forward as reference
from graphattn.kernels.score import Results, Score

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(),
    reason="no GPU and not interpreted: test_gpu_processes.py runs it in its own process",
)
DEVICE = "cpu" if INTERPRETED else "cuda"
ROWS, COLS, TYPES, EMPTY_ROW, MASKED_ROW = 37, 41, 5, 3, 8
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
    hub_rows = [torch.full((36,), 5), torch.full((11,), 7)]
    target = torch.cat([torch.randint(0, ROWS, (80,), generator=generator), *hub_rows])
    source = torch.randint(1, COLS, (target.numel(),), generator=generator)
    source[44:80] = 11
    source[:4], target[:4] = source[0].clone(), target[0].clone()
    target[target == EMPTY_ROW] = 4
    target[4] = MASKED_ROW
    return source, target


EDGES = edge_list()[0].numel()


def graph(source: Tensor, target: Tensor) -> CSRGraph:
    return CSRGraph.from_edge_index(torch.stack([source, target]).to(DEVICE), (COLS, ROWS))


def layouts(chunk: int = 8) -> tuple[Layout, Layout]:
    """Both orientations, with hubs cut so early that both merge levels run."""
    whole = graph(*edge_list())
    return tuple(
        layout._replace(plan=build_tasks(layout.indptr, chunk=chunk, fan_in=4))
        for layout in (whole.rows_layout(), whole.t().rows_layout())
    )


def inputs(
    dtype: torch.dtype, heads: int, dk: int, dv: int, batch: int, options: str
) -> tuple[list[Tensor | None], Score]:
    """Leaves [query, key, value] and a score, from words in ``options``; no value if dv is 0."""
    high = torch.float64 if dtype == torch.float64 else torch.float32

    def make(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, dtype=torch.float64).to(DEVICE, dtype).requires_grad_()

    dense = [make(batch, n, heads, d) for n, d in ((ROWS, dk), (COLS, dk), (COLS, dv))]
    given: dict[str, Any] = {"scale": 0.4, "clamp": 0.7 if "clamp" in options else None}
    if "table" in options:
        given["bias"] = make(heads, TYPES, dtype=high)
        given["bias"].data[:, 1] = -torch.inf
        given["bias_index"] = torch.randint(0, TYPES, (EDGES,), device=DEVICE)
    elif "bias" in options:
        bias = make(*((EDGES,) if "bias1" in options else (EDGES, heads)), dtype=high)
        bias.data[edge_list()[1] == MASKED_ROW] = -torch.inf
        bias.data[::7] = -torch.inf
        given["bias"] = bias
    if "gate" in options:
        given["gate"] = make(EDGES, heads, dk)
    if "edge" in options:
        given |= {"edge_attr": make(EDGES, 6), "edge_query": make(batch, ROWS, heads, 6)}
    if "mask" in options:
        given["mask"] = random_mask(batch, heads)
    if "drop" in options:
        streams = torch.randint(0, 2**32, (batch * heads, 2), device=DEVICE)
        given |= {"dropout_p": 0.3, "streams": streams}
    return [*dense[:2], dense[2] if dv else None], Score(**given)


def random_mask(batch: int, heads: int) -> Tensor:
    """Words with all bits random: a third of the edges lose all heads, one row all its edges."""
    shape = 2, batch, EDGES, -(-heads // 32)
    words = torch.randint(-(2**31), 2**31, shape).to(DEVICE, torch.int32)
    words = words[0] & words[1]
    unused = ~0 if heads % 32 == 0 else -1 << heads % 32
    words[:, ::3, -1] &= unused  # bits past the last head mean nothing
    words[:, ::3, :-1] = 0
    words[:, edge_list()[1] == MASKED_ROW] = 0
    return words


def detached(dense: list[Tensor | None], score: Score) -> tuple[list[Tensor | None], Score]:
    plain = [t.detach() if isinstance(t, Tensor) else t for t in (*dense, *score)]
    return plain[:3], Score(*plain[3:])


def assert_close(
    found: Tensor, expected: Tensor, what: str, storage: torch.dtype | None = None
) -> None:
    """Equal up to rounding of the dtype (that of ``storage``), relative to the largest number."""
    assert found.shape == expected.shape and found.dtype == expected.dtype, what
    assert torch.equal(found.isneginf(), expected.isneginf()), what
    finite = torch.where(expected.isneginf(), 0, expected).double()
    error = (torch.where(found.isneginf(), 0, found).double() - finite).abs().max()
    limit = TOLERANCE[storage or found.dtype] * finite.abs().max()
    assert error <= limit, f"{what}: error {error}, limit {limit}"


def check(gpu: Any, *case: Any) -> None:
    """Outputs and every gradient against autograd through the reference; "whole": no hub is cut."""
    dense, score = inputs(*case)
    rows, cols = layouts(256 if "whole" in case[-1] else 8)
    gated = "gated" in case[-1]
    expected = reference(*dense, rows, score, gated)
    plain, constant = detached(dense, score)
    found = gpu.attention_forward(*plain, rows, constant, gated)
    for name, a, b in zip(Results._fields, found, expected, strict=True):
        assert (a is None) == (b is None), name
        if a is not None:
            assert_close(a, b.detach(), name)
    pulls = [None if t is None else torch.randn_like(t) for t in expected]
    leaves = {n: getattr(score, n) for n in OPTIONAL if getattr(score, n) is not None}
    leaves |= {n: t for n, t in zip(("query", "key", "value"), dense, strict=True) if t is not None}
    if "nolse" in case[-1]:
        pulls[1] = None
    if expected.scores is not None:  # the sum leaves out what is -inf
        pulls[4] = pulls[4].masked_fill(expected.scores.isneginf(), 0)
    total = sum(
        (a.masked_fill(a.isneginf(), 0) * b).sum()
        for a, b in zip(expected, pulls, strict=True)
        if b is not None
    )
    needs = tuple(name in leaves for name in OPTIONAL)
    done = Results(*found[:3])
    grads = gpu.attention_backward(
        Results(*pulls), *plain, done, rows, cols, constant, needs
    )._asdict()
    assert {name for name, g in grads.items() if g is not None} == set(leaves)
    for name, b in zip(leaves, torch.autograd.grad(total, [*leaves.values()]), strict=True):
        assert_close(grads[name], b, f"grad_{name}", case[0])


CASES = [
    (torch.float64, 3, 5, 3, 1, "gate gated nolse"),
    (torch.float64, 3, 5, 7, 2, "edge drop bias1"),
    (torch.float64, 3, 256, 130, 1, "bias2 mask"),
    (torch.float64, 3, 5, 7, 2, "table mask gate clamp"),
    (torch.float64, 40, 3, 2, 1, "mask drop whole"),
    (torch.float64, 3, 5, 0, 1, "edge bias2 clamp mask"),
    (torch.float64, 2, 4, 0, 1, "gate gated table mask"),
    (torch.float32, 1, 1, 1, 1, "drop"),
    (torch.float32, 4, 4, 0, 1, ""),
    (torch.bfloat16, 8, 16, 16, 1, "whole"),
    (torch.float16, 2, 4, 8, 1, "clamp"),
]
SWEEP = [
    (dtype, heads, dk, dv, batch, options)
    for dtype in (torch.float64, torch.float32, torch.bfloat16)
    for heads, dk, dv in ((8, 16, 16), (3, 24, 12), (1, 64, 64), (36, 8, 24), (5, 7, 0))
    for batch, options in (
        (1, "bias1 clamp drop gate gated"),
        (2, "bias2 gate mask"),
        (2, "edge bias1 clamp drop"),
        (2, "edge table mask drop"),
        (1, "table mask gate gated nolse"),
    )
    if not INTERPRETED or dtype == torch.float64 or heads in (3, 8)  # where it only converts
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


def run(gpu: Any, dense: list[Tensor | None], score: Score) -> list[Tensor]:
    """Outputs and gradients, that of the bias last; output gradients follow from the outputs."""
    rows, cols = layouts()
    done = gpu.attention_forward(*dense, rows, score)
    needs = True, False, False, False
    grads = gpu.attention_backward(Results(done.out.sin()), *dense, done, rows, cols, score, needs)
    return [t for t in (*done, *grads) if t is not None]


@pytest.mark.skipif(not INTERPRETED, reason="patches the number of slots")
def test_bits_do_not_depend_on_slots(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphattn.kernels.gpu import arguments

    dense, score = detached(*inputs(torch.float32, 2, 4, 4, 1, "bias2 drop"))
    results = []
    for threads in (1 << 16, 32):
        monkeypatch.setattr(arguments, "warp_size", lambda threads=threads: threads)
        results.append(run(gpu, dense, score))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_large_and_strided_tables(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few programs, each with many blocks of slots, sum the gradient of a large table."""
    from graphattn.kernels.gpu import tuning

    dense, score = detached(*inputs(torch.float64, 3, 4, 4, 1, "table"))
    many = run(gpu, dense, score)
    monkeypatch.setattr(tuning, "TABLE_BYTES", 1)
    monkeypatch.setattr(tuning, "LEAST_COPIES", 1)
    few = run(gpu, dense, score._replace(bias=score.bias.T.contiguous().T))
    assert all(torch.equal(a, b) for a, b in zip(many[:-1], few[:-1], strict=True))
    assert few[-1].is_contiguous()
    assert_close(few[-1], many[-1], "grad_bias")


@pytest.mark.parametrize("width", [4, 0])
def test_masked_edges_are_not_read(gpu: Any, width: int) -> None:
    """A key and a value that no head keeps may hold anything."""
    source, _ = edge_list()
    dense, score = detached(*inputs(torch.float32, 2, 4, width, 1, "mask"))
    score.mask[:, source == 11] = 0
    rows, cols = layouts()
    for node in dense[1:]:
        if node is not None:
            node[:, 11] = torch.nan
    done = gpu.attention_forward(*dense, rows, score)
    pulls = Results(*(None if t is None else torch.ones_like(t) for t in done))
    grads = gpu.attention_backward(pulls, *dense, done, rows, cols, score)
    assert not any(bool(t.isnan().any()) for t in (*done, *grads) if t is not None)


def test_nan_reaches_the_output_of_its_rows_alone(gpu: Any) -> None:
    source, target = edge_list()
    dense, _ = detached(*inputs(torch.float32, 2, 4, 4, 1, ""))
    dense[1][:, 11] = torch.nan
    out, lse, *_ = gpu.attention_forward(*dense, layouts()[0], Score(scale=1.0, clamp=2.0))
    hit = torch.zeros(ROWS, dtype=torch.bool, device=DEVICE)
    hit[target[source == 11].to(DEVICE)] = True
    assert torch.equal(out.isnan().any(3).any(2)[0], hit)
    assert torch.equal(lse.isnan().any(2)[0], hit)


@pytest.mark.parametrize(("num_rows", "num_cols"), [(0, 3), (3, 0), (3, 4)])
@pytest.mark.parametrize("batch", [1, 0])
def test_no_edges(gpu: Any, num_rows: int, num_cols: int, batch: int) -> None:
    nothing = torch.empty(2, 0, dtype=torch.int64, device=DEVICE)
    rows, cols = CSRGraph.from_edge_index(nothing, (num_cols, num_rows)).layout("triton")
    query = torch.randn(batch, num_rows, 2, 4, device=DEVICE)
    key = torch.randn(batch, num_cols, 2, 4, device=DEVICE)
    table, index = torch.randn(2, 3, device=DEVICE), nothing[0]
    score = Score(bias=table, bias_index=index)
    done = gpu.attention_forward(query, key, key, rows, score)
    assert bool((done.out == 0).all()) and bool(done.lse.isneginf().all())
    needs = True, False, False, False
    grads = gpu.attention_backward(
        Results(done.out), query, key, key, done, rows, cols, score, needs
    )
    assert all(bool((g == 0).all()) for g in grads[:4])
    scores = gpu.attention_forward(query, key, None, rows, score)
    assert scores.scores.shape == (batch, 0, 2)
    grads = gpu.attention_backward(scores, query, key, None, Results(), rows, cols, score, needs)
    assert grads.value is None
    assert all(bool((g == 0).all()) for g in (grads.query, grads.key, grads.bias))
