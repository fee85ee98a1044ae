"""How many are kept: ceil(r n) of the decimal r, not of its float32 product."""

import pytest
import torch

from graphattn import CSRGraph
from graphattn.models import GraphTransformer
from graphattn.nn.adjacency import AdjacencyTransform, share_of
from graphattn.sparsify import EdgeSelector, HeadMasks, NodeSelector

SIZES = (25, 50)


def full(n: int) -> CSRGraph:
    pairs = torch.cartesian_prod(torch.arange(n), torch.arange(n)).T
    return CSRGraph.from_edge_index(pairs, n)


def ceil(tenths: int, n: int) -> int:
    return -(-tenths * n // 10)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("tenths", [3, 6])
def test_kept_counts_are_the_ceiling_of_the_share(tenths: int, n: int) -> None:
    ratio, want = tenths / 10, ceil(tenths, n)
    x = torch.randn(n, 8)
    assert int(NodeSelector(8, ratio).eval().keep(x)[0].sum()) == want
    smaller, _ = EdgeSelector(8, ratio).eval()(x, full(n))
    assert smaller.degree().tolist() == [want] * n
    weight = torch.rand(n * n, 1) + 0.1
    past = AdjacencyTransform("causal-top-k", share=ratio, threshold=0.0)(weight, full(n))
    kept = torch.zeros(n).index_add(0, full(n).edge_index()[1], past[:, 0])
    assert kept.tolist() == [ceil(tenths, row) for row in range(n)]
    best = AdjacencyTransform("top-k", share=ratio)(weight, full(n))
    assert int(best.sum()) == n * max(tenths * n // 10, 1)


def test_the_share_is_exact_for_all_decimals() -> None:
    n = torch.arange(1, 2001)
    for percent in range(1, 101):
        assert torch.equal(share_of(n, percent / 100), -(-percent * n // 100))
        assert torch.equal(share_of(n, percent / 100, down=True), percent * n // 100)
    assert int(share_of(torch.tensor(1), 1e-13)) == 1  # one at least


def test_kept_heads_are_the_floor_of_the_share() -> None:
    masks = HeadMasks(GraphTransformer(3, 100, 2, 1, 100), 0.57)  # 56.99999... in float64
    assert int(masks.masks[0].sum()) == 57
