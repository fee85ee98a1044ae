"""Whole networks: ``MODELS`` names those that the command line builds."""

import sys
from typing import Any

from torch import nn

from graphattn.models.baselines import GAT as GAT
from graphattn.models.baselines import GCN as GCN
from graphattn.models.baselines import SAGE as SAGE
from graphattn.models.graph_transformer import GraphTransformer as GraphTransformer
from graphattn.models.hub import hub as hub
from graphattn.models.isomorphic_transformer import (
    IsomorphicTransformer as IsomorphicTransformer,
)
from graphattn.models.laplacian_transformer import LaplacianTransformer as LaplacianTransformer
from graphattn.models.large_gt import LargeGT as LargeGT
from graphattn.models.neighborhood_transformer import (
    NeighborhoodTransformer as NeighborhoodTransformer,
)
from graphattn.models.sinc import SINC as SINC
from graphattn.models.tangnn import TANGNN as TANGNN
from graphattn.models.timm_registry import register_timm as register_timm

# name -> (class, arguments that the name fixes); all share the constructor's shape
MODELS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "gt": (GraphTransformer, {"variant": "gt"}),
    "gt-sep": (GraphTransformer, {"variant": "gt-sep"}),
    "gcn": (GCN, {}),
    "sage": (SAGE, {}),
    "gat": (GAT, {}),
    "large-gt": (LargeGT, {}),
    "gin-attention": (IsomorphicTransformer, {"layer": "gin"}),
    "pna-attention": (IsomorphicTransformer, {"layer": "pna"}),
    "tangnn": (TANGNN, {}),
    "sinc": (SINC, {}),
}

if "timm" in sys.modules:  # imported before: names cost nothing then; see register_timm
    register_timm()
