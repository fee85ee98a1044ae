"""What a model reads: features, graph and positional encoding."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from graphattn.graph.convert import as_graph
from graphattn.graph.csr import CSRGraph
from graphattn.graph.store import is_store
from graphattn.training.config import DataConfig, EncodingConfig

if TYPE_CHECKING:
    from graphattn.datasets.base import NodeDataset


def say(text: str) -> None:
    """Prints a line on stderr, on rank 0: what a user must see but no program parses."""
    if os.environ.get("RANK", "0") == "0":
        print(text, file=sys.stderr)


Forward = Callable[..., Tensor]


class Step(NamedTuple):
    """One training step.

    Attributes:
        arguments: Of the model.
        rows: Its output rows that have labels.
        places: The seeds that these rows belong to, as places in the list of seeds.
    """

    arguments: tuple[Any, ...]
    rows: Tensor | slice
    places: Tensor | slice


@dataclass
class Inputs:
    """Inputs of a full-graph step, all on one device.

    Attributes:
        x: float32 [N, F].
        graph: Row i lists the nodes that i attends to.
        pe: float32 [N, k] or None.
        flip: Draws new signs for ``pe`` in each training step; None leaves it as it is.
    """

    x: Tensor
    graph: CSRGraph
    pe: Tensor | None = None
    flip: Callable[[Tensor], Tensor] | None = None

    def to(self, device: torch.device) -> Inputs:
        """These inputs on ``device``."""
        pe = None if self.pe is None else self.pe.to(device)
        return Inputs(self.x.to(device), self.graph.to(device), pe, self.flip)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.x.device

    def start_epoch(self, model: nn.Module, epoch: int) -> None:
        """Called before the training steps of epoch ``epoch``, counted from 0."""

    def steps(self, seeds: Tensor, epoch: int) -> Iterator[Step]:
        """Training steps of an epoch over ``seeds``: here one, on the full graph."""
        yield Step((self.x, self.graph, self.train_pe()), seeds, slice(None))

    def outputs(self, forward: Forward, model: nn.Module, nodes: Tensor | None = None) -> Tensor:
        """Outputs [n, C] of ``nodes`` (all without), every neighbour of every node read.

        ``forward`` runs ``model``, perhaps compiled.
        """
        outputs = forward(self.x, self.graph, self.pe)
        return outputs if nodes is None else outputs[nodes]

    def train_pe(self) -> Tensor | None:
        """The encoding of one training step."""
        return self.pe if self.pe is None or self.flip is None else self.flip(self.pe)


def load_nodes(config: DataConfig) -> NodeDataset:
    """Loads the data set of a configuration whose nodes carry the labels.

    Raises:
        ValueError: If it is a set of graphs.
    """
    dataset = load_items(config)
    if dataset.data.get("graph_ptr") is not None:
        raise ValueError(
            f"{config.name} is a set of graphs; this command reads one graph whose nodes carry the "
            "labels. graphattn train, protocol and evaluate take sets of graphs"
        )
    return dataset


def load_items(config: DataConfig) -> NodeDataset:
    """Loads the data set of a configuration: a graph, or the union of a set of graphs."""
    from graphattn.datasets.base import NodeDataset
    from graphattn.datasets.catalogue import load_dataset

    place = store_place(config)
    if place is not None:
        from graphattn.datasets import store

        return store.load(place)
    dataset = load_dataset(
        config.name,
        config.root,
        download=config.download,
        undirected=config.undirected,
        seed=config.split_seed,
        **config.options,
    )
    if isinstance(dataset, NodeDataset):
        return dataset
    from graphattn.training.graph_sets import as_union

    return as_union(dataset)


def store_place(config: DataConfig) -> Path | None:
    """The folder of the store that the data set is, if it is one."""
    places = (Path(config.root) / config.name, Path(config.name).expanduser())
    return next((place for place in places if is_store(place)), None)


def graph_of(dataset: NodeDataset) -> CSRGraph:
    """The graph of a data set: of its edge_index, or a store's own."""
    own = dataset.data.get("csr")
    if own is not None:
        return own  # type: ignore[no-any-return]
    return as_graph(dataset.data.edge_index, int(dataset.data.num_nodes))


def select_split(dataset: NodeDataset, number: int) -> dict[str, Tensor]:
    """Split ``number`` of a data set.

    Raises:
        ValueError: If there are no labels, no such split, or no validation nodes to select an
            epoch by.
    """
    count = len(dataset.splits)
    if dataset.data.y is None or not count:
        raise ValueError(
            f"{dataset.name} has no labels to train on; put its edges, labels (y.npy) and features "
            "(x.npy) into a folder and give that as NAME"
        )
    if not 0 <= number < count:
        raise ValueError(f"{dataset.name} has splits 0..{count - 1}, got data.split {number}")
    split = dataset.splits[number]
    if not len(split["valid"]):
        raise ValueError(
            f"split {number} of {dataset.name} has no validation nodes, and the best epoch is "
            "chosen by them; move some training nodes there"
        )
    return split


def make_inputs(dataset: NodeDataset, data: DataConfig, encoding: EncodingConfig) -> Inputs:
    """Builds features, graph (as the data set has it) and encoding on the CPU.

    Args:
        dataset: The data set.
        data: Section ``data``.
        encoding: Section ``encoding``.
    """
    x = features(dataset, data.normalize_features)
    graph = graph_of(dataset)
    flip = None
    if encoding.kind == "laplacian":
        if dataset.data.get("graph_ptr") is not None:
            raise ValueError(
                "encoding.kind laplacian is of one graph, and this is a set of graphs; use "
                "--encoding.kind random-walk"
            )
        from graphattn.encodings import flip_signs

        def flip(pe: Tensor) -> Tensor:
            return flip_signs(pe, mode=encoding.sign_flip)

    if encoding.kind == "stored":
        return Inputs(x, graph, stored_encoding(dataset))
    return Inputs(x, graph, positional_encoding(graph, encoding), flip)


def attended(
    name: str, graph: CSRGraph, choice: str, wanted: bool, undirected: bool | None = None
) -> CSRGraph:
    """``with_self_loops``, and a line that says how many edges there were and are.

    ``undirected``: whether the graph is, where that is known; finding out costs its transpose.
    """
    looped = with_self_loops(graph, choice, wanted)
    undirected = graph.is_undirected() if undirected is None else undirected
    note = "" if undirected else " (directed; --data.undirected true adds the reverse)"
    say(f"{name}: {graph.num_edges:,} edges{note}; the model attends over {looped.num_edges:,}")
    return looped


def features(dataset: NodeDataset, normalize: bool) -> Tensor:
    """Node features [N, F] in float32; without any, the mean of the incoming edges' features.

    Args:
        dataset: The data set.
        normalize: Divide each row by its sum, as PyG's ``NormalizeFeatures`` does.

    Raises:
        ValueError: If neither nodes nor edges have features.
    """
    data = dataset.data
    if data.x is None and data.edge_attr is None:
        raise ValueError(
            f"{dataset.name} has neither node nor edge features; set data.x, for instance to "
            "degrees or a positional encoding, in a folder of .npy files"
        )
    x: Tensor = data.x if data.x is not None else _mean_of_edges(data)
    # A store's halves stay on the disk, and atoms stay bytes: batches widen what they read.
    kept = data.get("csr") is not None or data.get("graph_ptr") is not None
    x = x if kept and not normalize else x.float()
    return x / x.sum(1, keepdim=True).clamp(min=1.0) if normalize else x


def _mean_of_edges(data: object) -> Tensor:
    attr, target = data.edge_attr.float(), data.edge_index[1]  # type: ignore[attr-defined]
    nodes = int(data.num_nodes)  # type: ignore[attr-defined]
    total = attr.new_zeros(nodes, attr.shape[1]).index_add_(0, target, attr)
    mean: Tensor = total / torch.bincount(target, minlength=nodes).clamp(min=1).unsqueeze(1)
    return mean


def with_self_loops(graph: CSRGraph, choice: str, wanted: bool) -> CSRGraph:
    """Adds exactly one self-loop per node, removes all, or keeps the graph.

    Args:
        graph: As the data set has it.
        choice: ``"add"``, ``"remove"``, ``"keep"``, or ``"auto"``: add if ``wanted``, else keep.
        wanted: What the model asks for.
    """
    if choice not in ("auto", "add", "remove", "keep"):
        raise ValueError(f"expected data.self_loops auto, add, remove or keep, got {choice!r}")
    if choice == "remove":
        return graph.remove_self_loops()
    if choice == "add" or (choice == "auto" and wanted):
        return graph.remove_self_loops().add_self_loops()
    return graph


def positional_encoding(graph: CSRGraph, config: EncodingConfig) -> Tensor | None:
    """The encoding [N, k] that a configuration asks for, or None."""
    if config.kind == "none":
        return None
    from graphattn import encodings

    if config.kind == "laplacian":
        if not graph.is_undirected():
            raise ValueError(
                "encoding.kind laplacian needs an undirected graph, and this one has edges without "
                "a reverse; add them with --data.undirected true, or use --encoding.kind "
                "random-walk"
            )
        return encodings.laplacian_pe(graph, config.k, tol=config.tol)[1]
    if config.kind == "random-walk":
        return encodings.random_walk_pe(graph, config.k)
    raise ValueError(
        f"expected encoding.kind none, laplacian, random-walk or stored, got {config.kind!r}"
    )


def stored_encoding(dataset: NodeDataset) -> Tensor:
    """The array ``pe`` [N, k] of a data set, as it lies there.

    Raises:
        ValueError: If there is none, or it has not one row per node.
    """
    pe = dataset.data.get("pe")
    if pe is None:
        raise ValueError(
            f"encoding.kind stored needs an array pe in {dataset.name}: write one with graphattn "
            "partition NAME --out FOLDER --encoding.kind laplacian, or save pe.npy into a folder "
            "of .npy files"
        )
    if pe.dim() != 2 or len(pe) != int(dataset.data.num_nodes):
        raise ValueError(f"pe must be [{dataset.data.num_nodes}, k], got {list(pe.shape)}")
    found: Tensor = pe
    return found
