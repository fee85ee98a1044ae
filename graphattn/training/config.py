"""Configuration of a run: the only place with its defaults.

A run's settings are built from four layers, the later winning: these defaults, the preset of the
data set and model (``presets.py``), a YAML file, the command line.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass
class DataConfig:
    """The graph, its features and the split.

    Attributes:
        name: Data set for ``load_dataset``, or a folder of .npy files.
        root: Folder with the raw files.
        download: Fetch missing files.
        split: Which of the data set's splits.
        split_seed: Seed of a random split, where the data set has no official one.
        undirected: Add the missing reverse edges.
        self_loops: "auto" does what the model was published with.
        normalize_features: Divide each feature row by its sum.
        options: Further arguments of the loader, e.g. ``--data.options.split random`` for Cora.
    """

    name: str = "minesweeper-generated"
    root: str = "data"
    download: bool = True
    split: int = 0
    split_seed: int = 0
    undirected: bool = False
    self_loops: Literal["auto", "add", "remove", "keep"] = "auto"
    normalize_features: bool = False
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class ModelConfig:
    """The network.

    Attributes:
        name: gt, gt-sep (graph transformers), gcn, sage, gat or large-gt; gin-attention,
            pna-attention, tangnn, sinc.
        layers: Number of layers.
        width: Hidden channels.
        heads: Attention heads; models without attention ignore it.
        dropout: Dropout probability.
        norm: Normalisation inside the layers.
        options: Further arguments of the model's constructor, e.g. ``--model.options.jumping true``
            for gcn.
    """

    name: str = "gt"
    layers: int = 4
    width: int = 64
    heads: int = 8
    dropout: float = 0.2
    norm: Literal["batch", "layer", "none"] = "batch"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class OptimConfig:
    """Optimiser and learning-rate schedule.

    Attributes:
        name: adamw (decoupled weight decay), adam or sgd.
        lr: Learning rate.
        weight_decay: Weight decay.
        decay_all: Decay biases and norm parameters too.
        schedule: cosine falls to 0 over the run, plateau divides when validation stalls.
        warmup: Epochs of linear warm-up.
        plateau_factor: What plateau multiplies the rate by.
        plateau_patience: Evaluations without improvement before plateau acts.
        clip: Largest gradient norm; 0 means no clipping.
    """

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.0
    decay_all: bool = False
    schedule: Literal["none", "cosine", "plateau"] = "none"
    warmup: int = 0
    plateau_factor: float = 0.5
    plateau_patience: int = 20
    clip: float = 0.0


@dataclass
class EncodingConfig:
    """Positional encoding.

    Attributes:
        kind: laplacian (eigenvectors), random-walk (return probabilities), stored (the array pe of
            a store or folder, whatever it holds) or none.
        k: Width of the encoding.
        sign_flip: Random eigenvector signs in training, one draw per batch or per graph.
        tol: Relative residual of the eigenvectors; 1e-2 is enough for features, and faster.
    """

    kind: Literal["none", "laplacian", "random-walk", "stored"] = "none"
    k: int = 8
    sign_flip: Literal["batch", "graph"] = "batch"
    tol: float = 1e-6


@dataclass
class SamplingConfig:
    """Mini-batches.

    Attributes:
        batch_size: Seed nodes per step, or graphs of a set of graphs; 0 takes all at once, where
            the model can.
        num_neighbors: Fan-out per layer of models that read neighbours; -1 takes all.
        tokens: Tokens per node of large-gt, itself included (published: 50 or 100).
        mode: How tokens are drawn, exact (published) or walk.
        direction: Whose neighbours are followed, in (as the graph), out or both.
        resample: When tokens are drawn anew.
        threads: Threads that make batches ahead; 0 makes them in turn.
        parts: Parts of the graph that several processes divide among themselves: each takes the
            seeds of its own, whose neighbourhoods overlap; 0 shares out every batch.
    """

    batch_size: int = 0
    num_neighbors: list[int] = field(default_factory=lambda: [15, 10, 5, 5])
    tokens: int = 20
    mode: Literal["exact", "walk"] = "exact"
    direction: Literal["in", "out", "both"] = "in"
    resample: Literal["never", "epoch", "batch"] = "never"
    threads: int = 1
    parts: int = 0


@dataclass
class LoopConfig:
    """How long, how precisely, and where to train.

    Attributes:
        epochs: Passes over the training nodes; on the full graph a pass is one step.
        eval_every: Epochs between evaluations.
        patience: Epochs without improvement before stopping; 0 trains to the end.
        seed: Seed of weights, dropout and sign flips.
        device: auto takes CUDA when there is one.
        precision: bf16 and fp16 run under autocast.
        compile: Compile the model with ``torch.compile``.
        checkpoint_seconds: Time between checkpoints; 0 writes one after every epoch.
        tensorboard: Also log to TensorBoard.
    """

    epochs: int = 200
    eval_every: int = 1
    patience: int = 0
    seed: int = 0
    device: str = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    checkpoint_seconds: float = 30.0
    tensorboard: bool = False


@dataclass
class TrainConfig:
    """Everything that defines a run; ``config.yaml`` of a run folder holds one."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    encoding: EncodingConfig = field(default_factory=EncodingConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)


def flat(config: TrainConfig) -> dict[str, Any]:
    """All settings by dotted name: ``{"data.name": ..., "model.layers": ..., ...}``."""
    return {
        f"{section}.{key}": value
        for section, values in asdict(config).items()
        for key, value in values.items()
    }
