"""Graphs cut lazily out of joined tensors behave as a list of graphs."""

import pickle
from collections.abc import Sequence

import pytest
import torch
from torch_geometric.loader import DataLoader

from graphattn.datasets.graph_list import GraphList

NODES, EDGES = (3, 1, 0, 6), (4, 0, 0, 11)


@pytest.fixture
def graphs() -> GraphList:
    nodes, edges = torch.tensor(NODES), torch.tensor(EDGES)
    joined = {
        "x": (torch.arange(20.0).view(10, 2), 0, nodes),
        "edge_index": (torch.zeros(2, 15, dtype=torch.int64), -1, edges),
        "y": (torch.arange(4), 0, torch.ones(4, dtype=torch.int64)),
        "scale": (torch.arange(4.0), None, None),
    }
    return GraphList(joined, {"num_nodes": list(NODES), "smiles": list("abcd")}, 4)


def test_length_index_slice_and_iteration(graphs: GraphList) -> None:
    assert isinstance(graphs, Sequence) and len(graphs) == 4
    assert [graph.num_nodes for graph in graphs] == list(NODES)
    assert [graph.num_edges for graph in graphs] == list(EDGES)
    assert graphs[1].x.tolist() == [[6, 7]] and graphs[1].smiles == "b"
    assert graphs[-1].x.shape == (6, 2) and graphs[torch.tensor(3)].scale.item() == 3
    assert graphs[2].x.shape == (0, 2) and graphs[2].edge_index.shape == (2, 0)
    part = graphs[1:][::-1]
    assert [graph.y.item() for graph in part] == [3, 2, 1] and len(graphs[9:]) == 0
    assert repr(part) == "GraphList(3 graphs)"
    for index in (4, -5):
        with pytest.raises(IndexError):
            graphs[index]


def test_pickle_copies_each_tensor_once(graphs: GraphList) -> None:
    back = pickle.loads(pickle.dumps(graphs[1:]))
    assert [graph.smiles for graph in back] == ["b", "c", "d"]
    assert torch.equal(back[2].x, graphs[3].x)


@pytest.mark.parametrize("workers", [0, 2])
def test_data_loader(graphs: GraphList, workers: int) -> None:
    batches = list(DataLoader(graphs, batch_size=3, num_workers=workers))
    assert [batch.num_graphs for batch in batches] == [3, 1]
    assert batches[0].batch.tolist() == [0, 0, 0, 1] and batches[1].y.tolist() == [3]
    shuffled = DataLoader(graphs[:3], batch_size=3, shuffle=True, num_workers=workers)
    assert sorted(next(iter(shuffled)).smiles) == ["a", "b", "c"]


def test_parts_must_add_up() -> None:
    with pytest.raises(ValueError, match="x has 5 rows, not 4"):
        GraphList({"x": (torch.ones(5, 1), 0, torch.tensor([1, 3]))}, {}, 2)
    with pytest.raises(ValueError, match="x has parts for 2 graphs, not 3"):
        GraphList({"x": (torch.ones(4, 1), 0, torch.tensor([1, 3]))}, {}, 3)
