"""Launch arguments that every attention kernel takes: widths, graph, score, configuration."""

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from graphattn.kernels.gpu.launch import warp_size
from graphattn.kernels.gpu.tuning import Config, Shape, configure, row_slots
from graphattn.kernels.layout import Layout
from graphattn.kernels.score import Score


class Work(NamedTuple):
    """One orientation of the graph as launch arguments."""

    layout: Layout
    num_tasks: int
    chunks: int

    @property
    def levels(self) -> tuple[Tensor, ...]:
        """Merge tasks, one tensor per level."""
        return tuple(level for level in self.layout.plan[1:] if level.shape[1] > 0)


def divide(layout: Layout) -> Work:
    """Split a plan's slots into hub chunks and whole rows."""
    num_tasks = layout.plan[0].shape[1]
    return Work(layout, num_tasks, num_tasks - row_slots(layout.indptr.shape[0] - 1))


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """Dtype of softmax, sums and LSE for a storage dtype."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def graph_arguments(work: Work, config: Config) -> dict[str, Any]:
    """What tells a kernel its edges and its share of them."""
    edges = work.layout.edges
    return {
        "indices": work.layout.indices,
        "edges": edges if edges.shape[0] > 0 else None,
        "slots": work.layout.plan[0],
        "num_slots": work.num_tasks,
        "blocks": work.num_tasks // config.slots,
        "chunk_blocks": work.chunks // config.slots,
    }


class Call(NamedTuple):
    """One call's configuration, accumulation dtype, sizes and common kernel arguments.

    units: independent parts of the work, batch entries times groups of heads.
    """

    config: Config
    high: torch.dtype
    batch: int
    num_rows: int
    num_edges: int
    units: int
    arguments: dict[str, Any]


def packed(score: Score) -> Score:
    """The score with its tensors contiguous, as the kernels index them."""
    loose = {}
    for name, field in zip(Score._fields, score, strict=True):
        if field is not None and isinstance(field, Tensor) and not field.is_contiguous():
            loose[name] = field.contiguous()
    return score._replace(**loose) if loose else score


def prepare(query: Tensor, key: Tensor, value: Tensor | None, rows: Layout, score: Score) -> Call:
    """Arguments that the forward and both backward kernels have in common."""
    batch, num_rows, heads, dk = query.shape
    num_edges = rows.indices.shape[0]
    bias, edge_attr, clamp, dropout_p = score.bias, score.edge_attr, score.clamp, score.dropout_p
    config, high, constants = _constants(
        heads,
        dk,
        1 if value is None else value.shape[3],
        0 if edge_attr is None else edge_attr.shape[1],
        query.dtype,
        warp_size(),
        clamp is not None,
        bias is not None and bias.dim() == 2,
    )
    arguments = {
        "query": query,
        "key": key,
        "value": value,
        "bias": bias,
        "bias_index": score.bias_index,
        "gate": score.gate,
        "edge_attr": edge_attr,
        "edge_query": score.edge_query,
        "mask": score.mask,
        "streams": score.streams if dropout_p > 0.0 and value is not None else None,
        "num_rows": num_rows,
        "num_cols": key.shape[1],
        "num_edges": num_edges,
        "num_types": 0 if bias is None or score.bias_index is None else bias.shape[1],
        "scale": score.scale,
        "clamp": 0.0 if clamp is None else clamp,
        "keep_scale": 1.0 / (1.0 - dropout_p),
        "threshold": int(dropout_p * 2**32),
        **constants,
    }
    units = batch * config.groups
    return Call(config, high, batch, num_rows, num_edges, units, arguments)


@lru_cache(maxsize=1024)
def _constants(
    heads: int,
    dk: int,
    dv: int,
    df: int,
    dtype: torch.dtype,
    warp_size: int,
    clamp: bool,
    bias_per_head: bool,
) -> tuple[Config, torch.dtype, dict[str, Any]]:
    """Configuration, accumulation dtype and compile-time arguments of the kernels."""
    config = configure(Shape(heads, dk, dv, df, dtype.itemsize, warp_size))
    high = accumulator(dtype)
    return (
        config,
        high,
        {
            "HEADS": heads,
            "DK": dk,
            "DV": dv,
            "DF": max(df, 1),
            "GROUPS": config.groups,
            "BLOCK_H": config.block_h,
            "BLOCK_K": config.block_k,
            "BLOCK_V": config.block_v,
            "BLOCK_F": config.block_f,
            "EXACT": config.exact,
            "SLOTS": config.slots,
            "UNROLL": config.unroll,
            "ACC": tl.float64 if high == torch.float64 else tl.float32,
            "CLAMP": clamp,
            "BIAS_PER_HEAD": bias_per_head,
        },
    )
