"""``load_dataset``: every data set by name, in one table."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from graphattn.datasets import cache
from graphattn.datasets.base import (
    GraphDataset,
    NodeDataset,
    announce,
    check_edges,
    check_features,
)
from graphattn.datasets.splits import check_labels, check_splits

CATALOGUE: dict[str, str] = {
    "minesweeper-generated": "generated",
    "ogbn-arxiv": "ogbn",
    "ogbn-products": "ogbn",
    "ogbn-proteins": "ogbn",
    "ogbn-mag": "ogbn",
    "ogbn-papers100M": "ogbn",
    "ogbg-molbace": "ogbg",
    "ogbg-molbbbp": "ogbg",
    "ogbg-molclintox": "ogbg",
    "ogbg-molmuv": "ogbg",
    "ogbg-molpcba": "ogbg",
    "ogbg-molsider": "ogbg",
    "ogbg-moltox21": "ogbg",
    "ogbg-moltoxcast": "ogbg",
    "ogbg-molhiv": "ogbg",
    "ogbg-molesol": "ogbg",
    "ogbg-molfreesolv": "ogbg",
    "ogbg-mollipo": "ogbg",
    "ogbg-molchembl": "ogbg",
    "Cora": "planetoid",
    "CiteSeer": "planetoid",
    "PubMed": "planetoid",
    "roman-empire": "heterophilous",
    "amazon-ratings": "heterophilous",
    "minesweeper": "heterophilous",
    "tolokers": "heterophilous",
    "questions": "heterophilous",
    "chameleon_filtered": "heterophilous",
    "squirrel_filtered": "heterophilous",
    "actor": "heterophilous",
    "BlogCatalog": "attributed",
    "Flickr": "attributed",
    "Cora_ML": "citation",
    "penn94": "linkx",
    "reed98": "linkx",
    "amherst41": "linkx",
    "cornell5": "linkx",
    "johnshopkins55": "linkx",
    "github": "musae",
    "facebook": "musae",
    "twitch_DE": "musae",
    "twitch_ENGB": "musae",
    "twitch_ES": "musae",
    "twitch_FR": "musae",
    "twitch_PTBR": "musae",
    "twitch_RU": "musae",
    "arxiv-cit-hep-ph": "snap",
    "arxiv-cit-hep-th": "snap",
    "as-caida20071105": "snap",
    "astro-ph-cc1": "snap",
    "ca-condmat-cc1": "snap",
    "ego-twitter-undirected": "snap",
    "email-enron": "snap",
    "email-enron-cc1": "snap",
    "facebook-combined": "snap",
    "soc-slashdot0902-directed": "snap",
    "soc-slashdot0902-undirected": "snap",
    "ca-AstroPh": "snap",
    "ca-GrQc": "snap",
    "soc-Epinions1": "snap",
    "soc-LiveJournal1": "snap",
    "soc-Slashdot0811": "snap",
    "wiki-Vote": "snap",
    "com-amazon": "snap",
    "com-dblp": "snap",
    "com-youtube": "snap",
    "MUTAG": "tu",
    "PTC_MR": "tu",
    "PTC": "tu",
    "ENZYMES": "tu",
    "PROTEINS": "tu",
    "PROTEINS_full": "tu",
    "DD": "tu",
    "NCI1": "tu",
    "NCI109": "tu",
    "COLLAB": "tu",
    "IMDB-BINARY": "tu",
    "IMDB-MULTI": "tu",
    "REDDIT-BINARY": "tu",
    "REDDIT-MULTI-5K": "tu",
}

ALIASES: dict[str, str] = {
    "arxiv": "ogbn-arxiv",
    "products": "ogbn-products",
    "mag": "ogbn-mag",
    "papers100m": "ogbn-papers100M",
}

# Their splits are published, whatever the seed: one cache entry serves all seeds.
_OFFICIAL_SPLITS = frozenset({"ogbn", "ogbg", "heterophilous", "snap"})


def load_dataset(
    name: str,
    root: str | os.PathLike[str] = "data",
    download: bool = True,
    undirected: bool = False,
    seed: int = 0,
    **options: Any,
) -> NodeDataset | GraphDataset:
    """Loads a data set; from the second time on, from a memory-mapped cache (``GRAPHATTN_CACHE``).

    Args:
        name: A name of ``CATALOGUE`` (any case, ``_`` for ``-``), or a folder of .npy files under
            ``root`` or anywhere (see ``datasets.folder``).
        root: The folder that holds the data set's folder, as for PyG and OGB; never written to
            except by a download.
        download: Fetch missing files from the set's public address (the size is printed first;
            nothing is asked); False: a missing file is an error.
        undirected: Add missing reverse edges; otherwise edges are as the set's own loader has
            them. The edge counts are printed.
        seed: Of the splits, for sets without official ones, and of generated sets.
        **options: What the set's own ``load`` takes besides, such as ``split="per-class"``.

    Returns:
        A ``NodeDataset``, or a ``GraphDataset`` for graph-level sets.

    Raises:
        ValueError: If the name is unknown (near names, or else all, are listed), an option is
            unknown, a file is damaged, or the data fail a check (NaN features, overlapping splits,
            labels outside the classes).
        FileNotFoundError: If a file is missing; names it, the folder and the remedy.
    """
    root = Path(root).expanduser()
    name, module_name, root = _resolve(name, root)
    key_seed = 0 if module_name in _OFFICIAL_SPLITS else seed
    folder = cache.entry(name, root, undirected=undirected, seed=key_seed, **options)
    cached = cache.open_entry(folder)
    if cached is not None:
        if cached.edge_note:
            announce(f"{name}: {cached.edge_note}")
        return cached
    load = import_module(f"graphattn.datasets.{module_name}").load
    _check_options(name, options, load)
    dataset: NodeDataset | GraphDataset = load(
        name, root, download=download, undirected=undirected, seed=seed, **options
    )
    check(dataset)
    return cache.store(dataset, folder) if dataset.sources else dataset


def check(dataset: NodeDataset | GraphDataset) -> None:
    """Runs every check of a loaded data set.

    Args:
        dataset: What a loader returned.

    Raises:
        TypeError: If an edge index or a split is not int64.
        ValueError: If features are not finite, an edge or split index is out of range, parts of a
            split overlap, or a label is outside the class range.
    """
    name = dataset.name
    if isinstance(dataset, NodeDataset):
        labels, items = dataset.data.y, int(dataset.data.num_nodes)
        check_features(dataset.data.x, name)
        check_edges(dataset.data.edge_index, items, name)
    else:
        labels = torch.cat([graph.y.view(1, -1) for graph in dataset.graphs])
        items = len(dataset.graphs)
        for number, graph in enumerate(dataset.graphs):
            check_features(graph.x, f"{name}, graph {number}")
            check_edges(graph.edge_index, int(graph.num_nodes), f"{name}, graph {number}")
    check_splits(dataset.splits, items, name)
    if labels is None:  # a bare edge list
        return
    if len(labels) != items:
        raise ValueError(f"{name}: {len(labels):,} labels for {items:,} nodes")
    check_labels(labels, dataset.splits, dataset.num_classes, dataset.task, name)


def _check_options(name: str, options: dict[str, Any], load: Callable[..., Any]) -> None:
    own = set(inspect.signature(load).parameters)
    own -= {"name", "root", "download", "undirected", "seed"}
    unknown = sorted(set(options) - own)
    if unknown:
        raise ValueError(
            f"{name} has no option {', '.join(unknown)}; it takes "
            + (", ".join(sorted(own)) or "none besides download, undirected and seed")
        )


def canonical(name: str) -> str | None:
    """The catalogue's spelling of a name or alias (any case, ``_`` or ``-``); None if unknown."""
    wanted = _plain(name)
    for known in CATALOGUE:
        if _plain(known) == wanted:
            return known
    for alias, known in ALIASES.items():
        if _plain(alias) == wanted:
            return known
    return None


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-")


def _resolve(name: str, root: Path) -> tuple[str, str, Path]:
    """Canonical name, loader module, and root (for a user's folder, the folder's parent)."""
    from graphattn.datasets import folder

    known = canonical(name)
    if known is not None:
        return known, CATALOGUE[known], root
    for path in (root / name, Path(name).expanduser()):
        if folder.is_dataset(path):
            path = path.resolve()
            return path.name, "folder", path.parent
    names = sorted({*CATALOGUE, *ALIASES}, key=str.lower)
    plain = {_plain(key): key for key in names}
    near = [plain[match] for match in difflib.get_close_matches(_plain(name), plain, n=4)]
    listed = f"known: {', '.join(names)}"
    if near:
        listed = f"near: {', '.join(near)} (graphattn.datasets.catalogue.CATALOGUE has all)"
    raise ValueError(
        f"unknown data set {name!r}; {listed}; or a folder with edge_index.npy (looked at "
        f"{(root / name).absolute()})"
    )
