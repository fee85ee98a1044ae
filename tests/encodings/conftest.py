"""Small graphs with known spectra."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import threadpoolctl
import torch
from scipy import sparse
from torch import Tensor

from graphattn.graph import CSRGraph

Pairs = list[tuple[int, int]]


def undirected(pairs: Pairs, nodes: int) -> CSRGraph:
    one_way = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).t()
    return CSRGraph.from_edge_index(torch.cat([one_way, one_way.flip(0)], dim=1), nodes)


def cycle(nodes: int) -> CSRGraph:
    return undirected([(i, (i + 1) % nodes) for i in range(nodes)], nodes)


def path(nodes: int) -> CSRGraph:
    return undirected([(i, i + 1) for i in range(nodes - 1)], nodes)


def torus(height: int, width: int) -> CSRGraph:
    pairs = []
    for r in range(height):
        for c in range(width):
            pairs += [(r * width + c, r * width + (c + 1) % width)]
            pairs += [(r * width + c, (r + 1) % height * width + c)]
    return undirected(pairs, height * width)


def random_graph(nodes: int, edges: int, seed: int = 0) -> CSRGraph:
    """Duplicates, self-loops, isolated nodes and several components are likely."""
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randint(nodes, (edges, 2), generator=generator)
    return undirected([(int(a), int(b)) for a, b in pairs], nodes)


def disjoint(*graphs: CSRGraph) -> CSRGraph:
    parts, offset = [], 0
    for graph in graphs:
        parts.append(graph.edge_index() + offset)
        offset += graph.num_rows
    return CSRGraph.from_edge_index(torch.cat(parts, dim=1), offset)


def dense_laplacian(graph: CSRGraph, normalization: str | None = "sym") -> np.ndarray:
    """The definition, written out."""
    source, target = graph.edge_index().numpy()
    keep = source != target
    shape = (graph.num_rows, graph.num_rows)
    ones = np.ones(int(keep.sum()))
    adjacency = sparse.coo_array((ones, (target[keep], source[keep])), shape=shape).toarray()
    degree = adjacency.sum(axis=1)
    if normalization is None:
        return np.diag(degree) - adjacency
    clipped = degree.clip(min=1)
    eye = np.eye(graph.num_rows)
    if normalization == "rw":
        return eye - adjacency / clipped[:, None]
    return eye - adjacency / np.sqrt(np.outer(clipped, clipped))


def projector(vectors: Tensor | np.ndarray) -> np.ndarray:
    """Onto the span: the same for every basis of an eigenspace."""
    q, _ = np.linalg.qr(np.asarray(vectors, dtype=np.float64))
    return q @ q.T


@pytest.fixture(autouse=True)
def one_blas_thread() -> Iterator[None]:
    """The dense oracles are tiny: more threads only spin when the machine is busy."""
    with threadpoolctl.threadpool_limits(1):
        yield


@pytest.fixture
def make() -> dict[str, Callable[..., CSRGraph]]:
    """The makers by name, for modules that cannot import each other (importlib mode)."""
    return {
        "undirected": undirected,
        "cycle": cycle,
        "path": path,
        "torus": torus,
        "random": random_graph,
        "disjoint": disjoint,
    }


@pytest.fixture
def oracle() -> Callable[..., np.ndarray]:
    return dense_laplacian


@pytest.fixture
def span() -> Callable[..., np.ndarray]:
    return projector
