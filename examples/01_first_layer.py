"""First layer: swap PyG's TransformerConv for ours, keep the weights, then build your own.

Run: python examples/01_first_layer.py
"""

import torch
from torch import Tensor, nn
from torch_geometric.nn import TransformerConv as PyGConv

import graphattn as ga

torch.manual_seed(0)
nodes, edges = 1_000, 8_000
x = torch.randn(nodes, 32)
edge_index = torch.randint(0, nodes, (2, edges))
edge_attr = torch.randn(edges, 4)

# 1. The same arguments, the same parameter names, the same numbers.
theirs = PyGConv(32, 16, heads=4, edge_dim=4, beta=True)
ours = ga.nn.TransformerConv(32, 16, heads=4, edge_dim=4, beta=True)
ours.load_state_dict(theirs.state_dict())
difference = (ours(x, edge_index, edge_attr) - theirs(x, edge_index, edge_attr)).abs().max()
print(f"largest difference to PyG: {difference.item():.1e}")
assert difference < 1e-5


# 2. A layer of your own: a graph, a score, a normaliser. Here every head looks away from nodes of
#    high degree, by a learned bias per edge and head.
class DegreeShyAttention(nn.Module):
    """Attention whose logits fall with the log degree of the neighbour."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.slope = nn.Parameter(torch.zeros(heads))

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        graph = ga.as_graph(edge_index, x.shape[0])  # converted once, then cached
        query, key, value = self.qkv(x).view(x.shape[0], 3, self.heads, -1).unbind(1)
        degree = graph.t().degree().clamp(min=1).float().log()
        bias = degree[edge_index[0], None] * self.slope  # [E, H] in the order of edge_index
        return ga.attention(query, key, value, graph, bias=bias).flatten(1)


layer = DegreeShyAttention(32, heads=4)
out = layer(x, edge_index)
out.square().mean().backward()
print(
    f"{layer.__class__.__name__}: {list(x.shape)} -> {list(out.shape)}, slope has a gradient:",
    bool(layer.slope.grad.abs().sum() > 0),
)
