"""What is computed once per graph: kept per kind and dtype, forgotten with the graph."""

import gc

import torch
from torch import Tensor

from graphattn.graph import CSRGraph, kept
from graphattn.nn import SINCConv


def path() -> CSRGraph:
    return CSRGraph.from_edge_index(torch.tensor([[0, 1], [1, 2]]), 3)


def test_built_once_per_kind_and_dtype_and_forgotten_with_the_graph() -> None:
    gc.collect()
    before, calls, graph = len(kept._kept), [], path()

    def build(graph: CSRGraph, dtype: torch.dtype) -> Tensor:
        calls.append(dtype)
        return graph.degree().to(dtype)

    with torch.inference_mode():
        first = kept.once_per_graph(graph, "degree", torch.float32, build)
    assert kept.once_per_graph(graph, "degree", torch.float32, build) is first
    assert not first.is_inference()
    kept.once_per_graph(graph, "degree", torch.float64, build)
    kept.once_per_graph(graph, "other", torch.float64, build)
    kept.once_per_graph(path(), "degree", torch.float32, build)
    assert calls == [torch.float32, torch.float64, torch.float64, torch.float32]
    del graph
    gc.collect()
    assert len(kept._kept) == before


def test_layers_of_a_network_share_the_weights_of_the_edges() -> None:
    graph, x = path(), torch.randn(3, 4)
    for _ in range(2):
        SINCConv(4, 4, 4, context="sym", aggr="sym")(x, graph)
    assert list(kept._kept[graph]) == [("root degrees", torch.float32)]
