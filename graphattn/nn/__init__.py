"""Modules that own weights and call ops; one family per file."""

from graphattn.nn.blocks import mean_pool as mean_pool
from graphattn.nn.graph_transformer_layer import GraphTransformerLayer as GraphTransformerLayer
from graphattn.nn.neighborhood_attention import (
    NeighborhoodAttention1D as NeighborhoodAttention1D,
)
from graphattn.nn.neighborhood_attention import (
    NeighborhoodAttention2D as NeighborhoodAttention2D,
)
from graphattn.nn.neighborhood_attention import (
    NeighborhoodAttention3D as NeighborhoodAttention3D,
)
from graphattn.nn.neighborhood_attention import WindowAttention as WindowAttention
from graphattn.nn.transformer_conv import TransformerConv as TransformerConv
