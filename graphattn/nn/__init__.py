"""Modules that own weights and call ops; one family per file."""

from graphattn.nn.adjacency import TRANSFORMS as TRANSFORMS
from graphattn.nn.adjacency import AdjacencyTransform as AdjacencyTransform
from graphattn.nn.blocks import mean_pool as mean_pool
from graphattn.nn.codebook_attention import CodebookAttention as CodebookAttention
from graphattn.nn.gatv2_conv import GATv2Conv as GATv2Conv
from graphattn.nn.gin_attention import GINAttention as GINAttention
from graphattn.nn.graph_transformer_layer import GraphTransformerLayer as GraphTransformerLayer
from graphattn.nn.hop_bias import HopBias as HopBias
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
from graphattn.nn.pna_attention import PNAAttention as PNAAttention
from graphattn.nn.sinc_conv import SINCConv as SINCConv
from graphattn.nn.sparse_gin_adapter import SparseGINAdapter as SparseGINAdapter
from graphattn.nn.token_transformer import TokenTransformer as TokenTransformer
from graphattn.nn.top_m_attention import TopMAttention as TopMAttention
from graphattn.nn.transformer_conv import TransformerConv as TransformerConv
