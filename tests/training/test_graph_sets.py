"""Sets of graphs: the union, the batches cut out of it, and training on them."""

from pathlib import Path

import pytest
import torch
from torch_geometric.data import Batch, Data

from graphattn.datasets.base import GraphDataset, NodeDataset
from graphattn.datasets.metrics import evaluator
from graphattn.training.build import prepare
from graphattn.training.config import TrainConfig
from graphattn.training.evaluate import evaluate_run
from graphattn.training.graph_sets import as_union, cut_out, one_hot
from graphattn.training.inputs import graph_of
from graphattn.training.loop import Trainer
from graphattn.training.presets import preset
from graphattn.training.run import train_run


def ring_or_star(number: int) -> Data:
    """Odd numbers are rings and even ones stars, of 4 to 8 nodes; the last node has no name."""
    size = 4 + number % 5
    near = torch.arange(size)
    far = (near + 1) % size if number % 2 else torch.zeros(size, dtype=torch.int64)
    pairs = torch.stack([near, far])
    edges = torch.cat([pairs, pairs.flip(0)], 1)
    x = torch.nn.functional.one_hot(near, 9).float() + number / 100
    return Data(x, edges, y=torch.tensor([number % 2]))


def shapes(count: int = 40) -> GraphDataset:
    order = torch.arange(count)
    splits = [{"train": order[:24], "valid": order[24:32], "test": order[32:]} for _ in range(2)]
    graphs = [ring_or_star(number) for number in range(count)]
    return GraphDataset(graphs, splits, "acc", evaluator("acc"), "shapes", 2)


@pytest.fixture
def sets(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """A configuration whose data set is ``shapes``."""
    found = shapes()
    monkeypatch.setattr("graphattn.datasets.catalogue.load_dataset", lambda *_, **__: found)
    config.data.name, config.sampling.batch_size, config.sampling.threads = "shapes", 8, 0
    config.model.name, config.model.options = "sinc", {"impl": "reference"}
    return config


def test_batches_are_those_of_pyg() -> None:
    dataset = shapes()
    union, chosen = as_union(dataset), torch.tensor([7, 0, 33, 7])
    graph, rows, batch = cut_out(graph_of(union), union.data.graph_ptr, chosen)
    want = Batch.from_data_list([dataset.graphs[int(i)] for i in chosen])
    assert torch.equal(union.data.x[rows], want.x) and torch.equal(batch, want.batch)
    found = {tuple(pair) for pair in graph.edge_index().t().tolist()}
    assert found == {tuple(pair) for pair in want.edge_index.t().tolist()}
    assert graph.num_edges == want.num_edges and graph.num_cols == want.num_nodes
    assert (graph.indices.diff()[graph.row_index().diff() == 0] >= 0).all()


def test_labels_and_splits_are_of_graphs() -> None:
    dataset = shapes()
    union = as_union(dataset)
    assert isinstance(union, NodeDataset) and union.splits is dataset.splits
    assert union.data.y.tolist() == [number % 2 for number in range(40)]
    tasks = [Data(torch.ones(2, 1), torch.zeros(2, 0).long(), y=torch.rand(1, 3)) for _ in "ab"]
    several = GraphDataset(tasks, [], "rmse", evaluator("rmse"), "several", 3, "regression")
    assert as_union(several).data.y.shape == (2, 3)


def test_a_linear_map_of_categories_is_a_sum_of_embeddings() -> None:
    categories = torch.tensor([[2, 0], [0, 3], [1, 1]])
    found, weight = one_hot(categories), torch.randn(7, 5)
    want = weight[:3][categories[:, 0]] + weight[3:][categories[:, 1]]
    assert found.dtype == torch.uint8 and torch.equal(found.float() @ weight, want)


@pytest.mark.parametrize("model", ["gt", "gin-attention", "pna-attention", "tangnn", "sinc", "gcn"])
def test_trains_and_evaluates_again(sets: TrainConfig, tmp_path: Path, model: str) -> None:
    sets.model.name, sets.loop.epochs = model, 2
    sets.model.options = {} if model == "gcn" else {"impl": "reference"}
    result = train_run(sets, tmp_path)
    again = evaluate_run(sets, tmp_path)
    assert [again[part] for part in ("train", "valid", "test")] == [
        result[part] for part in ("train", "valid", "test")
    ]


def test_learns_what_single_nodes_do_not_show(sets: TrainConfig, tmp_path: Path) -> None:
    sets.loop.epochs, sets.optim.lr, sets.model.dropout = 30, 1e-2, 0.0
    assert train_run(sets, tmp_path)["test"] == 1.0


def test_an_output_does_not_depend_on_its_batch(sets: TrainConfig) -> None:
    run = prepare(sets)
    run.model.eval()
    with torch.no_grad():
        every = run.inputs.outputs(run.model, run.model)
        few = run.inputs.outputs(run.model, run.model, torch.tensor([31, 2]))
    assert every.shape == (40, 2)
    torch.testing.assert_close(few, every[[31, 2]], rtol=1e-5, atol=1e-6)


def test_without_a_batch_size_an_epoch_is_one_step(sets: TrainConfig) -> None:
    sets.sampling.batch_size = 0
    run = prepare(sets)
    steps = list(run.inputs.steps(run.supervision.train, 0))
    assert len(steps) == 1 and len(steps[0].places) == 24
    trainer = Trainer(run.model, run.inputs, run.supervision, sets)
    assert trainer.run_epoch()["loss"] > 0


def test_random_walks_stay_in_their_graph(sets: TrainConfig) -> None:
    sets.encoding.kind, sets.encoding.k = "random-walk", 3
    pe = prepare(sets).inputs.pe
    assert pe is not None and pe.shape[1] == 3
    sets.encoding.kind = "laplacian"
    with pytest.raises(ValueError, match=r"set of graphs; use --encoding\.kind random-walk"):
        prepare(sets)


def test_what_cannot_be_trained_says_so(sets: TrainConfig) -> None:
    sets.model.name, sets.model.options = "large-gt", {}
    with pytest.raises(ValueError, match="cannot be built with .*'pool'"):
        prepare(sets)
    empty = GraphDataset([], [], "acc", evaluator("acc"), "none", 2)
    with pytest.raises(ValueError, match="none holds no graphs"):
        as_union(empty)
    bare = Data(edge_index=torch.tensor([[0], [1]]), num_nodes=2, y=torch.tensor([0]))
    with pytest.raises(ValueError, match="no node features"):
        as_union(GraphDataset([bare], [], "acc", evaluator("acc"), "bare", 2))
    hollow = Data(x=torch.zeros(0, 3), edge_index=torch.zeros(2, 0).long(), y=torch.tensor([0]))
    with pytest.raises(ValueError, match=r"hollow: expected graphs with nodes, got none"):
        as_union(GraphDataset([hollow], [], "acc", evaluator("acc"), "hollow", 2))


def test_presets_know_sets_of_graphs() -> None:
    for name in ("MUTAG", "NCI1", "ogbg-molbace", "IMDB-BINARY"):
        assert preset(name, "gin-attention")["sampling.batch_size"] == 64
    assert preset("ENZYMES", "sinc")["model.heads"] == 1
    # A folder may be called as it likes: only whole names of sets count.
    for name in ("minesweeper", "dd-of-mine"):
        assert "sampling.batch_size" not in preset(name, "gt")
