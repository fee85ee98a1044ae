"""Writes small graphs in OGB's official raw layouts: gzip csv, and npz for papers100M."""

import gzip
from pathlib import Path

import numpy as np

PARTS = ("train", "valid", "test")


def write_csv(path: Path, values: object, header: str = "") -> None:
    """One row a line, as OGB's files have it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [np.atleast_1d(row) for row in np.asarray(values)]
    lines = [header] * bool(header) + [",".join(map(str, row.tolist())) for row in rows]
    with gzip.open(path, "wt") as out:
        out.write("\n".join(lines) + "\n")


def write_splits(folder: Path, splits: list[np.ndarray]) -> None:
    for key, items in zip(PARTS, splits, strict=True):
        write_csv(folder / f"{key}.csv.gz", items)


def write_graph(folder: Path, edges: np.ndarray, num_nodes: int) -> None:
    """edges [E, 2] and the two counts."""
    write_csv(folder / "edge.csv.gz", edges)
    write_csv(folder / "num-node-list.csv.gz", [num_nodes])
    write_csv(folder / "num-edge-list.csv.gz", [len(edges)])


def write_arxiv(root: Path, num_nodes: int = 301, seed: int = 0) -> Path:
    """ogbn_arxiv: 128 features that tell the 40 classes, directed edges mostly within a class."""
    random = np.random.default_rng(seed)
    folder, labels = root / "ogbn_arxiv", random.permutation(num_nodes) % 40
    by_class = labels.argsort(kind="stable")
    position = random.integers(0, num_nodes, 3 * num_nodes)
    near = (position + random.integers(1, 6, len(position))) % num_nodes
    edges = np.unique(np.stack([by_class[position], by_class[near]], 1), axis=0)
    write_graph(folder / "raw", edges, num_nodes)
    centres = random.normal(size=(40, 128))
    features = centres[labels] + random.normal(size=(num_nodes, 128))
    write_csv(folder / "raw/node-feat.csv.gz", features.astype(np.float32).round(4))
    write_csv(folder / "raw/node-label.csv.gz", labels)
    write_csv(folder / "raw/node_year.csv.gz", 2010 + np.arange(num_nodes) * 11 // num_nodes)
    cuts = [round(num_nodes * 0.6), round(num_nodes * 0.8)]
    write_splits(folder / "split/time", np.split(np.arange(num_nodes), cuts))
    (folder / "RELEASE_v1.txt").write_text("")
    return folder


def write_products(root: Path) -> Path:
    """ogbn_products: 7 nodes, 100 integer-looking features, every edge once."""
    folder = root / "ogbn_products"
    write_graph(folder / "raw", np.array([[0, 1], [1, 2], [5, 2], [3, 3]]), 7)
    write_csv(folder / "raw/node-feat.csv.gz", np.arange(700).reshape(7, 100))
    write_csv(folder / "raw/node-label.csv.gz", [46, 0, 1, 2, 3, 4, 5])
    parts = [np.array([0, 1, 2]), np.array([3]), np.array([4, 5, 6])]
    write_splits(folder / "split/sales_ranking", parts)
    (folder / "RELEASE_v1.txt").write_text("")
    return folder


def write_proteins(root: Path, species: str = "node_species") -> Path:
    """ogbn_proteins: no node features, 8 edge features, 112 binary tasks."""
    folder, random = root / "ogbn_proteins", np.random.default_rng(0)
    write_graph(folder / "raw", np.array([[0, 1], [1, 4], [2, 3]]), 5)
    write_csv(folder / "raw/edge-feat.csv.gz", np.arange(24).reshape(3, 8) / 32)
    write_csv(folder / "raw/node-label.csv.gz", random.integers(0, 2, (5, 112)))
    write_csv(folder / f"raw/{species}.csv.gz", [3702, 3702, 4932, 4932, 6239])
    write_splits(folder / "split/species", [np.array([0, 1, 2]), np.array([3]), np.array([4])])
    (folder / "RELEASE_v1.txt").write_text("")
    return folder


def write_mag(root: Path) -> Path:
    """ogbn_mag: 2 authors, 3 fields, 1 institution, 4 papers, the four relations."""
    folder = root / "ogbn_mag"
    raw = folder / "raw"
    counts = {"author": 2, "field_of_study": 3, "institution": 1, "paper": 4}
    write_csv(raw / "num-node-dict.csv.gz", [list(counts.values())], ",".join(counts))
    relations = {
        "author___affiliated_with___institution": [[1, 0]],
        "author___writes___paper": [[0, 0], [1, 3], [1, 2]],
        "paper___cites___paper": [[0, 1], [1, 0], [3, 2]],
        "paper___has_topic___field_of_study": [[2, 2], [0, 1]],
    }
    triplets = [name.split("___") for name in reversed(relations)]
    write_csv(raw / "triplet-type-list.csv.gz", np.array(triplets))
    for number, (name, edges) in enumerate(relations.items()):
        write_csv(raw / "relations" / name / "edge.csv.gz", edges)
        write_csv(raw / "relations" / name / "num-edge-list.csv.gz", [len(edges)])
        write_csv(raw / "relations" / name / "edge_reltype.csv.gz", [number] * len(edges))
    features = np.arange(4 * 128).reshape(4, 128) / 64
    write_csv(raw / "node-feat/paper/node-feat.csv.gz", features)
    write_csv(raw / "node-feat/paper/node_year.csv.gz", [2015, 2017, 2018, 2019])
    write_csv(raw / "nodetype-has-label.csv.gz", [[False, False, False, True]], ",".join(counts))
    write_csv(raw / "node-label/paper/node-label.csv.gz", [348, 0, 7, 7])
    split = folder / "split/time"
    write_csv(split / "nodetype-has-split.csv.gz", [[False, False, False, True]], ",".join(counts))
    write_splits(split / "paper", [np.array([0, 1]), np.array([2]), np.array([3])])
    (folder / "RELEASE_v2.txt").write_text("")
    return folder


def write_papers(root: Path, num_nodes: int = 257, fortran: bool = True) -> Path:
    """ogbn_papers100M: data.npz and node-label.npz, most labels missing (NaN)."""
    folder, random = root / "ogbn_papers100M", np.random.default_rng(0)
    (folder / "raw").mkdir(parents=True)
    edges = random.integers(0, num_nodes, (2, 1003))
    np.savez_compressed(
        folder / "raw/data.npz",
        edge_index=np.asfortranarray(edges) if fortran else edges,
        node_feat=random.normal(size=(num_nodes, 128)).astype(np.float16),
        node_year=np.arange(num_nodes)[:, None],
        num_nodes_list=np.array([num_nodes]),
        num_edges_list=np.array([edges.shape[1]]),
    )
    labels = np.full((num_nodes, 1), np.nan, np.float32)
    labels[:180, 0] = np.arange(180) % 172
    np.savez_compressed(folder / "raw/node-label.npz", node_label=labels)
    write_splits(folder / "split/time", np.split(np.arange(180), [172, 176]))
    (folder / "RELEASE_v1.txt").write_text("")
    return folder
