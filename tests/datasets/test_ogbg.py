"""OGB graph sets: a small folder in the raw layout, and the real sets against OGB's reader."""

from pathlib import Path

import numpy as np
import pytest
import torch

from graphattn.datasets.base import GraphDataset
from graphattn.datasets.catalogue import load_dataset
from tests.datasets.ogb_layout import write_csv, write_splits


def write_molecules(root: Path, name: str = "ogbg_moltox21", tasks: int = 12) -> Path:
    """Four molecules of 3, 1, 2 and 4 atoms; the second has no bond; some labels are missing."""
    folder, random = root / name, np.random.default_rng(0)
    bonds = np.array([[0, 1], [1, 2], [1, 0], [0, 3], [3, 2], [2, 1]])
    write_csv(folder / "raw/edge.csv.gz", bonds)
    write_csv(folder / "raw/edge-feat.csv.gz", random.integers(0, 3, (6, 3)))
    write_csv(folder / "raw/node-feat.csv.gz", random.integers(0, 9, (10, 9)))
    write_csv(folder / "raw/num-node-list.csv.gz", [3, 1, 2, 4])
    write_csv(folder / "raw/num-edge-list.csv.gz", [2, 0, 1, 3])
    labels = random.integers(0, 2, (4, tasks)).astype(float)
    labels[0, : tasks // 2] = np.nan
    write_csv(folder / "raw/graph-label.csv.gz", labels)
    write_splits(folder / "split/scaffold", [np.array([0, 2]), np.array([3]), np.array([1])])
    (folder / "RELEASE_v1.txt").write_text("")
    return folder


def check_against_ogb(dataset: GraphDataset, folder: Path) -> None:
    from ogb.io.read_graph_raw import read_csv_graph_raw

    graphs = read_csv_graph_raw(str(folder / "raw"), add_inverse_edge=True)
    assert len(graphs) == len(dataset.graphs)
    for ours, theirs in zip(dataset.graphs, graphs, strict=True):
        np.testing.assert_array_equal(ours.x.numpy(), theirs["node_feat"])
        np.testing.assert_array_equal(ours.edge_index.numpy(), theirs["edge_index"])
        np.testing.assert_array_equal(ours.edge_attr.numpy(), theirs["edge_feat"])


def test_small_folder(tmp_path: Path) -> None:
    folder = write_molecules(tmp_path)
    first = load_dataset("ogbg-moltox21", tmp_path, download=False)
    for dataset in (first, load_dataset("ogbg-moltox21", tmp_path, download=False)):
        assert isinstance(dataset, GraphDataset)
        check_against_ogb(dataset, folder)
        assert dataset.task == "multilabel" and dataset.num_classes == 12
        assert dataset.graphs[1].edge_index.shape == (2, 0) and dataset.graphs[1].num_nodes == 1
        assert dataset.graphs[0].y.shape == (1, 12) and dataset.graphs[0].y[0, :6].isnan().all()
        assert dataset.splits[0]["train"].tolist() == [0, 2]
    labels = torch.cat([graph.y for graph in first.graphs])
    assert 0 <= first.evaluate(torch.randn(4, 12), labels) <= 1


def test_wrong_counts(tmp_path: Path) -> None:
    folder = write_molecules(tmp_path)
    write_csv(folder / "raw/num-edge-list.csv.gz", [2, 0, 1, 4])
    with pytest.raises(ValueError, match=r"edge\.csv\.gz has 6 rows, expected 7"):
        load_dataset("ogbg-moltox21", tmp_path, download=False)


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "count", "task", "metric"),
    [
        ("molbace", 1513, "binary", "rocauc"),
        ("molbbbp", 2039, "binary", "rocauc"),
        ("molesol", 1128, "regression", "rmse"),
        ("molfreesolv", 642, "regression", "rmse"),
    ],
)
def test_real_sets(data_root: Path, name: str, count: int, task: str, metric: str) -> None:
    dataset = load_dataset(f"ogbg-{name}", data_root / "ogb", download=False)
    assert isinstance(dataset, GraphDataset)
    assert len(dataset.graphs) == count and dataset.task == task and dataset.metric == metric
    assert sum(len(items) for items in dataset.splits[0].values()) == count
    labels = torch.cat([graph.y for graph in dataset.graphs])
    assert dataset.evaluate(labels.float(), labels) == (1.0 if task == "binary" else 0.0)
    if name == "molfreesolv":
        check_against_ogb(dataset, data_root / "ogb/ogbg_molfreesolv")
