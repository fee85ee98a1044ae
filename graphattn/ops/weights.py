"""attention_weights: the softmax weights themselves, for reading rather than for speed."""

from typing import Any

import torch
from torch import Tensor

from graphattn.graph import as_graph
from graphattn.kernels.reference import attention as reference
from graphattn.ops.attention import (
    accumulate_dtype,
    check_edge_options,
    fold_batch,
    project_query,
)
from graphattn.ops.checks import check_numbers, check_qkv, check_same_dtype


def attention_weights(
    query: Tensor,
    key: Tensor,
    graph: Any,
    *,
    scale: float | None = None,
    bias: Tensor | None = None,
    gate: Tensor | None = None,
    edge_attr: Tensor | None = None,
    edge_proj: Tensor | None = None,
    clamp: float | None = None,
) -> Tensor:
    """Softmax weight of every edge, ``[..., E, H]``, in the caller's edge order.

    Arguments as in :func:`attention`. Not fused: computed by the reference, which allocates
    per-edge vectors ``[..., E, H, Dk]``; in float32 (float64 for float64); differentiable.
    """
    graph = as_graph(graph)
    heads, high = query.shape[-2], accumulate_dtype(query)
    check_qkv(query, key, key, graph)
    check_same_dtype(query, key, key)
    check_numbers(scale, clamp, 0.0, 0.0)
    check_edge_options(query, key, graph, bias, gate, edge_attr, edge_proj, False)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    q, k = fold_batch(query, heads).to(high), fold_batch(key, heads).to(high)
    edges = reference.edge_list(graph.rows_layout("reference"))
    with torch.autocast(q.device.type, enabled=False):
        edge_attr, _, edge_query = project_query(q, edge_attr, edge_proj, scale)
        logit, _ = reference.edge_scores(
            q,
            k,
            edges,
            scale=scale,
            clamp=clamp,
            bias=None if bias is None else bias.to(high),
            gate=None if gate is None else gate.to(high),
            edge_attr=edge_attr,
            edge_query=edge_query,
        )
        weight, _ = reference.row_softmax(logit, edges.row, graph.num_rows)
    weight = weight[:, edges.id.argsort()]
    return weight.reshape(query.shape[:-3] + weight.shape[1:])
