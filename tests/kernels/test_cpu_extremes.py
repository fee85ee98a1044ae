"""CPU kernels at the edges of their range: logits near overflow, no batch entry, no head."""

import pytest
import torch
from torch import Tensor

from graphattn.graph.csr import CSRGraph
from graphattn.kernels.cpu.attention import attention_backward, attention_forward
from graphattn.kernels.score import Results, Score

ROWS, COLUMNS, EDGES = 11, 9, 83


def uneven_graph() -> CSRGraph:
    """Bipartite, with a hub row of several blocks and an empty row."""
    source, target = torch.randint(0, COLUMNS, (EDGES,)), torch.randint(0, ROWS, (EDGES,))
    target[:40], target[40:44] = 3, 9
    target[target == 7] = 8
    return CSRGraph.from_edge_index(torch.stack([source, target]), (COLUMNS, ROWS))


def nodes(batch: int = 1, heads: int = 8) -> list[Tensor]:
    return [torch.randn(batch, n, heads, 16) for n in (ROWS, COLUMNS, COLUMNS)]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("batch, heads", [(0, 8), (2, 0)])
def test_edge_gradients_are_zero_without_batch_or_heads(batch: int, heads: int) -> None:
    rows, cols = uneven_graph().layout("cpu")
    inputs, bias = nodes(batch, heads), torch.randn(EDGES)
    score = Score(scale=0.4, bias=bias)
    done = attention_forward(*inputs, rows, score)
    needs = (True, False, False, False)
    grads = attention_backward(Results(out=done.out), *inputs, done, rows, cols, score, needs)
    assert grads[3] is not None and torch.equal(grads[3], torch.zeros(EDGES))


@pytest.mark.parametrize("fill", [torch.finfo(torch.float32).min, -2.5e38, 2.9e38, 3.4e38])
def test_every_finite_logit_counts(fill: float) -> None:
    """Row 3 holds nothing but ``fill``, and row 9 one such edge among others."""
    graph = uneven_graph()
    query, key, value = nodes()
    rows, cols = graph.layout("cpu")
    source, target = graph.edge_index()
    bias = torch.randn(EDGES)
    bias[target == 3] = fill
    single = int((target == 9).nonzero()[-1])
    bias[single] = fill
    score = Score(scale=0.4, bias=bias)
    done = attention_forward(query, key, value, rows, score)
    out, lse = done.out, done.lse
    logits = 0.4 * (query[0, target] * key[0, source]).sum(-1) + bias[:, None]
    for row in (3, 9):
        mine = target == row
        weights = torch.softmax(logits[mine].double(), 0)
        expected = torch.einsum("eh,ehd->hd", weights, value[0, source[mine]].double())
        torch.testing.assert_close(out[0, row].double(), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(lse[0, row], logits[mine].logsumexp(0))
    needs = (True, False, False, False)
    pull = Results(out=out)
    grads = attention_backward(pull, query, key, value, done, rows, cols, score, needs)
    assert all(bool(g.isfinite().all()) for g in grads if g is not None)
    assert grads[3] is not None and float(grads[3][single].abs()) < 1e-5  # its weight is 0 or 1
