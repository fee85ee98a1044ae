"""Public functions on graphs: checks, schema, derivative and choice of implementation."""

from graphattn.ops.additive import additive_attention as additive_attention
from graphattn.ops.additive import additive_scores as additive_scores
from graphattn.ops.aggregate import aggregate as aggregate
from graphattn.ops.attention import attention as attention
from graphattn.ops.bias import TableBias as TableBias
from graphattn.ops.edge_softmax import edge_softmax as edge_softmax
from graphattn.ops.merge import merge as merge
from graphattn.ops.message_aggregate import message_aggregate as message_aggregate
from graphattn.ops.neighborhood import na1d as na1d
from graphattn.ops.neighborhood import na2d as na2d
from graphattn.ops.neighborhood import na3d as na3d
from graphattn.ops.scores import attention_weights as attention_weights
from graphattn.ops.scores import edge_scores as edge_scores
from graphattn.ops.shared_keys import shared_key_attention as shared_key_attention
from graphattn.ops.top_m import top_m as top_m
