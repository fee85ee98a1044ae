"""OGB node property prediction: arxiv, products, proteins, mag (homogeneous) and papers100M.

Edges follow OGB's readers: arxiv, mag and papers100M as in the file (directed), products and
proteins with inverse edges.  Hu et al., "Open Graph Benchmark", 2020.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from graphattn.datasets import cache, ogbn_papers
from graphattn.datasets.base import NodeDataset, edge_note, symmetrise
from graphattn.datasets.files import reading
from graphattn.datasets.metrics import evaluator
from graphattn.datasets.ogb_raw import RawFolder, add_inverse, class_labels, locate

if TYPE_CHECKING:
    from torch_geometric.data import Data

NAMES = ("ogbn-arxiv", "ogbn-products", "ogbn-proteins", "ogbn-mag", "ogbn-papers100M")
_TARGET = "paper"  # the only node type of ogbn-mag that has features, labels and splits


def load(name: str, root: Path, *, download: bool, undirected: bool, seed: int) -> NodeDataset:
    """Loads one set from OGB's raw files; the split is OGB's, whatever the seed.

    Args:
        name: One of ``NAMES``.
        root: The folder that holds ``ogbn_arxiv`` and the like.
        download: Fetch the set from OGB when its folder is missing.
        undirected: Add reverse edges and merge duplicates. For ogbn-mag the reverse of a relation
            between two node types is a relation of its own.
        seed: Not used.

    Returns:
        The data set. ogbn-proteins has ``edge_attr`` [E, 8] and ``node_species`` [N], no ``x``;
        ogbn-mag has ``node_type``, ``edge_type`` and their names, and zero features except for
        papers; the sets with dates have ``node_year`` (-1 = none).
    """
    raw = locate(name, root, download, "nodeproppred")
    if name == "ogbn-papers100M":
        # The catalogue looks under the same key, so nothing is copied a second time.
        folder = cache.entry(name, root, undirected=undirected, seed=0)
        return ogbn_papers.load(raw, folder, undirected)
    return _mag(raw, undirected) if name == "ogbn-mag" else _homogeneous(raw, undirected)


def _homogeneous(raw: RawFolder, undirected: bool) -> NodeDataset:
    from torch_geometric.data import Data

    num_nodes = int(raw.csv("raw/num-node-list.csv.gz")[0, 0])
    in_file = int(raw.csv("raw/num-edge-list.csv.gz")[0, 0])
    edges = raw.edges("raw/edge.csv.gz", in_file)
    attr = None
    if raw.info["has_edge_attr"] == "True":
        attr = raw.csv("raw/edge-feat.csv.gz", in_file).astype(np.float32)
    how = "as in the file"
    if raw.info["add_inverse_edge"] == "True":
        edges, how = add_inverse(edges), "with inverse edges, as OGB does"
        attr = None if attr is None else np.repeat(attr, 2, axis=0)
    edge_index, edge_attr = torch.from_numpy(edges), None if attr is None else _tensor(attr)
    if undirected:
        edge_index, edge_attr = symmetrise(edge_index, num_nodes, edge_attr)
        how = "symmetrised, duplicates merged"
    data = Data(edge_index=edge_index, y=_labels(raw, num_nodes), num_nodes=num_nodes)
    data.x = None
    if raw.info["has_node_attr"] == "True":
        data.x = _tensor(raw.csv("raw/node-feat.csv.gz", num_nodes))
    if edge_attr is not None:
        data.edge_attr = edge_attr
    for key in _node_files(raw):
        data[key] = torch.from_numpy(_node_file(raw, key, num_nodes)[:, 0].astype(np.int64))
    return _dataset(raw, data, edge_note(raw.name, in_file, edge_index.shape[1], how))


def _dataset(raw: RawFolder, data: Data, note: str, part: str = "", offset: int = 0) -> NodeDataset:
    splits = [{k: v + offset for k, v in split.items()} for split in raw.splits(part)]
    tasks = int(raw.info["num tasks"])
    return NodeDataset(
        data=data,
        splits=splits,
        metric=raw.info["eval metric"],
        evaluate=evaluator(f"ogb:{raw.name}"),
        name=raw.name,
        num_classes=tasks if tasks > 1 else int(raw.info["num classes"]),
        task="multilabel" if tasks > 1 else "multiclass",
        split_note=f"official split (by {raw.info['split'].replace('_', ' ')})",
        edge_note=note,
        sources=tuple(raw.sources),
    )


def _labels(raw: RawFolder, num_nodes: int) -> Tensor:
    values = raw.csv("raw/node-label.csv.gz", num_nodes)
    if int(raw.info["num tasks"]) > 1:
        return torch.from_numpy(values.astype(np.float32))
    return class_labels(values)


def _node_files(raw: RawFolder) -> list[str]:
    files = raw.info["additional node files"]
    return [] if files == "None" else files.split(",")


def _node_file(raw: RawFolder, key: str, num_nodes: int) -> np.ndarray:
    """OGB renames species.csv.gz to node_species.csv.gz on first use; we read either."""
    if key == "node_species" and not (raw.path / "raw/node_species.csv.gz").exists():
        key = "species"
    return raw.csv(f"raw/{key}.csv.gz", num_nodes)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _mag(raw: RawFolder, undirected: bool) -> NodeDataset:
    """Node types in alphabetical order, one id range each; edge types are the sorted triplets."""
    from torch_geometric.data import Data

    counts = _node_counts(raw)
    starts = dict(zip(counts, np.cumsum([0, *counts.values()]).tolist(), strict=False))
    edge_index, edge_type, names = _relations(raw, starts)
    in_file, how = edge_index.shape[1], "as in the file"
    if undirected:
        edge_index, edge_type, names = _reverse_relations(edge_index, edge_type, names, counts)
        how = "with reverse relations"
    data = Data(edge_index=edge_index, edge_type=edge_type, num_nodes=sum(counts.values()))
    papers, begin = counts[_TARGET], starts[_TARGET]
    features = raw.csv(f"raw/node-feat/{_TARGET}/node-feat.csv.gz", papers)
    data.x = torch.zeros(data.num_nodes, features.shape[1])
    data.x[begin : begin + papers] = _tensor(features)
    sizes = torch.tensor(list(counts.values()))
    data.node_type = torch.arange(len(counts)).repeat_interleave(sizes)
    data.y = torch.full((data.num_nodes,), -1)
    labels = raw.csv(f"raw/node-label/{_TARGET}/node-label.csv.gz", papers)
    data.y[begin : begin + papers] = class_labels(labels)
    years = raw.optional_csv(f"raw/node-feat/{_TARGET}/node_year.csv.gz", papers)
    if years is not None:
        data.node_year = torch.full((data.num_nodes,), -1)
        data.node_year[begin : begin + papers] = class_labels(years)
    data.node_type_names, data.edge_type_names = list(counts), ["___".join(name) for name in names]
    note = edge_note(raw.name, in_file, edge_index.shape[1], how)
    return _dataset(raw, data, note, _TARGET, begin)


def _node_counts(raw: RawFolder) -> dict[str, int]:
    import pandas

    path = raw.file("raw/num-node-dict.csv.gz")
    with reading(path):
        table = pandas.read_csv(path)
        counts = {str(key): int(table[key].iloc[0]) for key in sorted(table.columns)}
    if _TARGET not in counts:
        raise ValueError(f"{path} lists {', '.join(counts)}, expected a node type {_TARGET!r}")
    return counts


Triplet = tuple[str, str, str]


def _relations(raw: RawFolder, starts: dict[str, int]) -> tuple[Tensor, Tensor, list[Triplet]]:
    import pandas

    path = raw.file("raw/triplet-type-list.csv.gz")
    with reading(path):
        table = pandas.read_csv(path, header=None).values.tolist()
        triplets = sorted((str(head), str(link), str(tail)) for head, link, tail in table)
    edges, types = [], []
    for number, (head, link, tail) in enumerate(triplets):
        folder = f"raw/relations/{head}___{link}___{tail}"
        count = int(raw.csv(f"{folder}/num-edge-list.csv.gz")[0, 0])
        pairs = raw.edges(f"{folder}/edge.csv.gz", count)
        edges.append(pairs + np.array([[starts[head]], [starts[tail]]]))
        types.append(np.full(count, number))
    both = torch.from_numpy(np.concatenate(edges, 1))
    return both, torch.from_numpy(np.concatenate(types)), triplets


def _reverse_relations(
    edge_index: Tensor, edge_type: Tensor, names: list[Triplet], counts: dict[str, int]
) -> tuple[Tensor, Tensor, list[Triplet]]:
    """Symmetrises relations within one node type and gives every other one a reverse relation."""
    edges, types, names = [], [], list(names)
    for number, (head, link, tail) in enumerate(tuple(names)):
        pairs = edge_index[:, edge_type == number]
        if head == tail:
            pairs, _ = symmetrise(pairs, sum(counts.values()))
        else:
            edges.append(pairs.flip(0))
            types.append(torch.full((pairs.shape[1],), len(names)))
            names.append((tail, f"rev_{link}", head))
        edges.append(pairs)
        types.append(torch.full((pairs.shape[1],), number))
    return torch.cat(edges, 1), torch.cat(types), names
