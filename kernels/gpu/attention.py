"""Launchers of the Triton attention kernels: allocate, choose a configuration, launch.

Nothing here reads from the device, so calls can be captured in a CUDA graph.
"""

from typing import Any

import torch
from torch import Tensor

from graphattn.kernels.gpu import grid
from graphattn.kernels.gpu.arguments import Call, Work, divide, graph_arguments, packed, prepare
from graphattn.kernels.gpu.backward_cols import backward_cols
from graphattn.kernels.gpu.backward_rows import backward_rows
from graphattn.kernels.gpu.edge_gradients import edge_gradients
from graphattn.kernels.gpu.forward import attention_rows
from graphattn.kernels.gpu.launch import launch_with, on_device_of
from graphattn.kernels.gpu.levels import merge_rows, merge_sums, partial_rows
from graphattn.kernels.gpu.tuning import backward_registers, forward_registers
from graphattn.kernels.layout import Layout
from graphattn.kernels.score import Gradients, Results, Score


def attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    rows: Layout,
    score: Score,
    return_gated: bool = False,
) -> Results:
    """Softmax attention of every CSR row over its neighbours; the logits alone without a value.

    query [B, R, H, Dk], key [B, C, H, Dk], value [B, C, H, Dv], contiguous; see ``Results``.
    The layout of a grid goes to grid.py, whose kernels know few options. Allocates the results and,
    for graphs with hub rows, 4 bytes per hub chunk, head and column.
    """
    if rows.tables is not None and value is not None:
        return grid.attention_forward(query, key, value, rows, score)
    score = packed(score)
    call, work = prepare(query, key, value, rows, score), divide(rows)
    made = _empty_results(query, value, call, score, return_gated)
    whole = made.scores if made.out is None else made.out
    if whole is None or whole.numel() == 0:
        return made
    final = made.out, made.lse, made.edge_out
    parts = _partials(final, made.lse, work)
    own = {
        "out": made.out,
        "lse": made.lse,
        "edge_out": made.edge_out,
        "gated": made.gated,
        "scores": made.scores,
        "part_out": parts[0],
        "part_lse": parts[1],
        "part_edge": parts[2],
    }
    wide = (score.gate is not None) + (score.edge_attr is not None)
    registers = forward_registers(wide, query.element_size())
    programs = call.units * (work.num_tasks // call.config.slots)
    with on_device_of(query):
        _launch(attention_rows, call, work, own, programs, registers)
        if made.out is not None and work.chunks > 0:
            merge_rows(parts, final, work, call.config, call.arguments)
    return made


def _launch(
    kernel: Any,
    call: Call,
    work: Work,
    own: dict[str, Any],
    programs: int,
    registers: int | None,
) -> None:
    """Run a kernel over the slots of ``work``; ``own``: arguments that are this kernel's alone."""
    arguments = {**call.arguments, **graph_arguments(work, call.config), **own}
    launch_with(kernel, programs, arguments, call.config.warps, registers)


def _empty_results(
    query: Tensor, value: Tensor | None, call: Call, score: Score, return_gated: bool
) -> Results:
    """Memory for what is asked for; the kernels fill all of it."""
    heads, edge_query = query.shape[2], score.edge_query
    gated = None
    if return_gated:
        gated = query.new_empty((call.batch, call.num_edges, heads, query.shape[3]))
    if value is None:
        scores = query.new_empty((call.batch, call.num_edges, heads), dtype=call.high)
        return Results(gated=gated, scores=scores)
    return Results(
        out=value.new_empty((call.batch, call.num_rows, heads, value.shape[3])),
        lse=query.new_empty((call.batch, call.num_rows, heads), dtype=call.high),
        edge_out=None if edge_query is None else torch.empty_like(edge_query),
        gated=gated,
    )


def _partials(
    final: tuple[Tensor | None, ...], stand_in: Tensor | None, work: Work
) -> tuple[Tensor | None, ...]:
    """Buffers for the partial results of hub chunks, in the dtype of ``stand_in``.

    Without a hub ``stand_in`` itself is passed in their place, never to be touched: graphs with
    and without hubs then share one compiled kernel.
    """
    if stand_in is None or work.chunks == 0:
        return tuple([None if t is None else stand_in for t in final])
    return partial_rows(final, work.chunks, stand_in.dtype)


def attention_backward(
    grads: Results,
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    done: Results,
    rows: Layout,
    cols: Layout,
    score: Score,
    needs: tuple[bool, ...] = (False, False, False, False),
) -> Gradients:
    """Gradients of ``attention_forward`` in two passes, by rows and then by columns.

    ``done`` holds its out, lse and edge_out. ``needs``: whether the gradients of (bias, gate,
    edge_attr, edge_query) are wanted; those of edge tensors are in the caller's order and summed
    over the batch. Allocates these, 2 numbers per row and head, partial sums of hub rows and
    columns, and for a bias table copies of its gradient: see ``EdgeGradients``.
    """
    if rows.tables is not None and value is not None:
        return grid.attention_backward(grads, query, key, value, done, rows, cols, score, needs[0])
    score = packed(score)
    call = prepare(query, key, value, rows, score)
    stats = None
    if value is not None:
        shape = call.batch, call.num_rows, 2, query.shape[2]
        stats = query.new_empty(shape, dtype=call.high)
    call.arguments.update(
        grad_out=grads.out,
        grad_edge_out=grads.edge_out,
        grad_gated=grads.gated,
        grad_scores=grads.scores,
        stats=stats,
    )
    options = (score.bias, score.clamp, score.mask, score.dropout_p or None)
    wide = (score.gate, score.edge_attr, grads.gated)
    counts = [sum(option is not None for option in kind) for kind in (options, wide)]
    by_rows, by_columns = (
        backward_registers(*counts, query.element_size(), columns) for columns in (False, True)
    )
    with on_device_of(query):
        grad_query, *edge_side = _row_pass(call, grads, done, divide(rows), score, needs, by_rows)
        grad_key, grad_value = _column_pass(call, divide(cols), by_columns)
    return Gradients(grad_query, grad_key, grad_value, *edge_side)


def _row_pass(
    call: Call,
    grads: Results,
    done: Results,
    work: Work,
    score: Score,
    needs: tuple[bool, ...],
    registers: int | None,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of (query, bias, gate, edge_attr, edge_query); writes ``stats``."""
    edge_query = score.edge_query if needs[3] else None
    grad_query = torch.empty_like(call.arguments["query"])
    final = grad_query, None if edge_query is None else torch.empty_like(edge_query)
    stand_in = grads.scores if grads.out is None else call.arguments["stats"]
    parts = _partials(final, stand_in, work)
    by_edge = edge_gradients(call, work, score, needs)
    own = {
        "grad_lse": grads.lse,
        "out": done.out,
        "lse": done.lse,
        "edge_out": done.edge_out,
        "grad_query": grad_query,
        "grad_edge_query": final[1],
        "part_query": parts[0],
        "part_edge_query": parts[1],
        "grad_bias": by_edge.bias,
        "grad_table": by_edge.table,
        "grad_gate": by_edge.gate,
        "grad_edge_attr": by_edge.edge_attr,
        "items": by_edge.items,
        "ADD": by_edge.launches > 1,
    }
    for first_unit in range(by_edge.launches):
        own["first_unit"] = first_unit
        _launch(backward_rows, call, work, own, by_edge.programs, registers)
    _merge(parts, final, work)
    return grad_query, *by_edge.finish(score), final[1]


def _column_pass(call: Call, work: Work, registers: int | None) -> tuple[Tensor, Tensor | None]:
    """Gradients of key and value from the transposed graph and the ``stats`` of the row pass."""
    arguments = call.arguments
    value = arguments["value"]
    stand_in = arguments["grad_scores"] if value is None else arguments["stats"]
    final = torch.empty_like(arguments["key"]), None if value is None else torch.empty_like(value)
    parts = _partials(final, stand_in, work)
    own = {
        "grad_key": final[0],
        "grad_value": final[1],
        "part_key": parts[0],
        "part_value": parts[1],
    }
    programs = call.units * (work.num_tasks // call.config.slots)
    _launch(backward_cols, call, work, own, programs, registers)
    _merge(parts, final, work)
    return final


def _merge(parts: tuple[Any, ...], final: tuple[Any, ...], work: Work) -> None:
    if work.chunks > 0:
        for part, whole in zip(parts, final, strict=True):
            merge_sums(part, whole, work)
