"""graphattn: graph transformers for large graphs.

Attention is a graph, a score and a normaliser; every public name below loads at first use, so
that ``import graphattn`` costs torch and nothing more.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphattn import encodings as encodings
    from graphattn import models as models
    from graphattn import nn as nn
    from graphattn import sampling as sampling
    from graphattn import sparsify as sparsify
    from graphattn import transforms as transforms
    from graphattn.datasets.catalogue import load_dataset as load_dataset
    from graphattn.encodings import laplacian_pe as laplacian_pe
    from graphattn.errors import BackendUnavailable as BackendUnavailable
    from graphattn.graph import CSRGraph as CSRGraph
    from graphattn.graph import GridGraph as GridGraph
    from graphattn.graph import as_graph as as_graph
    from graphattn.graph import complete as complete
    from graphattn.graph import grid_blocks as grid_blocks
    from graphattn.graph import grid_dilated_blocks as grid_dilated_blocks
    from graphattn.graph import halo as halo
    from graphattn.graph import tile_stats as tile_stats
    from graphattn.ops import TableBias as TableBias
    from graphattn.ops import additive_attention as additive_attention
    from graphattn.ops import additive_scores as additive_scores
    from graphattn.ops import aggregate as aggregate
    from graphattn.ops import attention as attention
    from graphattn.ops import attention_weights as attention_weights
    from graphattn.ops import edge_scores as edge_scores
    from graphattn.ops import edge_softmax as edge_softmax
    from graphattn.ops import merge as merge
    from graphattn.ops import message_aggregate as message_aggregate
    from graphattn.ops import na1d as na1d
    from graphattn.ops import na2d as na2d
    from graphattn.ops import na3d as na3d
    from graphattn.ops import shared_key_attention as shared_key_attention
    from graphattn.ops import top_m as top_m

__version__ = "0.1.0"

_HOME = {
    "BackendUnavailable": "graphattn.errors",
    "CSRGraph": "graphattn.graph",
    "GridGraph": "graphattn.graph",
    "as_graph": "graphattn.graph",
    "complete": "graphattn.graph",
    "grid_blocks": "graphattn.graph",
    "grid_dilated_blocks": "graphattn.graph",
    "halo": "graphattn.graph",
    "tile_stats": "graphattn.graph",
    "TableBias": "graphattn.ops",
    "additive_attention": "graphattn.ops",
    "additive_scores": "graphattn.ops",
    "aggregate": "graphattn.ops",
    "attention": "graphattn.ops",
    "attention_weights": "graphattn.ops",
    "edge_scores": "graphattn.ops",
    "edge_softmax": "graphattn.ops",
    "merge": "graphattn.ops",
    "message_aggregate": "graphattn.ops",
    "shared_key_attention": "graphattn.ops",
    "na1d": "graphattn.ops",
    "na2d": "graphattn.ops",
    "na3d": "graphattn.ops",
    "top_m": "graphattn.ops",
    "laplacian_pe": "graphattn.encodings",
    "load_dataset": "graphattn.datasets.catalogue",
}
_MODULES = (
    "encodings", "models", "nn", "plots", "sampling", "sparsify", "training", "transforms",
)  # fmt: skip

__all__ = sorted([*_HOME, *(name for name in _MODULES if name != "training")])


def __getattr__(name: str) -> Any:
    if name in _HOME:
        found = getattr(import_module(_HOME[name]), name)
    elif name in _MODULES:
        found = import_module(f"graphattn.{name}")
    else:
        raise AttributeError(f"module 'graphattn' has no attribute {name!r}")
    globals()[name] = found  # the next look does not come here
    return found


def __dir__() -> list[str]:
    return __all__
