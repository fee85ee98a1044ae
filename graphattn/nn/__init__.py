"""Modules that own weights and call ops; one family per file."""

from graphattn.nn.blocks import mean_pool as mean_pool
from graphattn.nn.codebook_attention import CodebookAttention as CodebookAttention
from graphattn.nn.graph_transformer_layer import GraphTransformerLayer as GraphTransformerLayer
from graphattn.nn.token_transformer import TokenTransformer as TokenTransformer
from graphattn.nn.transformer_conv import TransformerConv as TransformerConv
