"""How much memory full-graph training needs: an estimate from sizes alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from graphattn.training import tasks
from graphattn.training.build import build_model
from graphattn.training.config import SamplingConfig, TrainConfig

if TYPE_CHECKING:
    from graphattn.datasets.base import NodeDataset

# Vectors of the model's width that backward needs from each layer: per node, per node for the
# dropouts, per edge (PyG's GAT gathers; the others read the graph without per-edge vectors).
_SAVED = {
    "gt": (10, 3, 0.0),
    "gt-sep": (12, 3, 0.0),
    "gcn": (2, 2, 0.0),
    "sage": (3, 2, 0.0),
    "gat": (3, 2, 1.5),
}
_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


def training_bytes(config: TrainConfig, dataset: NodeDataset) -> dict[str, int]:
    r"""Bytes that training needs beyond Python and torch themselves (about half a GiB).

    With N nodes, E edges (self-loops included), F features, P parameters, L layers of width D,
    and b bytes per number (4, or 2 under bf16 and fp16), the parts are

    ===========  =================================================================
    parameters   :math:`20 P`: weight, gradient, two moments of Adam, the best copy
    graph        :math:`16 E + 36 E + 16 N`: edge_index, CSR and its transpose
    inputs       :math:`4 N (F + k)`: features and positional encoding
    activations  :math:`b L D (a N + e E) + 4 b N D`, a vectors per node and e per edge
    workspace    :math:`8 b N D + 2 b D E [e > 0]`: gradients of the layer in work
    ===========  =================================================================

    where a is 10 for gt, 12 for gt-sep, 2 for gcn, 3 for sage and gat, plus 3 (transformers) or 2
    with dropout, and e is 1.5 for gat, else 0. In mini-batches N and E of the last two parts are
    those of a batch at most. Measured full-graph peaks lie within a factor of two (tested).

    Args:
        config: Model, precision and encoding.
        dataset: For N, E and F.

    Returns:
        Bytes of each part.
    """
    nodes, model = int(dataset.data.num_nodes), config.model
    features = _width_of_features(dataset)
    pe_dim = _width_of_encoding(config, dataset)
    channels = max(1, tasks.out_channels(dataset.task, dataset.num_classes))  # without labels, 0
    with torch.device("meta"):
        network = build_model(model, features, channels, pe_dim, nodes)
    edges = (
        dataset.data["csr"].num_edges  # data.csr is a method of PyG's
        if "csr" in dataset.data
        else int(dataset.data.edge_index.shape[1])
    )
    edges += nodes if getattr(network, "self_loops", False) else 0
    per_node, with_dropout, per_edge = _SAVED.get(model.name, _SAVED["gt-sep"])
    per_node += with_dropout if model.dropout > 0 else 0
    row = _BYTES[config.loop.precision] * model.width
    seen = _rows_of_a_step(config.sampling, nodes, getattr(network, "batched", None) == "tokens")
    read = edges * seen // max(nodes, 1)
    activations = row * model.layers * (per_node * seen + per_edge * read) + 4 * row * seen
    return {
        "parameters": 20 * sum(p.numel() for p in network.parameters()),
        "graph": 52 * edges + 16 * nodes,
        "inputs": 4 * nodes * (features + pe_dim),
        "activations": int(activations),
        "workspace": 8 * row * seen + (2 * row * read if per_edge else 0),
    }


def _rows_of_a_step(sampling: SamplingConfig, nodes: int, tokens: bool) -> int:
    """Rows that pass through the model in a step: all nodes, or those of a batch."""
    if not sampling.batch_size:
        return nodes
    if tokens:
        return sampling.batch_size * 3 * sampling.tokens
    widths = [nodes if fanout < 0 else 1 + fanout for fanout in sampling.num_neighbors]
    return min(nodes, sampling.batch_size * math.prod(widths))


def _width_of_encoding(config: TrainConfig, dataset: NodeDataset) -> int:
    if config.encoding.kind == "stored" and dataset.data.get("pe") is not None:
        return int(dataset.data.pe.shape[1])
    return 0 if config.encoding.kind == "none" else config.encoding.k


def _width_of_features(dataset: NodeDataset) -> int:
    for given in (dataset.data.x, dataset.data.edge_attr):
        if given is not None:
            return int(given.shape[1])
    return 1
