"""Graph-level accuracy: the layers' models, the graph transformer and baselines in one table.

One published (or drawn) fold per set, test at the best validation epoch. Finished runs are kept in
``runs/graph-level``, so the table can be made in several sittings.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.loader import DataLoader
from tqdm import tqdm

import graphattn as ga
from graphattn.datasets.base import GraphDataset
from graphattn.models import MODELS
from graphattn.training import tasks

NAMES = ("gt", "gin-attention", "pna-attention", "tangnn", "sinc", "gcn", "sage", "gat")
# Name: folder below GRAPHATTN_DATA.
SETS = {
    "MUTAG": "tu_gin",
    "PROTEINS": "tu_gin",
    "NCI1": "tu_gin",
    "ENZYMES": "tu",
    "ogbg-molbace": "ogb",
    "ogbg-molbbbp": "ogb",
    "ogbg-molesol": "ogb",
    "ogbg-molfreesolv": "ogb",
}
EPOCHS, BATCH, WIDTH, HEADS, LAYERS, LR = 30, 64, 64, 8, 4, 1e-3
Step = Callable[[nn.Module], None]


class GraphModel(nn.Module):
    """A model with mean pooling, on float features or OGB's atoms."""

    def __init__(self, dataset: GraphDataset, make: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        first = dataset.graphs[0].x
        self.atoms = None
        if not first.is_floating_point():
            from ogb.graphproppred.mol_encoder import AtomEncoder

            self.atoms = AtomEncoder(WIDTH)
        channels = first.shape[1] if self.atoms is None else WIDTH
        self.model = make(channels, tasks.out_channels(dataset.task, dataset.num_classes))

    def forward(self, data: Any) -> Tensor:
        """One row per graph of the batch."""
        x = data.x if self.atoms is None else self.atoms(data.x)
        graph = ga.as_graph(data.edge_index, x.shape[0])
        if getattr(self.model, "self_loops", False):
            graph = graph.add_self_loops()
        return self.model(x, graph, batch=data.batch)


def named(name: str) -> Callable[[int, int], nn.Module]:
    """How to build a model of the command line."""
    kind, fixed = MODELS[name]
    heads = 1 if name == "gat" else HEADS

    def make(channels: int, out: int) -> nn.Module:
        options = {"norm": "batch", "dropout": 0.2, "pool": "mean"}
        return kind(channels, WIDTH, out, LAYERS, heads, **(options | fixed))

    return make


def fit(
    dataset: GraphDataset,
    make: Callable[[int, int], nn.Module],
    seed: int = 0,
    epochs: int = EPOCHS,
    after_backward: Step | None = None,
    name: str = "",
) -> tuple[float, nn.Module]:
    """Train on the first split; the test score at the best validation epoch, and the last model."""
    torch.manual_seed(seed)
    split, graphs = dataset.splits[0], list(dataset.graphs)
    parts = {part: [graphs[int(i)] for i in split[part]] for part in ("train", "valid", "test")}
    loaders = {p: DataLoader(g, BATCH, shuffle=p == "train") for p, g in parts.items()}
    network = GraphModel(dataset, make)
    optimiser = torch.optim.AdamW(network.parameters(), lr=LR)
    sign = 1.0 if tasks.larger_is_better(dataset.metric) else -1.0
    best = (-float("inf"), 0.0)
    for _ in tqdm(range(epochs), desc=f"{dataset.name} {name}", leave=False):
        network.train()
        for data in loaders["train"]:
            optimiser.zero_grad()
            out = network(data)
            tasks.loss(dataset.task, out, _labels(data, dataset)).backward()
            if after_backward is not None:
                after_backward(network.model)
            optimiser.step()
        scores = {part: score(network, loaders[part], dataset) for part in ("valid", "test")}
        best = max(best, (sign * scores["valid"], scores["test"]), key=lambda pair: pair[0])
    return best[1], network


@torch.no_grad()
def score(network: nn.Module, loader: Any, dataset: GraphDataset) -> float:
    """The data set's own metric."""
    network.eval()
    outs, labels = [], []
    for data in loader:
        outs.append(network(data))
        labels.append(_labels(data, dataset))
    found = tasks.scores(dataset.task, torch.cat(outs))
    return float(dataset.evaluate(found, torch.cat(labels)))


def _labels(data: Any, dataset: GraphDataset) -> Tensor:
    count = int(data.batch.max()) + 1
    y = data.y.view(count, -1)
    return y.squeeze(1) if y.shape[1] == 1 else y


def run(device: str, repeats: int, compiled: bool = True) -> tuple[list[dict[str, Any]], list[str]]:
    """One row per data set with a column per model."""
    root = os.environ.get("GRAPHATTN_DATA")
    if not root or device != "cpu":
        return [], ["left out: runs on the CPU, with GRAPHATTN_DATA set to the data folder"]
    rows, notes = [], [f"{EPOCHS} epochs, width {WIDTH}, {LAYERS} layers, fold 0, seed 0"]
    for name, folder in SETS.items():
        dataset = ga.load_dataset(name, str(Path(root, folder)), download=False)
        row: dict[str, Any] = {"workload": name, "metric": dataset.metric}
        for model in NAMES:
            row[model] = kept(
                Path("runs/graph-level") / f"{name}-{model}.json",
                lambda d=dataset, m=model: fit(d, named(m), name=m)[0],
            )
        rows.append(row)
        notes.append(f"{name}: {dataset.split_note}")
    return rows, notes


def kept(path: Path, compute: Callable[[], float]) -> float:
    """A number from a file, or computed and written there."""
    if path.exists():
        return float(json.loads(path.read_text()))
    found = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))
    return found
