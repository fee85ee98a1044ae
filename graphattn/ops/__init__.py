"""Public functions on graphs: checks, schema, derivative and choice of implementation."""

from graphattn.ops.attention import attention as attention
from graphattn.ops.merge import merge as merge
from graphattn.ops.weights import attention_weights as attention_weights
