import math

import pytest
import torch
from torch_geometric.data import Data

from graphattn.datasets.base import NodeDataset
from graphattn.datasets.metrics import evaluator
from graphattn.graph import CSRGraph
from graphattn.training.config import TrainConfig
from graphattn.training.info import describe_data, describe_graph, homophily
from graphattn.training.inputs import load_nodes


def test_graph_facts_by_hand() -> None:
    edge_index = torch.tensor([[0, 0, 1, 2, 2], [1, 1, 0, 2, 0]])
    facts = describe_graph(CSRGraph.from_edge_index(edge_index, 4))
    assert (facts["nodes"], facts["edges"], facts["edges after symmetrisation"]) == (4, 5, 5)
    assert (facts["self-loops"], facts["duplicate edges"], facts["isolated nodes"]) == (1, 1, 1)
    assert facts["degree min / median / max"] == "0 / 1 / 2"
    assert facts["directed"] is True


def test_homophily_by_hand() -> None:
    # A path a - a - b with an unlabelled node hanging on b: one of two edges agrees.
    edge_index = torch.tensor([[0, 1, 3, 1], [1, 2, 2, 1]])
    graph = CSRGraph.from_edge_index(edge_index, 4)
    edge, adjusted = homophily(graph, torch.tensor([0, 0, 1, -1]), 2)
    chance = (3 / 4) ** 2 + (1 / 4) ** 2
    assert (edge, adjusted) == pytest.approx((0.5, (0.5 - chance) / (1 - chance)))


def test_homophily_that_is_undefined() -> None:
    graph = CSRGraph.from_edge_index(torch.tensor([[0], [1]]), 2)
    one_class = homophily(graph, torch.tensor([0, 0]), 1)
    assert one_class[0] == 1.0
    assert math.isnan(one_class[1])
    assert all(math.isnan(value) for value in homophily(graph, torch.tensor([0, -1]), 2))


def test_data_facts(config: TrainConfig) -> None:
    facts = describe_data(load_nodes(config.data))
    assert facts["classes"] == "2 (0: 96, 1: 24)"
    assert facts["splits"] == "2 of 60 / 30 / 30 (train / valid / test)"
    assert (facts["nodes"], facts["features"], facts["directed"]) == (120, 7, False)


def test_edge_list_without_labels() -> None:
    data = Data(edge_index=torch.tensor([[0], [1]]), num_nodes=2)
    facts = describe_data(NodeDataset(data, [], "acc", evaluator("acc"), "bare", 0))
    assert facts["task"] == "none (no labels)"
    assert facts["features"] == "none"


def test_labels_that_are_all_unknown_and_no_splits() -> None:
    data = Data(edge_index=torch.tensor([[0], [1]]), num_nodes=2, y=torch.tensor([-1, -1]))
    dataset = NodeDataset(data, [], "acc", evaluator("acc"), "bare", 0)
    assert describe_data(dataset)["task"] == "none (no labels)"
    data.y = torch.tensor([0, 1])
    dataset = NodeDataset(data, [], "acc", evaluator("acc"), "bare", 2)
    assert describe_data(dataset)["splits"] == "none"
