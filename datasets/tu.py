"""Graph-level sets of the TU collection (Morris et al. 2020), in both published forms.

TU's own text files (``<NAME>_A.txt``, ...) and the one text file per set of the GIN and DGCNN
papers, with its ten folds.  Both list each edge in both directions and are returned as they are.
Node features are one-hot node labels, one column per distinct label, sorted (as PyG wherever
labels are contiguous); a set without node labels gets one column of ones, or, with
``features="degree"``, one-hot out-degrees, as the GIN paper uses for social networks.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphattn.datasets.assemble import check_choice, orient
from graphattn.datasets.base import GraphDataset, Split
from graphattn.datasets.folds import FOLDS, drawn_folds, published_folds
from graphattn.datasets.layouts import Remote, obtain
from graphattn.datasets.metrics import evaluator
from graphattn.datasets.names import GIN_NAMES
from graphattn.datasets.tu_text import Collection, read_gin, read_tu

if TYPE_CHECKING:
    from torch_geometric.data import Data

NAMES = tuple(GIN_NAMES)
_GIN_ONLY = "PTC"

_URL = "https://www.chrsmrrs.com/graphkerneldatasets"
_NEEDED = ("A", "graph_indicator", "graph_labels")
_OPTIONAL = (
    "node_labels",
    "node_attributes",
    "edge_labels",
    "edge_attributes",
    "graph_attributes",
)


def load(
    name: str,
    root: str | Path,
    *,
    download: bool = True,
    undirected: bool = False,
    seed: int = 0,
    features: str = "labels",
    attributes: bool = False,
) -> GraphDataset:
    """Loads ``<root>/<NAME>/raw/<NAME>_A.txt``, ... or ``<root>/<NAME>/<NAME>.txt``.

    Args:
        name: One of ``NAMES``; the GIN form's folder has no hyphens (IMDBBINARY).
        root, download: As everywhere; TU's archive is fetched if neither form is there.
        undirected: Add missing reverse edges (these sets miss none); refused with edge features.
        seed: Of the folds, where the set has none of its own.
        features: ``"labels"`` or ``"degree"``, see above.
        attributes: Also use continuous attributes (first columns, as PyG's ``use_node_attr``).

    Returns:
        Graphs with x float32 [n, F], y int64 [1] (float32 [1, T] if the set has graph attributes:
        rmse), edge_attr float32 if it has edge labels; ten splits (see ``folds``), the published
        ones if ``10fold_idx`` is there, else stratified and drawn with ``seed``.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged or an option has an unknown value.
    """
    check_choice(name, "features", features, ("labels", "degree"))
    found, paths, folds = _read(name, Path(root), download)
    if undirected and _edge_features(found, attributes=True) is not None:
        raise ValueError(f"{name} has edge features: undirected=True would lose them; leave it out")
    edges, note = orient(name, found.edge_index, len(found.owner), "as in the file", undirected)
    found = found._replace(edge_index=edges)
    splits, split_note = _splits(name, folds, found.y, seed)
    regression = found.y.is_floating_point()
    metric = "rmse" if regression else "acc"
    return GraphDataset(
        graphs=_graphs(found, _features(found, features, attributes), attributes),
        splits=splits,
        metric=metric,
        evaluate=evaluator(metric),
        name=name,
        num_classes=found.y.shape[1] if regression else int(found.y.max()) + 1,
        task="regression" if regression else "multiclass",
        split_note=split_note,
        edge_note=note,
        sources=tuple(str(path) for path in (*paths, *folds)),
    )


def _splits(name: str, folds: list[Path], y: Tensor, seed: int) -> tuple[list[Split], str]:
    if folds and folds[0].parent.is_dir():
        return published_folds(folds, name), "ten published folds"
    return drawn_folds(y, seed), f"ten stratified folds, seed {seed}"


def _read(name: str, root: Path, download: bool) -> tuple[Collection, list[Path], list[Path]]:
    """The graphs, the files read, and the fold files (whether or not they are there)."""
    archive = f"{_URL}/{name}.zip"
    parts = (*_NEEDED, *_OPTIONAL)
    form = [
        Remote(
            f"{name}/raw/{name}_{part}.txt",
            archive,
            f"{name}/{name}_{part}.txt",
            optional=part in _OPTIONAL,
        )
        for part in parts
    ]
    gin = GIN_NAMES[name]
    forms = [form, [Remote(f"{gin}/{gin}.txt")]] if gin else [form]
    forms = forms[1:] if name == _GIN_ONLY else forms
    paths = obtain(name, root, forms, download=download)
    if len(paths) == len(parts):
        return read_tu(dict(zip(parts, paths, strict=True)), name), paths, []
    folder = paths[0].parent / "10fold_idx"
    kinds = ("test", "train")
    folds = [folder / f"{kind}_idx-{k + 1}.txt" for kind in kinds for k in range(FOLDS)]
    return read_gin(paths[0], name), paths, folds


def _features(found: Collection, features: str, attributes: bool) -> Tensor:
    """Node features [N, F]: continuous attributes if asked, then the one-hot columns."""
    labels = found.labels
    if features == "degree":
        labels = torch.bincount(found.edge_index[0], minlength=len(found.owner)).view(-1, 1)
    elif labels is None:
        labels = torch.zeros(len(found.owner), 1, dtype=torch.int64)
    x = _one_hot(labels)
    if attributes and found.attributes is not None:
        x = torch.cat([found.attributes, x], 1)
    return x


def _edge_features(found: Collection, attributes: bool) -> Tensor | None:
    parts = [found.edge_attributes] if attributes and found.edge_attributes is not None else []
    if found.edge_labels is not None:
        parts.append(_one_hot(found.edge_labels))
    return torch.cat(parts, 1) if parts else None


def _one_hot(labels: Tensor) -> Tensor:
    """One-hot columns of every label column [n, k], over its sorted distinct values."""
    blocks = []
    for column in labels.t():
        values, code = column.unique(return_inverse=True)
        blocks.append(torch.nn.functional.one_hot(code, len(values)))
    return torch.cat(blocks, 1).float()


def _graphs(found: Collection, x: Tensor, attributes: bool) -> list[Data]:
    """Cuts the collection into one PyG ``Data`` per graph; a graph's edges keep their order."""
    from torch_geometric.data import Data

    count = len(found.y)
    edge_owner = found.owner[found.edge_index[0]]
    order = edge_owner.argsort(stable=True)
    edge_sizes = torch.bincount(edge_owner, minlength=count).tolist()
    sizes = torch.bincount(found.owner, minlength=count)
    first = sizes.cumsum(0) - sizes
    edges = (found.edge_index - first[edge_owner])[:, order]
    columns = {
        "x": x.split(sizes.tolist()),
        "edge_index": edges.split(edge_sizes, 1),
        "y": found.y.split(1),
    }
    edge_attr = _edge_features(found, attributes)
    if edge_attr is not None:
        columns["edge_attr"] = edge_attr[order].split(edge_sizes)
    return [Data(**{key: parts[i] for key, parts in columns.items()}) for i in range(count)]
