"""Launchers of the Triton attention kernels: allocate, choose a configuration, launch.

Nothing here reads from the device, so calls can be captured in a CUDA graph.
"""

from typing import Any

import torch
from torch import Tensor

from graphattn.kernels.gpu.arguments import (
    Score,
    Work,
    accumulator,
    config_of,
    divide,
    graph_arguments,
    shared_arguments,
)
from graphattn.kernels.gpu.backward_cols import backward_cols
from graphattn.kernels.gpu.backward_rows import backward_rows
from graphattn.kernels.gpu.forward import attention_rows
from graphattn.kernels.gpu.launch import launch
from graphattn.kernels.gpu.levels import merge_rows, merge_sums, partial_rows
from graphattn.kernels.gpu.tuning import Config, backward_registers
from graphattn.kernels.layout import Layout


def attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: Layout,
    *,
    scale: float,
    clamp: float | None = None,
    bias: Tensor | None = None,
    gate: Tensor | None = None,
    edge_attr: Tensor | None = None,
    edge_query: Tensor | None = None,
    dropout_p: float = 0.0,
    streams: Tensor | None = None,
    return_gated: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Softmax attention of every CSR row over its neighbours; meaning as in kernels/reference.

    query [B, R, H, Dk], key [B, C, H, Dk], value [B, C, H, Dv] -> out [B, R, H, Dv], lse
    [B, R, H], edge_out [B, R, H, F] or None, gated [B, E, H, Dk] or None. Allocates the results
    and, for graphs with hub rows, 4 bytes per hub chunk, head and column.
    """
    batch, num_rows, heads, dk = query.shape
    high, work = accumulator(query.dtype), divide(rows)
    out = value.new_empty(batch, num_rows, heads, value.shape[3])
    lse = query.new_empty(batch, num_rows, heads, dtype=high)
    edge_out = None if edge_query is None else torch.empty_like(edge_query)
    gated = query.new_empty(batch, rows.indices.shape[0], heads, dk) if return_gated else None
    if out.numel() == 0:
        return out, lse, edge_out, gated
    config = config_of(query, value, edge_attr)
    score = Score(scale, clamp, bias, gate, edge_attr, edge_query, dropout_p, streams)
    arguments = shared_arguments(query, key, value, rows, score, config)
    final = out, lse, edge_out
    parts = partial_rows(final, work.chunks, high)
    with torch.cuda.device_of(query):
        launch(
            attention_rows,
            batch * config.groups * (work.num_tasks // config.slots),
            **arguments,
            **graph_arguments(work, config),
            **dict(zip(("out", "lse", "edge_out"), final, strict=True)),
            **dict(zip(("part_out", "part_lse", "part_edge"), parts, strict=True)),
            gated=gated,
        )
        merge_rows(parts, final, work, config, arguments)
    return out, lse, edge_out, gated


def attention_backward(
    grad_out: Tensor,
    grad_lse: Tensor | None,
    grad_edge_out: Tensor | None,
    grad_gated: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    edge_out: Tensor | None,
    rows: Layout,
    cols: Layout,
    *,
    scale: float,
    clamp: float | None = None,
    bias: Tensor | None = None,
    gate: Tensor | None = None,
    edge_attr: Tensor | None = None,
    edge_query: Tensor | None = None,
    dropout_p: float = 0.0,
    streams: Tensor | None = None,
    needs: tuple[bool, bool, bool, bool],
) -> tuple[Tensor | None, ...]:
    """Gradients of ``attention_forward`` in two passes, by rows and then by columns.

    Tensors as there; ``needs`` = (bias, gate, edge_attr, edge_query). Returns the gradients of
    query, key, value, bias, gate, edge_attr, edge_query; those not needed are None. Allocates
    these, 2 numbers per row and head, and partial sums of hub rows and columns.
    """
    config = config_of(query, value, edge_attr)
    score = Score(scale, clamp, bias, gate, edge_attr, edge_query, dropout_p, streams)
    arguments = shared_arguments(query, key, value, rows, score, config)
    stats_shape = *query.shape[:2], 2, query.shape[2]
    arguments["stats"] = query.new_empty(stats_shape, dtype=accumulator(query.dtype))
    pulls = {"grad_out": grad_out, "grad_edge_out": grad_edge_out, "grad_gated": grad_gated}
    arguments |= pulls
    arguments["max_registers"] = backward_registers(
        sum((bias is not None, clamp is not None, dropout_p > 0.0)),
        sum(t is not None for t in (gate, edge_attr, grad_gated)),
        query.element_size(),
    )
    with torch.cuda.device_of(query):
        saved = {"grad_lse": grad_lse, "out": out, "lse": lse, "edge_out": edge_out}
        by_rows = _row_pass(arguments | saved, divide(rows), config, needs)
        by_cols = _column_pass(arguments, divide(cols), config)
    return by_rows[0], *by_cols, *by_rows[1:]


def _row_pass(
    arguments: dict[str, Any], work: Work, config: Config, needs: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Gradients of (query, bias, gate, edge_attr, edge_query); writes ``stats``.

    Gradients of edge tensors sum over batch and head groups: these then run one after the other,
    each adding to what the one before it left, in the accumulation dtype.
    """
    query, lse = arguments["query"], arguments["lse"]
    units = query.shape[0] * config.groups
    one_by_one = any(needs[:3]) and units > 1
    edge_side = tuple(
        _edge_gradient(arguments[name], need, lse.dtype if one_by_one else None)
        for name, need in zip(("bias", "gate", "edge_attr"), needs[:3], strict=True)
    )
    edge_query = arguments["edge_query"] if needs[3] else None
    final = tuple(None if t is None else torch.empty_like(t) for t in (query, edge_query))
    parts = partial_rows(final, work.chunks, lse.dtype)
    blocks = work.num_tasks // config.slots
    for first_unit in range(units if one_by_one else 1):
        launch(
            backward_rows,
            blocks if one_by_one else units * blocks,
            **arguments,
            **graph_arguments(work, config),
            grad_query=final[0],
            grad_edge_query=final[1],
            part_query=parts[0],
            part_edge_query=parts[1],
            grad_bias=edge_side[0],
            grad_gate=edge_side[1],
            grad_edge_attr=edge_side[2],
            first_unit=first_unit,
            ADD=one_by_one,
        )
    for part, whole in zip(parts, final, strict=True):
        merge_sums(part, whole, work)
    narrow = (
        None if found is None else found.to(arguments[name].dtype)
        for name, found in zip(("bias", "gate", "edge_attr"), edge_side, strict=True)
    )
    return final[0], *narrow, final[1]


def _edge_gradient(
    tensor: Tensor | None, need: bool, sum_dtype: torch.dtype | None
) -> Tensor | None:
    """Buffer for the gradient of an edge tensor: zeros to be added to, or memory to be filled."""
    if tensor is None or not need:
        return None
    if sum_dtype is None:
        return torch.empty_like(tensor)
    return torch.zeros_like(tensor, dtype=sum_dtype)


def _column_pass(
    arguments: dict[str, Any], work: Work, config: Config
) -> tuple[Tensor | None, ...]:
    """Gradients of key and value from the transposed graph and the ``stats`` of the row pass."""
    key, value = arguments["key"], arguments["value"]
    final = torch.empty_like(key), torch.empty_like(value)
    parts = partial_rows(final, work.chunks, arguments["stats"].dtype)
    launch(
        backward_cols,
        key.shape[0] * config.groups * (work.num_tasks // config.slots),
        **arguments,
        **graph_arguments(work, config),
        grad_key=final[0],
        grad_value=final[1],
        part_key=parts[0],
        part_value=parts[1],
    )
    for part, whole in zip(parts, final, strict=True):
        merge_sums(part, whole, work)
    return final
