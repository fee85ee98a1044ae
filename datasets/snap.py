"""Edge lists of SNAP (Leskovec & Krevl 2014): graphs without features, labels or splits.

Two forms are read: gzip text ``<name>.jlg`` (a header ``nodes,edges,d|u,...`` and 1-based lines
``source,target``) and SNAP's own ``<Name>.txt.gz`` (comment lines with ``#``, then ids separated
by white space).  A graph marked undirected (``u``, or "Undirected graph" in the comments) has each
edge once in the file and is returned in both directions; others are as in the file.  Self-loops
and duplicate edges stay, but symmetrising merges duplicates.
"""

from __future__ import annotations

import gzip
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple, TextIO

import torch
from torch import Tensor

from graphattn.datasets.assemble import Stored, node_dataset
from graphattn.datasets.base import NodeDataset
from graphattn.datasets.decode import numbers
from graphattn.datasets.files import reading
from graphattn.datasets.layouts import Remote, obtain

_JLG = "https://github.com/JuliaGraphs/SNAPDatasets.jl/raw/master/data"
_SNAP = "https://snap.stanford.edu/data"
_COMMUNITIES = "bigdata/communities"
# name -> folder of the .jlg form, path of SNAP's own form; "" where there is none.
_FORMS = {
    "arxiv-cit-hep-ph": ("arxiv_cit", "cit-HepPh"),
    "arxiv-cit-hep-th": ("arxiv_cit", "cit-HepTh"),
    "as-caida20071105": ("as-caida", ""),
    "astro-ph-cc1": ("ca-astroph", ""),
    "ca-condmat-cc1": ("ca-condmat", ""),
    "ego-twitter-undirected": ("ego-twitter", ""),
    "email-enron": ("email-enron", "email-Enron"),
    "email-enron-cc1": ("email-enron", ""),
    "facebook-combined": ("facebook-combined", ""),
    "soc-slashdot0902-directed": ("soc-slashdot0902", "soc-Slashdot0902"),
    "soc-slashdot0902-undirected": ("soc-slashdot0902", ""),
    "ca-AstroPh": ("", "ca-AstroPh"),
    "ca-GrQc": ("", "ca-GrQc"),
    "soc-Epinions1": ("", "soc-Epinions1"),
    "soc-LiveJournal1": ("", "soc-LiveJournal1"),
    "soc-Slashdot0811": ("", "soc-Slashdot0811"),
    "wiki-Vote": ("", "wiki-Vote"),
    "com-amazon": ("", f"{_COMMUNITIES}/com-amazon.ungraph"),
    "com-dblp": ("", f"{_COMMUNITIES}/com-dblp.ungraph"),
    "com-youtube": ("", f"{_COMMUNITIES}/com-youtube.ungraph"),
}

NAMES = tuple(_FORMS)


class EdgeList(NamedTuple):
    """What a file says: int64 [2, E], number of nodes, undirected or not."""

    edge_index: Tensor
    num_nodes: int
    undirected: bool


def load(
    name: str,
    root: str | Path,
    *,
    download: bool = True,
    undirected: bool = False,
    seed: int = 0,
) -> NodeDataset:
    """Loads ``<root>/<name>.jlg`` or ``<root>/<Name>.txt.gz`` (also under ``<root>/<name>/raw``).

    Args:
        name: One of ``NAMES``.
        root: Folder that holds the file.
        download: Fetch a missing file.
        undirected: Symmetrise a directed graph.
        seed: No effect: there are no splits.

    Returns:
        A record without features and splits; y is -1 everywhere (no label), num_classes 0.  Nodes
        of the .txt.gz form are renumbered 0..N-1 in the order of their ids (a node without edges
        is not in such a file); ``data.original_id`` int64 [N] has the ids.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is damaged, or its header declares another number of edges.
    """
    del seed
    (path,) = obtain(name, root, _layouts(name), download=download)
    original = None
    if path.name.endswith(".txt.gz"):
        edges, original = _read_txt(path)
    else:
        edges = _read_jlg(path)
    stored: Stored = "once" if edges.undirected else "as in the file"
    dataset = node_dataset(
        name,
        edge_index=edges.edge_index,
        num_nodes=edges.num_nodes,
        splits=([], "no splits: the set has no labels"),
        sources=[path],
        y=torch.full((edges.num_nodes,), -1),
        stored=stored,
        undirected=undirected,
    )
    if original is not None:
        dataset.data.original_id = original
    return dataset


def _layouts(name: str) -> list[list[Remote]]:
    folder, snap = _FORMS[name]
    found = []
    if folder:
        found.append((f"{name}.jlg", f"{_JLG}/{folder}/{name}.jlg"))
    if snap:
        found.append((f"{Path(snap).name}.txt.gz", f"{_SNAP}/{snap}.txt.gz"))
    return [[Remote(place + f, url)] for f, url in found for place in ("", f"{name}/raw/")]


def _read_jlg(path: Path) -> EdgeList:
    with reading(path), gzip.open(path, "rt", encoding="utf-8") as stream:
        nodes, declared, kind, *_ = stream.readline().strip().split(",")
        edges = _table(stream, ",") - 1
    if edges.shape[1] != int(declared):
        raise ValueError(
            f"{path} declares {int(declared):,} edges and holds {edges.shape[1]:,}; delete it and "
            "load again"
        )
    return EdgeList(edges, int(nodes), kind == "u")


def _read_txt(path: Path) -> tuple[EdgeList, Tensor]:
    with reading(path), gzip.open(path, "rt", encoding="utf-8") as stream:
        comments = list(takewhile(lambda line: line.startswith("#"), stream))
    with reading(path), gzip.open(path, "rt", encoding="utf-8") as stream:
        edges = _table(stream, None)
    ids, renumbered = edges.unique(return_inverse=True)
    undirected = any("undirected graph" in line.lower() for line in comments)
    return EdgeList(renumbered, len(ids), undirected), ids


def _table(stream: TextIO, delimiter: str | None) -> Tensor:
    table = numbers(stream, delimiter=delimiter, usecols=(0, 1))
    return torch.from_numpy(table.T.copy())
