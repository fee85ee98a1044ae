"""Wrong input: every message names what was expected, what came and the remedy."""

from typing import Any

import numpy as np
import pytest
import torch

import graphattn as ga
from graphattn import BackendUnavailable, CSRGraph
from graphattn.ops import _dispatch
from tests.ops.conftest import make_qkv


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"query": torch.zeros(22, 3, 5)}, "query has 22 nodes but the graph has 23 rows"),
        ({"key": torch.zeros(20, 3, 5)}, "key has 20 nodes but the graph has 19 columns"),
        ({"value": torch.zeros(19, 2, 4)}, "multiple of the heads"),
        ({"query": torch.zeros(23, 4, 5)}, r"multiple of the heads \(at least 1\).*got 4, 3 and 3"),
        ({"key": torch.zeros(19, 3, 6)}, "one head width.*got 5 and 6"),
        ({"query": torch.zeros(23, 5)}, r"\[..., nodes, heads, width\].*unsqueeze"),
        ({"key": torch.zeros(2, 19, 3, 5)}, "leading batch dimensions"),
        ({"bias": torch.zeros(5)}, r"bias must have shape \[\d+\] or .*caller's edge order"),
        ({"gate": torch.zeros(137, 3, 4)}, "gate must have shape"),
        ({"edge_attr": torch.zeros(137, 3)}, "go together"),
        ({"dropout_p": 1.0}, r"\[0, 1\), got 1.0"),
        ({"eps": -1.0}, "eps must not be negative"),
        ({"clamp": -1.0}, "clamp must not be negative"),
        ({"clamp": float("nan")}, "clamp must not be negative, got nan"),
        ({"eps": float("nan")}, "eps must not be negative, got nan"),
        ({"null_logit": torch.zeros(7)}, r"null_logit must be a scalar, \[H\] = \[3\]"),
        ({"query": torch.zeros(23, 3, 0), "key": torch.zeros(19, 3, 0)}, "width of at least 1"),
        ({"edge_attr": torch.zeros(137, 0), "edge_proj": torch.zeros(3, 5, 0)}, "F >= 1"),
        (
            {
                "value": torch.zeros(19, 3, 5),
                "edge_attr": torch.zeros(135, 2),
                "edge_proj": torch.zeros(3, 5, 2, device="meta"),
            },
            r"edge_proj is on meta but the graph is on cpu; call edge_proj.to\('cpu'\)",
        ),
        (
            {"null_logit": torch.zeros(3, device="meta")},
            "null_logit is on meta but query",
        ),
        ({"top_m": True}, "top_m must be a whole number of at least 1 or None, got True"),
        (
            {"query": torch.zeros(2, 3, 23, 5), "key": torch.zeros(2, 3, 19, 5)},
            r"heads come after nodes: call transpose\(-3, -2\)",
        ),
        ({"impl": "cuda"}, "impl must be one of auto, reference, cpu, triton, got 'cuda'"),
        ({"query": torch.zeros(23, 3, 5, device="meta")}, "one device, got meta for query and cpu"),
        (
            {
                n: torch.zeros(r, 3, 5, device="meta")
                for n, r in (("query", 23), ("key", 19), ("value", 19))
            },
            r"query is on meta but the graph is on cpu; call graph.to\('meta'\)",
        ),
        (
            {"query": torch.zeros(4, 5, 3, 5), "graph": ga.GridGraph((4, 5), 3)},
            r"flatten the axes \[4, 5\] of a grid",
        ),
    ],
)
def test_wrong_values(graph: CSRGraph, change: dict[str, Any], words: str) -> None:
    q, k, v = (t.detach().float() for t in make_qkv(graph))
    call: dict[str, Any] = {"query": q, "key": k, "value": v, "graph": graph} | change
    with pytest.raises(ValueError, match=words):
        ga.attention(**call)


def test_edge_features_need_matching_shapes(graph: CSRGraph) -> None:
    q, k, v = make_qkv(graph)
    attr, proj = torch.zeros(graph.num_edges, 2), torch.zeros(3, 5, 2)
    with pytest.raises(ValueError, match="one width for key and value"):
        ga.attention(q, k, v, graph, edge_attr=attr, edge_proj=proj)
    gate = torch.zeros(graph.num_edges, 3, 5)
    with pytest.raises(ValueError, match="cannot be combined with gate"):
        ga.attention(q, k, v, graph, edge_attr=attr, edge_proj=proj, gate=gate)


def test_wrong_types(graph: CSRGraph) -> None:
    q, k, v = (t.detach() for t in make_qkv(graph))
    with pytest.raises(TypeError, match="share a dtype.*float32"):
        ga.attention(q, k.float(), v, graph)
    with pytest.raises(TypeError, match="floating point"):
        ga.attention(q.long(), k, v, graph)
    with pytest.raises(TypeError, match="query must be a tensor, got list"):
        ga.attention([1.0], k, v, graph)  # type: ignore[arg-type]
    mask = torch.zeros(graph.num_edges, dtype=torch.bool)
    with pytest.raises(TypeError, match=r"bias must be a floating.*torch.where\(mask, 0.0"):
        ga.attention(q, k, v, graph, bias=mask)
    with pytest.raises(TypeError, match="edge_attr must be a tensor .*got list"):
        ga.attention(q, k, k, graph, edge_attr=[1.0], edge_proj=q)  # type: ignore[arg-type]
    attr, whole = torch.zeros(graph.num_edges, 2), torch.zeros(3, 5, 2, dtype=torch.int64)
    with pytest.raises(TypeError, match="edge_proj must be a floating point tensor, got torch.int"):
        ga.attention(q, k, k, graph, edge_attr=attr, edge_proj=whole)
    with pytest.raises(TypeError, match="null_logit must be a number or a tensor, got 'a'"):
        ga.attention(q, k, v, graph, null_logit="a")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"query must be a dense tensor, got .*call to_dense\(\)"):
        ga.attention(q.to_sparse(), k, v, graph)
    with pytest.raises(TypeError, match="query must be a tensor, got ndarray"):
        ga.attention_weights(q.numpy(), k, graph)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="reduce must be one of sum, .* got None"):
        ga.aggregate(k, graph, reduce=None)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="got ndarray; call torch.as_tensor on it"):
        ga.attention(q, k, v, np.zeros((2, 3)))
    with pytest.raises(TypeError, match="scale must be a number or None, got 'a'"):
        ga.attention(q, k, v, graph, scale="a")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="multiply query by a learned scale"):
        ga.attention(q, k, v, graph, scale=torch.ones(()))  # type: ignore[arg-type]


def test_numbers_of_numpy_are_numbers(graph: CSRGraph) -> None:
    q, k, v = (t.detach() for t in make_qkv(graph))
    found = ga.attention(q, k, v, graph, top_m=np.int64(2))
    assert torch.equal(found, ga.attention(q, k, v, graph, top_m=2))


def test_a_plain_edge_index_has_the_nodes_of_query_and_key() -> None:
    edge_index = torch.tensor([[0, 1], [1, 2]])
    for rows, columns in ((10, 10), (4, 7)):
        q, k = torch.randn(rows, 2, 4), torch.randn(columns, 2, 4)
        whole = ga.as_graph(edge_index, (columns, rows))
        assert torch.equal(ga.attention(q, k, k, edge_index), ga.attention(q, k, k, whole))
        weights = ga.attention_weights(q, k, edge_index)
        assert torch.equal(weights, ga.attention_weights(q, k, whole))
    with pytest.raises(ValueError, match=r"node indices in \[0, 2\), got 2"):
        ga.attention(q[:2], k, k, edge_index)


@pytest.mark.parametrize(
    ("parts", "kind", "words"),
    [
        ([], ValueError, "at least one"),
        ([torch.zeros(3, 2, 4)] * 2, TypeError, "pair of tensors .*got Tensor for part 0"),
        ((torch.zeros(3, 2, 4), torch.zeros(3, 2)), TypeError, "got Tensor for part 0"),
        ([([0.0], [0.0])], TypeError, "pair of tensors"),
        (
            [(torch.zeros(3, 2, 4), torch.zeros(3, 2)), (torch.zeros(5, 2, 4), torch.zeros(5, 2))],
            ValueError,
            r"got \[5, 2, 4\] and \[5, 2\] for part 1, and out \[3, 2, 4\] for part 0",
        ),
        (
            [(torch.zeros(3, 2, 4), torch.zeros(3, 2, device="meta"))],
            ValueError,
            "one device in one dtype, got torch.float32 on cpu with lse on meta for part 0",
        ),
        (
            [(torch.zeros(3, 2, 4, dtype=d), torch.zeros(3, 2)) for d in (torch.half, torch.float)],
            ValueError,
            "cast one",
        ),
    ],
)
def test_merge_says_what_a_part_is(parts: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        ga.merge(parts)


def test_forward_mode_names_the_remedy(graph: CSRGraph) -> None:
    q, k, v = (t.detach() for t in make_qkv(graph))
    ones = torch.ones_like(v)

    def call(v: torch.Tensor, impl: str) -> torch.Tensor:
        return ga.attention(q, k, v, graph, impl=impl)

    with pytest.raises(ValueError, match="no forward-mode derivative.*impl='reference'"):
        torch.func.jvp(lambda v: call(v, "cpu"), (v,), (ones,))
    _, tangent = torch.func.jvp(lambda v: call(v, "reference"), (v,), (ones,))
    torch.testing.assert_close(tangent, call(ones, "cpu"))


def test_named_implementations_never_fall_back(
    graph: CSRGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v = make_qkv(graph)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(BackendUnavailable, match="needs CUDA tensors, got cpu"):
        ga.attention(q, k, v, graph, impl="triton")
    monkeypatch.setattr(_dispatch, "HAS_NUMBA", False)
    with pytest.raises(BackendUnavailable, match="pip install numba"):
        ga.attention(q, k, v, graph, impl="cpu")


def test_without_numba_one_warning_says_what_is_lost(
    graph: CSRGraph, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    q, k, v = make_qkv(graph)
    monkeypatch.setattr(_dispatch, "HAS_NUMBA", False)
    monkeypatch.setattr(_dispatch, "_warned", set())
    with pytest.warns(UserWarning, match="Numba is not installed.*pip install numba"):
        first = ga.attention(q, k, v, graph)
    recwarn.clear()
    assert torch.equal(first, ga.attention(q, k, v, graph))
    assert not recwarn.list


def test_cuda_without_triton_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dispatch, "HAS_TRITON", False)
    with pytest.raises(BackendUnavailable, match="install triton"):
        _dispatch.resolve("auto", torch.device("cuda"))
    assert _dispatch.resolve("auto", torch.device("mps")) == "reference"
