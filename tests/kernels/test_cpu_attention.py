"""CPU kernels against the reference: outputs and every gradient, for every option."""

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import graphattn as ga
from graphattn.graph.csr import CSRGraph
from graphattn.kernels.cpu.attention import attention_backward, attention_forward
from graphattn.kernels.layout import Layout
from graphattn.kernels.reference.attention import attention_forward as reference
from graphattn.kernels.score import Results, Score

ROWS, COLUMNS, EDGES, TYPES = 37, 29, 401, 11
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
SCORE_TENSORS = ("bias", "gate", "edge_attr", "edge_query", "att")


@dataclass(frozen=True)
class Case:
    """One combination of sizes and options; value width 0 asks for the logits alone."""

    heads: int
    key: int
    value: int
    batch: int = 1
    feature: int = 0
    bias: str = ""
    gate: bool = False
    clamp: float | None = None
    dropout: float = 0.0
    gated: bool = False
    lse: bool = True
    mask: bool = False
    additive: str = ""

    def options(self) -> dict[str, Any]:
        """What a score holds beside tensors with gradients."""
        streams = torch.randint(0, 2**32, (self.batch * self.heads, 2)) if self.dropout else None
        return {
            "scale": 0.4,
            "clamp": self.clamp,
            "dropout_p": self.dropout,
            "streams": streams,
            "bias_index": torch.randint(0, TYPES, (EDGES,)) if self.bias == "table" else None,
            "mask": self._mask() if self.mask else None,
            "activation": self.additive,
            "slope": 0.2,
        }

    def _mask(self) -> Tensor:
        """Random bits, most of them unset, and edges without any."""
        shape = (self.batch, EDGES, -(-self.heads // 32))
        words = torch.randint(-(2**31), 2**31, (3, *shape), dtype=torch.int32)
        words[0, :, ::3] = 0
        return words[0] & words[1] & words[2]


PLAIN = Case(8, 16, 16)
NARROW = Case(1, 1, 1, batch=2, feature=3, bias="edge")
EVERYTHING = Case(
    3, 13, 5, batch=2, feature=6, bias="head", gate=True, clamp=0.7, dropout=0.3, gated=True
)
MASKED = Case(12, 40, 24, batch=2, mask=True, bias="table", clamp=1.0)
# A mask of all heads leaves whole edges out, whose gradients must still be 0.
MASKED_FEATURES = Case(5, 16, 16, mask=True, feature=8)
ADDITIVE = Case(8, 16, 16, batch=2, additive="leaky_relu")
ADDITIVE_MASKED = Case(3, 5, 24, batch=2, additive="gelu", dropout=0.3, mask=True)
LOGITS = Case(3, 13, 0, batch=2, feature=6, bias="head", clamp=0.7)
CASES = [
    (PLAIN, torch.float32),
    (PLAIN, torch.float64),
    (NARROW, torch.float32),
    (EVERYTHING, torch.float64),
    (MASKED, torch.float32),
    (MASKED_FEATURES, torch.float64),
    (LOGITS, torch.float64),
    (ADDITIVE, torch.float32),
    (ADDITIVE_MASKED, torch.float64),
]
SWEEP = [
    NARROW,
    EVERYTHING,
    Case(8, 16, 16, lse=False),
    Case(4, 8, 8, gated=True),
    Case(12, 70, 33, bias="head"),
    Case(2, 256, 16, clamp=0.5),
    Case(16, 4, 4, batch=3, bias="edge", dropout=0.5),
    Case(20, 3, 2, feature=20, dropout=0.1),
    Case(8, 16, 16, batch=2, feature=16, bias="head", gate=True),
    Case(5, 32, 64, feature=33, clamp=1.0),
    Case(6, 24, 48, gate=True, gated=True, batch=2),
    Case(1, 100, 7, feature=1, bias="edge", gate=True, dropout=0.2, clamp=2.0, gated=True),
    MASKED,
    LOGITS,
    Case(40, 4, 4, batch=2, mask=True),
    Case(8, 16, 16, mask=True, dropout=0.3, bias="head", gate=True, gated=True),
    MASKED_FEATURES,
    Case(3, 7, 9, batch=2, bias="table", dropout=0.2),
    Case(8, 16, 0),
    Case(20, 3, 0, bias="table", gate=True, gated=True),
    ADDITIVE_MASKED,
    Case(1, 70, 9, additive="tanh", batch=2),
    Case(12, 4, 16, additive="leaky_relu", dropout=0.2),
]


def skewed_graph(rows: int = ROWS, columns: int = COLUMNS, edges: int = EDGES) -> CSRGraph:
    """Bipartite, unsorted, with a hub row, empty rows and columns, and duplicate edges."""
    source, target = torch.randint(0, columns, (edges,)), torch.randint(0, rows, (edges,))
    target[: edges // 4], source[edges // 2 : edges // 2 + 9] = 3, 2
    target[target == 7], source[source == 4] = 8, 5
    source[5:9], target[5:9] = 6, 9
    return CSRGraph.from_edge_index(torch.stack([source, target]), (columns, rows))


def random_inputs(case: Case, rows: Layout, dtype: torch.dtype) -> dict[str, Tensor | None]:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype)

    heads, edges = case.heads, rows.indices.shape[0]
    inputs: dict[str, Tensor | None] = dict.fromkeys(SCORE_TENSORS)
    if case.bias:
        bias = normal(edges, heads) if case.bias == "head" else normal(edges)
        bias[::5] = -math.inf
        masked = slice(int(rows.indptr[10]), int(rows.indptr[11]))
        bias[rows.edges[masked]] = -math.inf
        inputs["bias"] = normal(heads, TYPES) if case.bias == "table" else bias
    if case.additive:
        inputs["att"] = normal(heads, case.key)
    if case.gate:
        inputs["gate"] = normal(edges, heads, case.key)
    if case.feature:
        inputs["edge_attr"] = normal(edges, case.feature)
        inputs["edge_query"] = normal(case.batch, ROWS, heads, case.feature)
    nodes = {
        "query": normal(case.batch, ROWS, heads, case.key),
        "key": normal(case.batch, COLUMNS, heads, case.key),
        "value": normal(case.batch, COLUMNS, heads, case.value) if case.value else None,
    }
    return nodes | inputs


def relative_error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    assert torch.equal(found.isinf(), expected.isinf())
    finite = ~expected.isinf()
    size = expected[finite].abs().max().clamp_min(1e-3)
    return float((found[finite].double() - expected[finite].double()).abs().max() / size)


def expected_results(
    case: Case, inputs: dict[str, Tensor | None], rows: Layout, options: dict[str, Any]
) -> tuple[Results, Results, dict[str, Tensor]]:
    """Reference outputs in float64, random output gradients, and the inputs' gradients."""
    leaves = {n: t if t is None else t.double().requires_grad_() for n, t in inputs.items()}
    nodes = [leaves[name] for name in ("query", "key", "value")]
    score = Score(**{name: leaves[name] for name in SCORE_TENSORS}, **options)
    outputs = reference(*nodes, rows, score, case.gated)
    pulls = Results(*(None if out is None else torch.randn_like(out) for out in outputs))
    if outputs.lse is not None:
        no_pull = pulls.lse.masked_fill(outputs.lse.isinf(), 0.0) if case.lse else None
        pulls = pulls._replace(lse=no_pull)
    if pulls.scores is not None:
        pulls = pulls._replace(scores=pulls.scores.masked_fill(outputs.scores.isinf(), 0.0))
    used = [(o, g) for o, g in zip(outputs, pulls, strict=True) if g is not None]
    wanted = {name: leaf for name, leaf in leaves.items() if leaf is not None}
    found = torch.autograd.grad([o for o, _ in used], [*wanted.values()], [g for _, g in used])
    return outputs, pulls, dict(zip(wanted, found, strict=True))


def check(case: Case, dtype: torch.dtype) -> None:
    rows, cols = skewed_graph().layout("cpu")
    inputs, options = random_inputs(case, rows, dtype), case.options()
    outputs, pulls, expected = expected_results(case, inputs, rows, options)
    pulls = Results(*(None if g is None else g.to(dtype) for g in pulls))
    nodes = [inputs[name] for name in ("query", "key", "value")]
    score = Score(**{name: inputs[name] for name in SCORE_TENSORS}, **options)
    found = attention_forward(*nodes, rows, score, case.gated)
    for out, want in zip(found, outputs, strict=True):
        assert (out is None) == (want is None)
        if out is not None:
            assert out.dtype == dtype
            assert relative_error(out, want.detach()) < TOLERANCE[dtype]
    needs = tuple(inputs[name] is not None for name in SCORE_TENSORS)
    grads = attention_backward(pulls, *nodes, found, rows, cols, score, needs)
    for name, grad in zip(("query", "key", "value", *SCORE_TENSORS), grads, strict=True):
        assert (grad is None) == (name not in expected)
        if grad is not None:
            assert grad.dtype == dtype, name
            assert relative_error(grad, expected[name]) < TOLERANCE[dtype], name


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("case, dtype", CASES, ids=str)
def test_matches_reference(case: Case, dtype: torch.dtype) -> None:
    check(case, dtype)


@pytest.fixture
def many_hubs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row of more than eight edges is cut into parts."""
    monkeypatch.setattr("graphattn.kernels.layout.SHORTEST_HUB", 8)
    parts = skewed_graph().rows_layout("cpu").plan[1]
    assert parts.shape[1] > 30 and int((parts[1] - parts[0]).max()) <= 8


@pytest.mark.usefixtures("poisoned", "many_hubs")
@pytest.mark.parametrize("case, dtype", CASES, ids=str)
def test_parts_of_hubs_match_reference(case: Case, dtype: torch.dtype) -> None:
    check(case, dtype)


@pytest.mark.slow
@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("hubs", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", SWEEP, ids=str)
def test_matches_reference_sweep(
    case: Case, dtype: torch.dtype, hubs: bool, request: pytest.FixtureRequest
) -> None:
    if hubs:
        request.getfixturevalue("many_hubs")
    check(case, dtype)


PRODUCTS = Score(scale=0.4)


def plain_call(graph: CSRGraph, *nodes: Tensor, score: Score = PRODUCTS) -> list[Tensor]:
    """Output, LSE and gradients of a call without edge tensors."""
    rows, cols = graph.layout("cpu")
    done = attention_forward(*nodes, rows, score)
    out, lse = done.out, done.lse
    pull = torch.cos(torch.arange(out.numel(), dtype=out.dtype)).view_as(out)
    pulls = Results(out=pull, lse=lse.nan_to_num(0, 0, 0))
    needs = *[False] * 4, score.att is not None
    grads = attention_backward(pulls, *nodes, done, rows, cols, score, needs)
    return [out, lse, *(g for g in grads if g is not None)]


def additive_score() -> Score:
    return Score(att=torch.randn(8, 16), activation="leaky_relu", slope=0.2)


def random_nodes(rows: int, columns: int, batch: int = 1) -> list[Tensor]:
    return [torch.randn(batch, n, 8, 16) for n in (rows, columns, columns)]


@pytest.mark.parametrize("shortest", [4096, 8])
def test_threads_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch, shortest: int) -> None:
    monkeypatch.setattr("graphattn.kernels.layout.SHORTEST_HUB", shortest)
    monkeypatch.setattr("graphattn.kernels.cpu.threads.INLINE_WORK", 0)
    graph, nodes = skewed_graph(700, 500, 9001), random_nodes(700, 500, batch=2)
    found = []
    table, index = torch.randn(8, TYPES), torch.randint(0, TYPES, (9001,))
    additive = additive_score()
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        both = [*plain_call(graph, *nodes), *plain_call(graph, *nodes, score=additive)]
        found.append([*both, table_gradient(graph, nodes, table, index)])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("kind", ["gate", "features"])
def test_threads_do_not_change_a_bit_of_options(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr("graphattn.kernels.cpu.threads.INLINE_WORK", 0)
    graph, nodes = skewed_graph(700, 500, 9001), random_nodes(700, 500)
    options: dict[str, Any] = {"bias": torch.randn(9001, 8), "clamp": 1.0, "dropout_p": 0.2}
    options |= {"gate": torch.randn(9001, 8, 16)} if kind == "gate" else {}
    if kind == "features":
        options |= {"edge_attr": torch.randn(9001, 5), "edge_proj": torch.randn(8, 16, 5)}
    leaves = [*nodes, *(t for t in options.values() if isinstance(t, Tensor))]
    for leaf in leaves:
        leaf.requires_grad_()
    found = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        torch.manual_seed(3)  # the same weights are dropped
        out = ga.attention(*nodes, graph, **options)
        found.append([out, *torch.autograd.grad(out.cos().sum(), leaves)])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def table_gradient(graph: CSRGraph, nodes: list[Tensor], table: Tensor, index: Tensor) -> Tensor:
    """Gradient of a bias table."""
    rows, cols = graph.layout("cpu")
    score = Score(scale=0.4, bias=table, bias_index=index)
    done = attention_forward(*nodes, rows, score)
    needs = (True, False, False, False)
    pull = Results(out=done.out.cos())
    return attention_backward(pull, *nodes, done, rows, cols, score, needs).bias


def test_int64_indices_give_the_same_bits() -> None:
    graph, nodes = skewed_graph(), random_nodes(ROWS, COLUMNS)
    wide = CSRGraph(graph.indptr, graph.indices.long(), graph.num_cols, graph.edge_perm)
    assert wide.indices.dtype == torch.int64 != graph.indices.dtype
    for a, b in zip(plain_call(graph, *nodes), plain_call(wide, *nodes), strict=True):
        assert torch.equal(a, b)


def test_strided_and_half_precision_inputs() -> None:
    graph, nodes = skewed_graph(), random_nodes(ROWS, COLUMNS)
    strided = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in nodes]
    for a, b in zip(plain_call(graph, *nodes), plain_call(graph, *strided), strict=True):
        assert torch.equal(a, b)
    for dtype in (torch.bfloat16, torch.float16):
        half = [t.to(dtype) for t in nodes]
        out, lse = plain_call(graph, *half)[:2]
        wide = plain_call(graph, *(t.float() for t in half))
        assert (out.dtype, lse.dtype) == (dtype, torch.float32)
        assert torch.equal(out, wide[0].to(dtype)) and torch.equal(lse, wide[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", [PLAIN, replace(MASKED, dropout=0.2), ADDITIVE], ids=str)
def test_half_precision_is_read_as_it_lies(case: Case, dtype: torch.dtype) -> None:
    """Bit for bit what widened copies give, in both passes."""
    rows, cols = skewed_graph().layout("cpu")
    inputs = random_inputs(case, rows, torch.float32)
    half = [inputs[name].to(dtype) for name in ("query", "key", "value")]
    score = Score(bias=inputs["bias"], att=inputs["att"], **case.options())
    needs = bool(case.bias), *[False] * 3, bool(case.additive)
    done = attention_forward(*half, rows, score)
    pull = torch.randn_like(done.out)
    wide = [t.float() for t in half]
    expected = attention_forward(*wide, rows, score)
    assert torch.equal(done.out, expected.out.to(dtype)) and torch.equal(done.lse, expected.lse)
    grads = attention_backward(Results(out=pull), *half, done, rows, cols, score, needs)
    expected = expected._replace(out=done.out.float())
    pulls = Results(out=pull.float())
    for found, want in zip(
        grads, attention_backward(pulls, *wide, expected, rows, cols, score, needs), strict=True
    ):
        assert (found is None) == (want is None)
        assert found is None or torch.equal(found, want.to(found.dtype))


@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("rows, columns", [(5, 3), (0, 3), (5, 0)])
def test_no_edges(rows: int, columns: int, additive: bool) -> None:
    score = additive_score() if additive else PRODUCTS
    graph = CSRGraph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), (columns, rows))
    out, lse, *grads = plain_call(graph, *random_nodes(rows, columns), score=score)
    assert not out.any() and bool((lse == -math.inf).all())
    assert not any(grad.any() for grad in grads)


def test_additive_scores_are_refused_with_terms_that_would_not_be_read() -> None:
    rows, _ = skewed_graph().layout("cpu")
    for term in ({"bias": torch.zeros(EDGES)}, {"gate": torch.ones(EDGES, 8, 16)}):
        with pytest.raises(ValueError, match="additive scores take no bias, gate"):
            score = additive_score()._replace(**term)
            attention_forward(*random_nodes(ROWS, COLUMNS), rows, score)


def test_nan_reaches_the_output_of_its_row_and_head_only() -> None:
    graph, nodes = skewed_graph(), random_nodes(ROWS, COLUMNS)
    clean = plain_call(graph, *nodes)[0]
    nodes[0][0, 3, 2, 0] = torch.nan
    out = plain_call(graph, *nodes)[0]
    assert out[0, 3, 2].isnan().all()
    clean[0, 3, 2] = out[0, 3, 2] = 0.0
    assert torch.equal(out, clean)


def test_nan_passes_the_clamp() -> None:
    rows, _ = skewed_graph().layout("cpu")
    nodes = random_nodes(ROWS, COLUMNS)
    nodes[0][0, 3, 2, 0] = torch.nan
    out, lse, *_ = attention_forward(*nodes, rows, Score(scale=0.4, clamp=1.0))
    assert out[0, 3, 2].isnan().all() and lse[0, 3, 2].isnan()
    assert not out[0, 3, 1].isnan().any()


def test_large_logits_do_not_overflow() -> None:
    graph = skewed_graph()
    query, key, value = random_nodes(ROWS, COLUMNS)
    found = plain_call(graph, 1e4 * query, key, value)
    assert all(bool(t.isfinite().all()) for t in (found[0], *found[2:]))


@pytest.mark.parametrize("additive", [False, True])
def test_peak_memory_has_no_term_in_edges(additive: bool) -> None:
    """torch's own allocations of a plain call: outputs, gradients, two numbers per row and head."""
    score = additive_score() if additive else PRODUCTS
    sizes = []
    for edges in (2000, 16000):  # one hub of a quarter of them, not yet cut into parts
        graph, nodes = skewed_graph(300, 200, edges), random_nodes(300, 200)
        graph.layout("cpu")
        with torch.profiler.profile(profile_memory=True) as profile:
            plain_call(graph, *nodes, score=score)
        used = [e.self_cpu_memory_usage for e in profile.key_averages()]
        sizes.append(sum(n for n in used if n > 0))
    assert sizes[0] == sizes[1]


def test_threaded_callers_share_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setattr("graphattn.kernels.cpu.threads.INLINE_WORK", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    graph, nodes = skewed_graph(), random_nodes(ROWS, COLUMNS)
    expected = plain_call(graph, *nodes)
    with ThreadPoolExecutor(4) as callers:
        results = list(callers.map(lambda _: plain_call(graph, *nodes), range(8)))
    for found in results:
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_gate_of_ones_is_no_gate() -> None:
    case = replace(PLAIN, gate=True)
    rows, _ = skewed_graph().layout("cpu")
    inputs = random_inputs(case, rows, torch.float32)
    nodes = [inputs[name] for name in ("query", "key", "value")]
    ones = torch.ones(EDGES, 8, 16)
    plain = attention_forward(*nodes, rows, Score(scale=0.4)).out
    assert torch.equal(attention_forward(*nodes, rows, Score(0.4, gate=ones)).out, plain)
