"""TU graph sets in both text forms: miniatures, folds, damage, an archive, PyG's reader."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.datasets import TUDataset

from graphattn.datasets import tu

GRAPHS = 23


def draw_graphs() -> list[tuple[int, list[tuple[int, int]], list[int], int]]:
    """(nodes, undirected edges, tags, label): single nodes, isolated nodes, a star among them."""
    draw = np.random.default_rng(8)
    graphs = []
    for number in range(GRAPHS):
        n = 1 if number == 4 else int(draw.integers(2, 8))
        pairs = [(i, j) for i in range(n) for j in range(i) if draw.random() < 0.4]
        if number == 9:
            n, pairs = 12, [(i, 0) for i in range(1, 12)]
        graphs.append((n, pairs, draw.integers(0, 3, n).tolist(), int(draw.integers(0, 2))))
    return graphs


def write_tu(folder: Path, name: str, **changes: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    texts: dict[str, list[str]] = {part: [] for part in ("A", *changes)}
    lists = {key: [] for key in ("graph_indicator", "graph_labels", "node_labels", "edge_labels")}
    texts |= lists | {"node_attributes": []}
    start = 1
    for number, (n, pairs, tags, label) in enumerate(draw_graphs()):
        for i, j in pairs:
            texts["A"] += [f"{start + i}, {start + j}", f"{start + j}, {start + i}"]
            texts["edge_labels"] += [str((i + j) % 2)] * 2
        texts["graph_indicator"] += [str(number + 1)] * n
        texts["graph_labels"].append(str([-1, 1][label]))
        texts["node_labels"] += map(str, tags)
        texts["node_attributes"] += [f"{tag + 0.5}, {tag - 0.25}" for tag in tags]
        start += n
    for part, lines in texts.items():
        text = changes.get(part, "\n".join(lines) + "\n")
        (folder / f"{name}_{part}.txt").write_text(text)


def write_gin(folder: Path, name: str, attributes: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [str(GRAPHS)]
    for n, pairs, tags, label in draw_graphs():
        lines.append(f"{n} {label * 2}")
        for node in range(n):
            near = [j for i, j in pairs if i == node] + [i for i, j in pairs if j == node]
            values = [tags[node] + 0.5, tags[node] - 0.25] if attributes else []
            lines.append(" ".join(map(str, [tags[node], len(near), *near, *values])))
    (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")


def write_folds(folder: Path) -> None:
    """Ten folds of two graphs: 20, 21 and 22 are in no test part."""
    folder.mkdir()
    order = np.random.default_rng(1).permutation(20)
    for k in range(10):
        test = order[2 * k : 2 * k + 2]
        np.savetxt(folder / f"test_idx-{k + 1}.txt", test, "%d")
        np.savetxt(folder / f"train_idx-{k + 1}.txt", np.setdiff1d(range(GRAPHS), test), "%d")


def same(ours: Data, theirs: Data, keys: tuple[str, ...]) -> None:
    for key in keys:
        if key == "edge_index":  # PyG sorts them
            assert sorted(ours[key].t().tolist()) == sorted(theirs[key].t().tolist())
        else:
            assert torch.equal(ours[key], theirs[key]), key


@pytest.mark.parametrize("attributes", [False, True])
def test_tu_form_equals_pyg(tmp_path: Path, attributes: bool) -> None:
    write_tu(tmp_path / "MUTAG" / "raw", "MUTAG")
    ours = tu.load("MUTAG", tmp_path, download=False, attributes=attributes)
    theirs = TUDataset(str(tmp_path), "MUTAG", use_node_attr=attributes)
    assert len(ours.graphs) == len(theirs) == GRAPHS and ours.num_classes == 2
    for mine, other in zip(ours.graphs, theirs, strict=True):
        same(mine, other, ("x", "edge_index", "y"))
        order, sort = (e[0] * 99 + e[1] for e in (mine.edge_index, other.edge_index))
        assert torch.equal(mine.edge_attr[order.argsort()], other.edge_attr[sort.argsort()])


def test_both_forms_agree(tmp_path: Path) -> None:
    write_tu(tmp_path / "one" / "NCI1" / "raw", "NCI1")
    write_gin(tmp_path / "two" / "NCI1", "NCI1", attributes=True)
    one, two = (
        tu.load("NCI1", tmp_path / root, download=False, attributes=True) for root in ("one", "two")
    )
    assert one.edge_note == two.edge_note
    for mine, other in zip(one.graphs, two.graphs, strict=True):
        same(mine, other, ("x", "edge_index", "y"))
    assert one.split_note == two.split_note == "ten stratified folds, seed 0"


def test_drawn_folds_cover_everything_once_and_are_stratified(tmp_path: Path) -> None:
    write_gin(tmp_path / "PTC", "PTC")
    found = tu.load("PTC", tmp_path, download=False, seed=2)
    tests = torch.cat([split["test"] for split in found.splits])
    assert tests.sort().values.tolist() == list(range(GRAPHS))
    labels = torch.cat([graph.y for graph in found.graphs])
    share = [int(labels[split["test"]].sum()) for split in found.splits]
    assert max(share) - min(share) <= 1
    for k, split in enumerate(found.splits):
        assert torch.cat(list(split.values())).sort().values.tolist() == list(range(GRAPHS))
        assert torch.equal(split["valid"], found.splits[(k + 1) % 10]["test"])


def test_published_folds(tmp_path: Path) -> None:
    folder = tmp_path / "PROTEINS"
    write_gin(folder, "PROTEINS")
    before = tu.load("PROTEINS", tmp_path, download=False)
    write_folds(folder / "10fold_idx")
    found = tu.load("PROTEINS", tmp_path, download=False)
    assert found.split_note == "ten published folds" and found.sources == before.sources
    for k, split in enumerate(found.splits):
        path = folder / "10fold_idx" / f"test_idx-{k + 1}.txt"
        assert split["test"].tolist() == sorted(np.loadtxt(path, int).tolist())
        assert {20, 21, 22} <= set(split["train"].tolist())
        assert [len(part) for part in split.values()] == [GRAPHS - 4, 2, 2]
    (folder / "10fold_idx" / "train_idx-7.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file train_idx-7\.txt"):
        tu.load("PROTEINS", tmp_path, download=False)


def test_without_node_labels(tmp_path: Path) -> None:
    folder = tmp_path / "IMDB-BINARY" / "raw"
    write_tu(folder, "IMDB-BINARY")
    for part in ("node_labels", "edge_labels", "node_attributes"):
        (folder / f"IMDB-BINARY_{part}.txt").unlink()
    found = tu.load("IMDB-BINARY", tmp_path, download=False)
    assert all(torch.equal(g.x, torch.ones(g.num_nodes, 1)) for g in found.graphs)
    assert "edge_attr" not in found.graphs[0]
    found = tu.load("IMDB-BINARY", tmp_path, download=False, features="degree", undirected=True)
    star = found.graphs[9].x
    assert int(star[0].argmax()) == star.shape[1] - 1 and star.sum(1).tolist() == [1] * 12
    with pytest.raises(ValueError, match="features must be one of labels, degree, got 'tags'"):
        tu.load("IMDB-BINARY", tmp_path, download=False, features="tags")


def test_regression_targets_and_edge_features_stay_directed(tmp_path: Path) -> None:
    targets = "".join(f"{i / 4}, {i}\n" for i in range(GRAPHS))
    write_tu(tmp_path / "DD" / "raw", "DD", graph_attributes=targets)
    found = tu.load("DD", tmp_path, download=False)
    assert found.task == "regression" and found.metric == "rmse" and found.num_classes == 2
    assert found.graphs[3].y.tolist() == [[0.75, 3.0]]
    with pytest.raises(ValueError, match="undirected=True would lose them"):
        tu.load("DD", tmp_path, download=False, undirected=True)


@pytest.mark.parametrize(
    ("part", "text", "message"),
    [
        ("graph_labels", "1\n-1\n", "listed graph by graph, for 2 graphs"),
        ("node_labels", "0\n1\n", "node_labels.txt has 2 lines, expected"),
        ("edge_labels", "0\n", "edge_labels.txt has 1 lines, expected"),
        ("A", "1, 2\n2,", r"_A\.txt .*delete it and fetch it again"),
        ("A", "", r"_A\.txt .*no numbers in it"),
        ("graph_indicator", "2\n1\n", "expected 2 for ENZYMES"),
        ("node_attributes", "1.0, 2.0\n1.0\n", "node_attributes.txt .*delete it"),
    ],
)
def test_damaged_tu_form(tmp_path: Path, part: str, text: str, message: str) -> None:
    write_tu(tmp_path / "ENZYMES" / "raw", "ENZYMES")
    (tmp_path / "ENZYMES" / "raw" / f"ENZYMES_{part}.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        tu.load("ENZYMES", tmp_path, download=False)


@pytest.mark.parametrize("edge", ["1, 9999", "0, 1", "1, 40"])
def test_edge_that_leaves_its_graph(tmp_path: Path, edge: str) -> None:
    folder = tmp_path / "NCI109" / "raw"
    write_tu(folder, "NCI109", A=f"{edge}\n")
    (folder / "NCI109_edge_labels.txt").unlink()
    with pytest.raises(ValueError, match="an edge of NCI109 leaves its graph or the"):
        tu.load("NCI109", tmp_path, download=False)


@pytest.mark.parametrize("cut", [0, 1, 30, -3])
def test_truncated_gin_form(tmp_path: Path, cut: int) -> None:
    write_gin(tmp_path / "MUTAG", "MUTAG")
    path = tmp_path / "MUTAG" / "MUTAG.txt"
    path.write_text(path.read_text()[:cut])
    with pytest.raises(ValueError, match=r"MUTAG\.txt.*(delete it|delete them)"):
        tu.load("MUTAG", tmp_path, download=False)


def test_missing_names_both_forms(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file MUTAG_A\.txt in .*or MUTAG/MUTAG\.txt"):
        tu.load("MUTAG", tmp_path, download=False)
    with pytest.raises(FileNotFoundError, match=r"no file PTC\.txt in .*put it there"):
        tu.load("PTC", tmp_path, download=True)


def test_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tu(tmp_path / "server" / "files", "COLLAB")
    parts = ("A", "graph_indicator", "graph_labels", "node_labels")
    with zipfile.ZipFile(tmp_path / "server" / "COLLAB.zip", "w") as members:
        for part in parts:
            file = f"COLLAB_{part}.txt"
            members.write(tmp_path / "server" / "files" / file, f"COLLAB/{file}")
    monkeypatch.setattr(tu, "_URL", (tmp_path / "server").as_uri())
    found = tu.load("COLLAB", tmp_path, download=True)
    names = {path.name for path in (tmp_path / "COLLAB" / "raw").iterdir()}
    assert len(found.graphs) == GRAPHS and names == {f"COLLAB_{part}.txt" for part in parts}


# name, folder, graphs, nodes, edges (both directions), features, classes
REAL = [
    ("ENZYMES", "tu", 600, 19580, 74564, 3, 6),
    ("PROTEINS_full", "tu", 1113, 43471, 162088, 3, 2),
    ("MUTAG", "tu_gin", 188, 3371, 7442, 7, 2),
    ("PROTEINS", "tu_gin", 1113, 43471, 162088, 3, 2),
    ("NCI1", "tu_gin", 4110, 122747, 265506, 37, 2),
]


@pytest.mark.shared_data
@pytest.mark.parametrize(("name", "folder", "graphs", "n", "e", "f", "c"), REAL)
def test_published_counts(
    data_root: Path, name: str, folder: str, graphs: int, n: int, e: int, f: int, c: int
) -> None:
    found = tu.load(name, data_root / folder, download=False)
    assert len(found.graphs) == graphs and found.num_classes == c
    assert sum(graph.num_nodes for graph in found.graphs) == n
    assert sum(graph.num_edges for graph in found.graphs) == e
    assert found.graphs[0].x.shape[1] == f and len(found.splits) == 10
    assert found.split_note.startswith("ten published" if folder == "tu_gin" else "ten stratified")
    for split in found.splits:
        assert torch.cat(list(split.values())).unique().numel() == graphs


@pytest.mark.shared_data
def test_enzymes_equals_pyg(data_root: Path, tmp_path: Path) -> None:
    shutil.copytree(data_root / "tu" / "ENZYMES" / "raw", tmp_path / "ENZYMES" / "raw")
    theirs = TUDataset(str(tmp_path), "ENZYMES", use_node_attr=True)
    ours = tu.load("ENZYMES", data_root / "tu", download=False, attributes=True)
    for mine, other in zip(ours.graphs, theirs, strict=True):
        same(mine, other, ("x", "edge_index", "y"))


@pytest.mark.shared_data
def test_proteins_is_the_same_in_both_forms(data_root: Path) -> None:
    one = tu.load("PROTEINS_full", data_root / "tu", download=False)
    two = tu.load("PROTEINS", data_root / "tu_gin", download=False)
    for mine, other in zip(one.graphs, two.graphs, strict=True):
        assert torch.equal(mine.x, other.x) and mine.num_edges == other.num_edges
