"""Cora: a graph transformer from layers, with Laplacian positional encodings, in a plain loop.

Run: python examples/02_cora.py --root data [--epochs 100]
"""

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import graphattn as ga
from graphattn.encodings import flip_signs


class CoraTransformer(nn.Module):
    """Two TransformerConv layers on features and positional encoding."""

    def __init__(self, features: int, classes: int, pe_width: int, width: int = 64) -> None:
        super().__init__()
        self.input = nn.Linear(features, width)
        self.lin_pe = nn.Linear(pe_width, width)
        self.conv1 = ga.nn.TransformerConv(width, width // 8, heads=8, dropout=0.2)
        self.conv2 = ga.nn.TransformerConv(width, classes, heads=1)

    def forward(self, x: Tensor, graph: ga.CSRGraph, pe: Tensor) -> Tensor:
        x = F.dropout(x, 0.6, self.training)
        h = F.relu(self.input(x) + self.lin_pe(pe))
        h = F.dropout(F.elu(self.conv1(h, graph)), 0.6, self.training)
        return self.conv2(h, graph)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default="data", help="folder that holds Cora/raw")
    parser.add_argument("--epochs", type=int, default=100)
    arguments = parser.parse_args()
    torch.manual_seed(0)

    cora = ga.load_dataset("Cora", root=arguments.root)
    x = cora.data.x / cora.data.x.sum(1, keepdim=True).clamp(min=1)
    graph = ga.as_graph(cora.data.edge_index, cora.data.num_nodes)
    _, pe = ga.laplacian_pe(graph, 8)
    split, y = cora.splits[0], cora.data.y

    model = CoraTransformer(x.shape[1], cora.num_classes, pe.shape[1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=5e-2)
    best = (0.0, 0.0)
    for _ in (progress := tqdm(range(arguments.epochs))):
        model.train()
        optimizer.zero_grad()
        out = model(x, graph, flip_signs(pe))
        F.cross_entropy(out[split["train"]], y[split["train"]]).backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            out = model(x, graph, pe)
        scores = {part: cora.evaluate(out[i], y[i]) for part, i in split.items()}
        best = max(best, (scores["valid"], scores["test"]))
        progress.set_postfix(valid=f"{best[0]:.3f}", test=f"{best[1]:.3f}")
    print(f"Cora, {cora.split_note}: test accuracy {best[1]:.3f} at best validation {best[0]:.3f}")


if __name__ == "__main__":
    main()
