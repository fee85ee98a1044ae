"""Graphs: who attends to whom."""

from graphattn.graph.convert import as_graph as as_graph
from graphattn.graph.csr import CSRGraph as CSRGraph
