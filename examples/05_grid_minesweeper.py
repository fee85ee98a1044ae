"""minesweeper is a grid: the same network over a GridGraph and over the data set's own edges.

Cells of a 100 x 100 board attend to the 3 x 3 window around them, cut at the border. The grid
stores no edges; the answers agree to rounding. Run:
python examples/05_grid_minesweeper.py --root data [--epochs 30]
or, with no file at all, on another board by the same rule: --data minesweeper-generated
"""

import argparse
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

import graphattn as ga


class GridTransformer(nn.Module):
    """Pre-norm attention and MLP blocks over any graph."""

    def __init__(self, features: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.embed, self.head = nn.Linear(features, width), nn.Linear(width, 1)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * depth))
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(depth))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            for _ in range(depth)
        )

    def forward(self, x: Tensor, graph: ga.GridGraph | ga.CSRGraph) -> Tensor:
        h = self.embed(x)
        for n, (qkv, mlp) in enumerate(zip(self.qkv, self.mlp, strict=True)):
            parts = qkv(self.norms[2 * n](h)).view(len(h), 3, self.heads, -1)
            h = h + ga.attention(*parts.unbind(1), graph).flatten(1)
            h = h + mlp(self.norms[2 * n + 1](h))
        return self.head(h).squeeze(1)


def train(
    graph: ga.GridGraph | ga.CSRGraph, data: Any, epochs: int, name: str
) -> tuple[Tensor, list[float]]:
    """Logits of all cells after training, and the loss of every epoch."""
    torch.manual_seed(0)
    x, y, split = data.data.x, data.data.y, data.splits[0]
    model = GridTransformer(x.shape[1], width=32, depth=4, heads=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in tqdm(range(epochs), desc=name):
        optimizer.zero_grad()
        logits = model(x, graph)[split["train"]]
        loss = F.binary_cross_entropy_with_logits(logits, y[split["train"]].float())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        out = model(x, graph)
    score = data.evaluate(out[split["test"]], y[split["test"]])
    print(f"{name}: test ROC-AUC {score:.4f} after {epochs} epochs")
    return out, losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="minesweeper", help="or minesweeper-generated")
    parser.add_argument("--root", default="data")
    parser.add_argument("--epochs", type=int, default=30)
    arguments = parser.parse_args()
    data = ga.load_dataset(arguments.data, root=arguments.root)
    written = ga.as_graph(data.data.edge_index, data.data.num_nodes).add_self_loops()
    grid = ga.GridGraph((100, 100), kernel_size=3, border="truncate")
    same = torch.equal(grid.to_csr().indices, written.indices)
    print(f"{grid!r} has the {written.num_edges} edges of {arguments.data}: {same}")
    by_grid, losses = train(grid, data, arguments.epochs, "grid")
    by_edges, others = train(written, data, arguments.epochs, "edges")
    gap = max(abs(a - b) for a, b in zip(losses, others, strict=True))
    print(f"largest difference of a loss: {gap:.1e}")
    print(f"largest difference of a logit: {float((by_grid - by_edges).abs().max()):.1e}")


if __name__ == "__main__":
    main()
