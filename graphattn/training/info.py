"""Facts about a data set: sizes, degrees, homophily, classes, splits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphattn.graph.csr import CSRGraph
from graphattn.training.inputs import graph_of

if TYPE_CHECKING:
    from graphattn.datasets.base import NodeDataset


def describe_graph(graph: CSRGraph) -> dict[str, Any]:
    """Edges before and after symmetrisation, degrees of the rows, isolated nodes, self-loops."""
    source, target = graph.edge_index()
    degree = graph.degree()
    both = degree + graph.t().degree()
    return {
        "nodes": graph.num_rows,
        "edges": graph.num_edges,
        "edges after symmetrisation": graph.to_undirected().num_edges,
        "directed": not graph.is_undirected(),
        "self-loops": int((source == target).sum()),
        "duplicate edges": graph.num_edges - graph.coalesce().num_edges,
        "degree min / median / max": (
            f"{int(degree.min())} / {int(degree.median())} / {int(degree.max())}"
        ),
        "isolated nodes": int((both == 0).sum()),
    }


def homophily(graph: CSRGraph, labels: Tensor, num_classes: int) -> tuple[float, float]:
    r"""Edge homophily and adjusted homophily (Platonov et al. 2023).

    .. math::
        h = \frac{|\{(u,v) \in E : y_u = y_v\}|}{|E|}, \qquad
        h_{adj} = \frac{h - \sum_k D_k^2 / (2|E|)^2}{1 - \sum_k D_k^2 / (2|E|)^2}

    over the symmetrised graph without self-loops, :math:`D_k` the sum of degrees of class k, edges
    with an unlabelled end (-1) left out.

    Args:
        graph: The graph.
        labels: int64 [N].
        num_classes: Number of classes.

    Returns:
        (h, h_adj); NaN without edges, and h_adj NaN if one class has them all.
    """
    source, target = graph.remove_self_loops().to_undirected().edge_index()
    known = (labels[source] >= 0) & (labels[target] >= 0)
    source, target = labels[source[known]], labels[target[known]]
    if not len(source):
        return float("nan"), float("nan")
    edge = (source == target).double().mean().item()
    # Both directions are listed: class counts of the sources are the D_k, their number is 2|E|.
    share = torch.bincount(source, minlength=num_classes).double() / len(source)
    chance = share.square().sum().item()
    return edge, (edge - chance) / (1 - chance) if chance < 1 else float("nan")


def describe_data(dataset: NodeDataset) -> dict[str, Any]:
    """What ``graphattn info`` prints about a data set, in its order."""
    data = dataset.data
    graph = graph_of(dataset)
    facts = {"data": dataset.name} | describe_graph(graph) | {"edge note": dataset.edge_note}
    facts["features"] = "none" if data.x is None else int(data.x.shape[1])
    if data.edge_attr is not None:
        facts["edge features"] = int(data.edge_attr.shape[1])
    return facts | _describe_labels(dataset, graph)


def _describe_labels(dataset: NodeDataset, graph: CSRGraph) -> dict[str, Any]:
    labels = dataset.data.y
    # Collections of bare graphs fill y with -1.
    if labels is None or (not labels.is_floating_point() and bool((labels == -1).all())):
        return {"task": "none (no labels)"}
    facts: dict[str, Any] = {"task": f"{dataset.task}, metric {dataset.metric}"}
    if dataset.task in ("multiclass", "binary"):
        labels = labels.view(-1).long()
        edge, adjusted = homophily(graph, labels, dataset.num_classes)
        facts["edge homophily"] = f"{edge:.4f}"
        facts["adjusted homophily"] = f"{adjusted:.4f}"
        facts["classes"] = _class_counts(labels, dataset.num_classes)
    else:
        facts["tasks"] = dataset.num_classes
    facts["splits"] = _split_sizes(dataset.splits)
    facts["split note"] = dataset.split_note
    return facts


def _class_counts(labels: Tensor, num_classes: int) -> str:
    counts = torch.bincount(labels[labels >= 0], minlength=num_classes).tolist()
    shown = ", ".join(f"{number}: {count:,}" for number, count in enumerate(counts[:12]))
    more = f", and {len(counts) - 12} more" if len(counts) > 12 else ""
    unlabelled = int((labels < 0).sum())
    return f"{num_classes} ({shown}{more})" + (f"; {unlabelled:,} unlabelled" if unlabelled else "")


def _split_sizes(splits: list[dict[str, Tensor]]) -> str:
    if not splits:
        return "none"
    parts = []
    for part in ("train", "valid", "test"):
        sizes = sorted(len(split[part]) for split in splits)
        few, many = f"{sizes[0]:,}", f"{sizes[-1]:,}"
        parts.append(few if few == many else f"{few}-{many}")
    return f"{len(splits)} of {' / '.join(parts)} (train / valid / test)"
