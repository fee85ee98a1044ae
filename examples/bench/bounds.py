"""Byte bounds of sparse attention: what must cross memory, with and without reuse."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """Sizes of one attention workload: nodes, edges, heads, head width, bytes per element."""

    nodes: int
    edges: int
    heads: int
    width: int
    size: int = 4
    index: int = 4

    def forward(self) -> tuple[int, int]:
        """(compulsory, without reuse) bytes of the forward pass."""
        row = self.size * self.heads * self.width
        index = self.index * self.edges + 8 * self.nodes + 4 * self.heads * self.nodes
        return 4 * row * self.nodes + index, row * 2 * (self.nodes + self.edges) + index

    def backward(self) -> tuple[int, int]:
        """(compulsory, without reuse) bytes of the two-pass, recomputing backward."""
        row = self.size * self.heads * self.width
        dense = 8 * row * self.nodes
        compulsory = dense + 2 * self.index * self.edges + 8 * self.heads * self.nodes
        return compulsory, dense + self.edges * (4 * row + 8 * self.heads + 2 * self.index)
