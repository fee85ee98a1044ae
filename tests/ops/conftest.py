"""Graphs and tensors for the attention tests."""

import pytest
import torch
from torch import Tensor

from graphattn import CSRGraph


def messy_graph(rows: int = 23, cols: int = 19, edges: int = 90, seed: int = 3) -> CSRGraph:
    """Bipartite, with empty rows, a hub row, a hub column and duplicates, in random edge order."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(0, cols - 1, (edges,), generator=generator)
    target = torch.randint(2, rows - 1, (edges,), generator=generator)
    hub = torch.stack([torch.arange(cols), torch.full((cols,), 4)])
    column = torch.stack([torch.full((rows - 6,), 3), torch.arange(5, rows - 1)])
    pairs = torch.cat([torch.stack([source, target]), hub, column], 1)
    pairs = torch.cat([pairs, pairs[:, :9]], 1)
    order = torch.randperm(pairs.shape[1], generator=generator)
    return CSRGraph.from_edge_index(pairs[:, order], (cols, rows))


@pytest.fixture
def graph() -> CSRGraph:
    return messy_graph()


def make_qkv(
    graph: CSRGraph,
    heads: int = 3,
    width: int = 5,
    value_width: int = 4,
    lead: tuple[int, ...] = (),
) -> list[Tensor]:
    """float64 query, key, value that require gradients."""
    shapes = [
        (*lead, graph.num_rows, heads, width),
        (*lead, graph.num_cols, heads, width),
        (*lead, graph.num_cols, heads, value_width),
    ]
    return [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]


def dense_weights(logit: Tensor, graph: CSRGraph) -> Tensor:
    """Softmax weights [E, H] of edge logits [E, H] by plain loops over dense rows."""
    out = torch.zeros_like(logit)
    target = graph.edge_index()[1]
    for row in range(graph.num_rows):
        mask = target == row
        out[mask] = torch.softmax(logit[mask], 0)
    return out
