"""Graphs: who attends to whom."""

from graphattn.graph.convert import as_graph as as_graph
from graphattn.graph.csr import CSRGraph as CSRGraph
from graphattn.graph.grid import GridGraph as GridGraph
from graphattn.graph.patterns import TileStats as TileStats
from graphattn.graph.patterns import complete as complete
from graphattn.graph.patterns import grid_blocks as grid_blocks
from graphattn.graph.patterns import grid_dilated_blocks as grid_dilated_blocks
from graphattn.graph.patterns import halo as halo
from graphattn.graph.patterns import tile_stats as tile_stats
from graphattn.graph.product import ProductGraph as ProductGraph

Graph = CSRGraph | ProductGraph
"""What attention takes: edges written down, or computed from the axes of a grid."""
