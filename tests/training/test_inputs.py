import pytest
import torch
from torch_geometric.data import Data

from graphattn.datasets.base import GraphDataset, NodeDataset
from graphattn.datasets.metrics import evaluator
from graphattn.graph import CSRGraph
from graphattn.training import inputs
from graphattn.training.build import build_model, check_values, pick_device, prepare
from graphattn.training.config import EncodingConfig, ModelConfig, TrainConfig


def tiny(**fields: torch.Tensor) -> NodeDataset:
    """Node 2 receives two edges, node 0 none, node 1 has a self-loop."""
    edge_index = torch.tensor([[0, 1, 1], [2, 2, 1]])
    data = Data(edge_index=edge_index, num_nodes=3, y=torch.tensor([0, 1, 0]), **fields)
    part = torch.tensor([0])
    split = {"train": part, "valid": part + 1, "test": part + 2}
    return NodeDataset(data, [split], "acc", evaluator("acc"), "tiny", 2)


def test_rows_are_normalised() -> None:
    x = torch.tensor([[1.0, 3.0], [0.0, 0.0], [2.0, 2.0]])
    expected = torch.tensor([[0.25, 0.75], [0.0, 0.0], [0.5, 0.5]])
    assert torch.equal(inputs.features(tiny(x=x), normalize=True), expected)
    assert torch.equal(inputs.features(tiny(x=x), normalize=False), x)


def test_edge_features_stand_in_for_node_features() -> None:
    attr = torch.tensor([[1.0], [3.0], [5.0]])
    assert inputs.features(tiny(edge_attr=attr), False).tolist() == [[0.0], [5.0], [2.0]]
    with pytest.raises(ValueError, match="neither node nor edge features; set data.x"):
        inputs.features(tiny(), False)


@pytest.mark.parametrize(
    ("choice", "wanted", "edges"),
    [
        ("auto", True, 5),
        ("auto", False, 3),
        ("add", False, 5),
        ("remove", True, 2),
        ("keep", True, 3),
    ],
)
def test_self_loops(choice: str, wanted: bool, edges: int) -> None:
    graph = CSRGraph.from_edge_index(tiny().data.edge_index, 3)
    looped = inputs.with_self_loops(graph, choice, wanted)
    assert looped.num_edges == edges
    with pytest.raises(ValueError, match="auto, add, remove or keep, got 'yes'"):
        inputs.with_self_loops(graph, "yes", wanted)


def test_edge_counts_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    inputs.attended("tiny", CSRGraph.from_edge_index(tiny().data.edge_index, 3), "auto", True)
    said = capsys.readouterr().err
    assert "3 edges (directed; --data.undirected true" in said
    assert "attends over 5" in said


def test_splits_that_cannot_be_trained_on() -> None:
    dataset = tiny()
    with pytest.raises(ValueError, match=r"splits 0\.\.0, got data\.split 1"):
        inputs.select_split(dataset, 1)
    dataset.splits[0]["valid"] = torch.empty(0, dtype=torch.int64)
    with pytest.raises(ValueError, match="no validation nodes"):
        inputs.select_split(dataset, 0)
    dataset.data.y = None
    with pytest.raises(ValueError, match="no labels to train on"):
        inputs.select_split(dataset, 0)


def test_graph_sets_are_refused(monkeypatch: pytest.MonkeyPatch, config: TrainConfig) -> None:
    one = Data(torch.zeros(2, 3), torch.zeros(2, 0, dtype=torch.int64), y=torch.tensor([0]))
    graphs = GraphDataset([one], [], "acc", evaluator("acc"), "graphs", 2)
    monkeypatch.setattr("graphattn.datasets.catalogue.load_dataset", lambda *_, **__: graphs)
    with pytest.raises(ValueError, match="a set of graphs"):
        inputs.load_nodes(config.data)


@pytest.mark.parametrize("kind", ["laplacian", "random-walk"])
def test_encoding_reaches_the_model(config: TrainConfig, kind: str) -> None:
    config.encoding = EncodingConfig(kind=kind, k=5)  # type: ignore[arg-type]
    run = prepare(config)
    pe = run.inputs.pe
    assert pe is not None
    assert pe.shape == (120, 5)
    flipped = run.inputs.train_pe()
    assert flipped is not None
    assert torch.allclose(flipped.abs(), pe.abs())
    assert run.model(run.inputs.x, run.inputs.graph, flipped).shape == (120, 1)


def test_directed_graph_has_no_laplacian_encoding() -> None:
    graph = CSRGraph.from_edge_index(tiny().data.edge_index, 3)
    with pytest.raises(ValueError, match=r"--data\.undirected true"):
        inputs.positional_encoding(graph, EncodingConfig(kind="laplacian", k=1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dropout": 1.5}, r"model\.dropout below 1, got 1\.5"),
        ({"dropout": -0.1}, r"model\.dropout of at least 0, got -0\.1"),
        ({"layers": -2}, r"model\.layers of at least 1, got -2"),
        ({"heads": 0}, r"model\.heads of at least 1"),
        ({"heads": 12, "width": 64}, r"model\.width divisible .*64 and 12; set --model\.heads 8"),
        ({"name": "gct"}, "no model 'gct'"),
    ],
)
def test_model_settings_out_of_range(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_values(TrainConfig(model=ModelConfig(**settings)))
    check_values(TrainConfig(model=ModelConfig(name="gcn", heads=7, width=64)))


def test_unknown_model_and_option() -> None:
    with pytest.raises(ValueError, match="no model 'gct'; did you mean gat, gcn|gt"):
        build_model(ModelConfig(name="gct"), 7, 1)
    with pytest.raises(ValueError, match="'gt'.*cannot be built.*depth"):
        build_model(ModelConfig(options={"depth": 3}), 7, 1)


def test_counts_and_device(config: TrainConfig) -> None:
    config.loop.epochs = 0
    with pytest.raises(ValueError, match=r"loop\.epochs of at least 1, got 0"):
        check_values(config)
    with pytest.raises(ValueError, match="got 'gpu'"):
        pick_device("gpu")
    if not torch.cuda.is_available():
        assert pick_device("auto").type == "cpu"
        with pytest.raises(ValueError, match="finds no CUDA device"):
            pick_device("cuda:0")
