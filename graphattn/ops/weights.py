"""attention_weights: the softmax weights themselves, for reading rather than for speed."""

import torch
from torch import Tensor

from graphattn.graph import CSRGraph, as_graph
from graphattn.ops.attention import check_edge_options, fold_batch
from graphattn.ops.checks import check_qkv, check_same_dtype


def attention_weights(
    query: Tensor,
    key: Tensor,
    graph: CSRGraph | Tensor,
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
    per-edge vectors ``[..., E, H, Dk]``; differentiable.
    """
    from graphattn.kernels.reference.attention import edge_list, edge_scores, log_sum_exp

    graph = as_graph(graph)
    heads = query.shape[-2]
    check_qkv(query, key, key, graph)
    check_same_dtype(query, key, key)
    check_edge_options(query, key, graph, bias, gate, edge_attr, edge_proj, False)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    q, k = fold_batch(query, heads), fold_batch(key, heads)
    edge_query = None
    if edge_proj is not None:
        edge_query = torch.einsum("brhd,hdf->brhf", scale * q, edge_proj)
    edges = edge_list(graph.rows_layout("reference"))
    logit, _ = edge_scores(
        q,
        k,
        edges,
        scale=scale,
        clamp=clamp,
        bias=bias,
        gate=gate,
        edge_attr=edge_attr,
        edge_query=edge_query,
    )
    lse = log_sum_exp(logit, edges.row, graph.num_rows)
    lse = torch.where(lse == -torch.inf, torch.zeros_like(lse), lse)
    weight = (logit - lse[:, edges.row]).exp()[:, edges.id.argsort()]
    return weight.reshape(query.shape[:-3] + weight.shape[1:])
