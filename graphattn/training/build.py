"""From a configuration to everything a run needs: data, inputs, model, labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from graphattn.graph.csr import CSRGraph
from graphattn.nn.sums import world_size
from graphattn.training import tasks
from graphattn.training.config import ModelConfig, TrainConfig, flat
from graphattn.training.config_file import near_names
from graphattn.training.inputs import Inputs, attended, load_items, make_inputs, select_split
from graphattn.training.loop import Supervision
from graphattn.training.seed import seed_everything

if TYPE_CHECKING:
    from graphattn.datasets.base import NodeDataset


# What may differ between a run and its continuation; all else decides the numbers.
_MAY_CHANGE = (
    "data.root",
    "data.download",
    "loop.epochs",
    "loop.patience",
    "loop.device",
    "loop.compile",
    "loop.checkpoint_seconds",
    "loop.tensorboard",
    "sampling.threads",
)


@dataclass
class Prepared:
    """A run before its first step.

    Attributes:
        dataset: The data set.
        split: Index tensors ``train``, ``valid``, ``test``.
        inputs: Features, graph and encoding on the run's device.
        model: The network on the run's device, seeded.
        supervision: Training and validation labels.
        identity: What a checkpoint must agree on to be continued.
    """

    dataset: NodeDataset
    split: dict[str, Tensor]
    inputs: Inputs
    model: nn.Module
    supervision: Supervision
    identity: dict[str, Any]


def prepare(config: TrainConfig, dataset: NodeDataset | None = None) -> Prepared:
    """Loads the data (unless given), builds inputs and the seeded model.

    Args:
        config: The run.
        dataset: Its data set, if it is loaded already.
    """
    check_values(config)
    device = pick_device(config.loop.device)
    dataset = load_items(config.data) if dataset is None else dataset
    split = select_split(dataset, config.data.split)
    inputs = make_inputs(dataset, config.data, config.encoding)
    channels = tasks.out_channels(dataset.task, dataset.num_classes)
    pe_dim = 0 if inputs.pe is None else inputs.pe.shape[1]
    seed_everything(config.loop.seed)
    size = inputs.x.shape[1], channels, pe_dim, inputs.x.shape[0]
    pool = dataset.data.get("graph_ptr") is not None
    model = build_model(config.model, *size, pool=pool)
    wanted = bool(getattr(model, "self_loops", False))
    undirected = dataset.data.get("csr_undirected")
    graph = attended(dataset.name, inputs.graph, config.data.self_loops, wanted, undirected)
    inputs = _fed(inputs, model, graph, config, dataset)
    return Prepared(
        dataset,
        split,
        inputs.to(device),
        model.to(device),
        supervision(dataset, split),
        identity(config, inputs.x.shape[1], channels),
    )


def _fed(
    inputs: Inputs, model: nn.Module, graph: CSRGraph, config: TrainConfig, dataset: NodeDataset
) -> Inputs:
    """The full graph, or batches: only these need the samplers, which load PyG."""
    ptr = dataset.data.get("graph_ptr")
    if ptr is not None:
        from graphattn.training.graph_sets import graph_batches

        return graph_batches(inputs, graph, ptr, config.sampling, config.loop.seed)
    if not config.sampling.batch_size and getattr(model, "batched", None) is None:
        if world_size() > 1:
            raise ValueError(
                f"{world_size()} processes would all repeat the same full-graph step; train in "
                "batches (--sampling.batch_size 1024), or in one process"
            )
        inputs.graph, inputs.x = graph, inputs.x.float()
        inputs.pe = None if inputs.pe is None else inputs.pe.float()
        return inputs
    from graphattn.training.batches import batched

    names = ["part"]
    # Hops on the disk are those of the stored features and graph.
    if graph is inputs.graph and not config.data.normalize_features:
        names += ["hop1", "hop2", "hop_direction"]
    stored = {name: dataset.data[name] for name in names if dataset.data.get(name) is not None}
    return batched(inputs, model, graph, config.sampling, config.loop.seed, stored)


def check_values(config: TrainConfig) -> None:
    """Raises ``ValueError`` for an unknown model and for values out of range."""
    find_model(config.model.name)
    smallest = {
        "model.layers": (config.model.layers, 1),
        "model.width": (config.model.width, 1),
        "model.heads": (config.model.heads, 1),
        "model.dropout": (config.model.dropout, 0),
        "optim.lr": (config.optim.lr, 0),
        "optim.warmup": (config.optim.warmup, 0),
        "loop.epochs": (config.loop.epochs, 1),
        "loop.eval_every": (config.loop.eval_every, 1),
        "loop.patience": (config.loop.patience, 0),
        "encoding.k": (config.encoding.k, 1),
        "sampling.batch_size": (config.sampling.batch_size, 0),
        "sampling.tokens": (config.sampling.tokens, 1),
        "sampling.parts": (config.sampling.parts, 0),
        "sampling.threads": (config.sampling.threads, 0),
    }
    for key, (value, least) in smallest.items():
        if value < least:
            raise ValueError(f"expected {key} of at least {least}, got {value}")
    model = config.model
    if model.dropout >= 1:
        raise ValueError(f"expected model.dropout below 1, got {model.dropout}")
    if model.name not in ("gcn", "sage", "sinc") and model.width % model.heads:
        near = next(heads for heads in range(model.heads, 0, -1) if model.width % heads == 0)
        raise ValueError(
            f"expected model.width divisible by model.heads, got {model.width} and {model.heads}; "
            f"set --model.heads {near} or another width"
        )


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA when there is one, else the CPU.

    Raises:
        ValueError: If the name is no device, or CUDA is asked for and absent.
    """
    if name == "auto":
        if torch.cuda.is_available():  # under torchrun, each process has set its own
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"expected loop.device auto, cpu or cuda[:n], got {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"loop.device {name} was asked, but torch finds no CUDA device; use cpu")
    return device


def find_model(name: str) -> tuple[type[nn.Module], dict[str, Any]]:
    """Class and fixed arguments of a model.

    Raises:
        ValueError: If there is no such model; near names are listed.
    """
    from graphattn.models import MODELS

    if name not in MODELS:
        raise ValueError(f"there is no model {name!r}; {near_names(name, MODELS)}")
    kind, fixed = MODELS[name]
    return kind, dict(fixed)


def build_model(
    config: ModelConfig,
    in_channels: int,
    out_channels: int,
    pe_dim: int = 0,
    num_nodes: int = 1,
    *,
    pool: bool = False,
) -> nn.Module:
    """Constructs a model from its section of the configuration.

    Args:
        config: Section ``model``; ``options`` go to the constructor and override what is fixed.
        in_channels: Features per node.
        out_channels: Outputs per node or graph.
        pe_dim: Width of the positional encoding; 0 without one.
        num_nodes: Nodes of the graph, for models that keep something per node.
        pool: Whether an output belongs to a graph instead of a node.

    Raises:
        ValueError: If the constructor does not know an option.
    """
    kind, fixed = find_model(config.name)
    keywords: dict[str, Any] = {"norm": config.norm, "dropout": config.dropout, "pe_dim": pe_dim}
    if getattr(kind, "per_node", False):
        keywords["num_nodes"] = num_nodes
    if pool:
        keywords["pool"] = "mean"
    keywords |= fixed | config.options
    size = (in_channels, config.width, out_channels, config.layers, config.heads)
    try:
        return kind(*size, **keywords)
    except TypeError as error:
        raise ValueError(
            f"model {config.name!r} ({kind.__name__}) cannot be built with {keywords}: {error}"
        ) from error


def supervision(dataset: NodeDataset, split: dict[str, Tensor]) -> Supervision:
    """The labels of training and validation nodes, and nothing of the test nodes."""
    labels = dataset.data.y
    train, valid = split["train"], split["valid"]
    return Supervision(
        train,
        labels[train],
        valid,
        labels[valid],
        dataset.task,
        dataset.metric,
        dataset.evaluate,
    )


def identity(config: TrainConfig, in_channels: int, out_channels: int) -> dict[str, Any]:
    """What must agree between a checkpoint and the run that continues it."""
    settings = {key: value for key, value in flat(config).items() if key not in _MAY_CHANGE}
    return settings | {"in_channels": in_channels, "out_channels": out_channels}
