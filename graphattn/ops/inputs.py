"""From public arguments to what the kernels take: checks, dtypes, batch, heads, the score."""

import math
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor

from graphattn.graph import Graph, ProductGraph
from graphattn.kernels.reference import attention as reference
from graphattn.kernels.reference.edges import accumulate_dtype
from graphattn.kernels.score import Results, Score, is_implied
from graphattn.ops._dispatch import resolve
from graphattn.ops.attention_op import TENSORS, attend
from graphattn.ops.bias import TableBias
from graphattn.ops.checks import (
    check_edge_attr,
    check_edge_tensor,
    check_numbers,
    check_qkv,
    check_same_dtype,
    check_weights,
)
from graphattn.ops.fused import check_reverse_mode, flat, may_train
from graphattn.ops.project import project_heads

WIDEST_TILE = 256
"""Bytes of one head's features beyond which Triton's kernels for grids run out of registers."""


class ScoreOptions(TypedDict, total=False):
    """Keywords that make up a logit; see :func:`graphattn.attention`."""

    scale: float | None
    bias: Tensor | TableBias | None
    gate: Tensor | None
    edge_attr: Tensor | None
    edge_proj: Tensor | None
    clamp: float | None
    impl: str


class Inputs(NamedTuple):
    """Tensors in kernel form: query [B, R, H, Dk], key and value [B, C, H, D].

    ``lead``: the batch dimensions folded into B. ``edge_proj``: [H, D, F] in query's dtype.
    """

    query: Tensor
    key: Tensor
    value: Tensor | None
    graph: Graph
    score: Score
    edge_proj: Tensor | None
    impl: str
    lead: torch.Size

    def scored(self, **changes: Any) -> "Inputs":
        """These inputs with another score."""
        return self._replace(score=self.score._replace(**changes))


def prepare(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    graph: Graph,
    *,
    scale: float | None = None,
    bias: Tensor | TableBias | None = None,
    gate: Tensor | None = None,
    edge_attr: Tensor | None = None,
    edge_proj: Tensor | None = None,
    clamp: float | None = None,
    impl: str = "auto",
    return_gated: bool = False,
) -> Inputs:
    """Check everything that is per node or per edge, and bring it into kernel form."""
    if edge_attr is not None and (gate is not None or return_gated):
        raise ValueError(
            "edge_attr cannot be combined with gate or return_gated; "
            "project the edge features into the gate instead"
        )
    nodes = (query, key) if value is None else (query, key, value)
    check_qkv(query, key, key if value is None else value, graph)
    check_numbers(scale, clamp)
    query, key, *rest = autocast(*nodes)
    check_same_dtype(query, key, *rest)
    heads, lead = query.shape[-2], query.shape[:-3]
    check_edge_options(heads, (query, key, *rest), graph, bias, gate, edge_attr, edge_proj)
    scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
    q, k, *v = (fold_batch(t, heads) for t in (query, key, *rest))
    impl = resolve(impl, q.device)
    edge_attr, edge_proj, edge_query = _project_query(q, edge_attr, edge_proj, scale, impl)
    table = bias.table if isinstance(bias, TableBias) else bias
    score = Score(
        scale=scale,
        clamp=None if clamp is None else float(clamp),
        bias=None if table is None else table.to(accumulate_dtype(q)),
        bias_index=bias.index_for(graph, impl) if isinstance(bias, TableBias) else None,
        gate=None if gate is None else gate.to(q.dtype),
        edge_attr=edge_attr,
        edge_query=edge_query,
    )
    return Inputs(q, k, v[0] if v else None, graph, score, edge_proj, impl, lead)


def run(inputs: Inputs, return_gated: bool = False) -> Results:
    """Call the reference with plain autograd, or the fused operator."""
    query, key, value, graph, score, _, impl, _ = inputs
    if impl == "reference":
        layout = graph.rows_layout(impl)
        return reference.attention_forward(query, key, value, layout, score, return_gated)
    check_reverse_mode(impl)
    tensors = [getattr(score, name) for name in TENSORS]
    training = may_train(query, key, value, *tensors)
    kind = layouts_for(inputs, return_gated)
    if kind == "triton" and is_implied(score.bias_index) and isinstance(graph, ProductGraph):
        tensors[TENSORS.index("bias_index")] = graph.relative_index()
    cols = flat(graph.cols_layout(kind)) if training else []
    rows = flat(graph.rows_layout(kind))
    numbers = score.scale, score.clamp, score.dropout_p, return_gated
    return Results(*attend(query, key, value, *tensors, rows, cols, *numbers, impl))


def layouts_for(inputs: Inputs, return_gated: bool = False) -> str:
    """Whose layouts the kernels of a call read: those of ``impl``, or of Triton's for grids."""
    impl = inputs.impl
    return "tiles" if impl == "triton" and takes_tiles(inputs, return_gated) else impl


def takes_tiles(inputs: Inputs, return_gated: bool) -> bool:
    """Whether Triton's kernels for grids serve a call; all others go over the written-down edges.

    Of the score's options they know a table of relative positions; windows that wrap, and float64,
    have no place on them.
    """
    query, _, value, graph, score, *_ = inputs
    if value is None or return_gated or not isinstance(graph, ProductGraph) or graph.wraps:
        return False
    others = [name for name in TENSORS if name not in ("bias", "bias_index")]
    plain = all(getattr(score, name) is None for name in others) and score.clamp is None
    plain &= score.bias is None or is_implied(score.bias_index)
    widest = max(query.shape[3], value.shape[3]) * query.element_size()
    return plain and query.dtype != torch.float64 and widest <= WIDEST_TILE


def check_edge_options(
    heads: int,
    nodes: tuple[Tensor, ...],
    graph: Graph,
    bias: Tensor | TableBias | None,
    gate: Tensor | None,
    edge_attr: Tensor | None,
    edge_proj: Tensor | None,
) -> None:
    """Check the per-edge tensors and which of them may be combined."""
    edges, width = graph.num_edges, nodes[0].shape[-1]
    if isinstance(bias, TableBias):
        bias.check(graph, heads)
    elif bias is not None:
        check_edge_tensor("bias", bias, graph, (edges,), (edges, heads))
    if gate is not None:
        check_edge_tensor("gate", gate, graph, (edges, heads, width))
    if (edge_attr is None) != (edge_proj is None):
        raise ValueError("edge_attr and edge_proj go together: pass both or neither")
    if edge_attr is None or edge_proj is None:
        return
    check_edge_attr(edge_attr, graph)
    widths = {t.shape[-1] for t in nodes}
    if len(widths) > 1:
        raise ValueError(
            "edge features are added to key and value, which takes one width for key and value, "
            f"got {sorted(widths)}"
        )
    wanted = heads, width, edge_attr.shape[1]
    check_weights("edge_proj", edge_proj, "[H, D, F]", wanted, graph)


def autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Cast as scaled_dot_product_attention does: to autocast's dtype where it is on."""
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    return tuple(t if t.dtype == torch.float64 else t.to(dtype) for t in tensors)


def fold_batch(tensor: Tensor, heads: int) -> Tensor:
    """Fold the batch dimensions into one and spread grouped heads: [B, nodes, H, D]."""
    if tensor.dim() == 3:
        flat = tensor.unsqueeze(0)
    else:
        flat = tensor.reshape(math.prod(tensor.shape[:-3]), *tensor.shape[-3:])
    groups = heads // max(tensor.shape[-2], 1)
    return flat if groups == 1 else flat.repeat_interleave(groups, dim=2)


def unfold_batch(tensor: Tensor, lead: torch.Size) -> Tensor:
    """Undo ``fold_batch``: [B, ...] with the batch dimensions as they came."""
    return tensor.reshape(lead + tensor.shape[1:]) if lead else tensor.squeeze(0)


def _project_query(
    query: Tensor, edge_attr: Tensor | None, edge_proj: Tensor | None, scale: float, impl: str
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Edge features and projection in query's dtype, and the scaled query seen by the features.

    q . (k + P a) = q . k + (P^T q) . a, so that no projected edge feature [E, H, D] is needed.
    """
    if edge_attr is None or edge_proj is None:
        return None, None, None
    edge_attr, edge_proj = edge_attr.to(query.dtype), edge_proj.to(query.dtype)
    return edge_attr, edge_proj, project_heads(query, scale * edge_proj, impl)
