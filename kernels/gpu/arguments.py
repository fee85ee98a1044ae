"""Launch arguments that every attention kernel takes: widths, graph, score, configuration."""

from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from graphattn.kernels.gpu.launch import warp_size
from graphattn.kernels.gpu.tuning import Config, Shape, configure, row_slots
from graphattn.kernels.layout import Layout


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


def config_of(query: Tensor, value: Tensor, edge_attr: Tensor | None) -> Config:
    """Launch configuration for these widths and this dtype."""
    df = 0 if edge_attr is None else edge_attr.shape[1]
    shape = Shape(
        query.shape[2], query.shape[3], value.shape[3], df, query.element_size(), warp_size()
    )
    return configure(shape)


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


class Score(NamedTuple):
    """What makes up a logit and its weight: the options of ``attention_forward``."""

    scale: float
    clamp: float | None
    bias: Tensor | None
    gate: Tensor | None
    edge_attr: Tensor | None
    edge_query: Tensor | None
    dropout_p: float
    streams: Tensor | None


def shared_arguments(
    query: Tensor, key: Tensor, value: Tensor, rows: Layout, score: Score, config: Config
) -> dict[str, Any]:
    """Arguments that the forward and both backward kernels have in common."""
    bias, edge_attr = score.bias, score.edge_attr
    wide = query.dtype == torch.float64
    return {
        "query": query,
        "key": key,
        "value": value,
        "bias": bias,
        "gate": score.gate,
        "edge_attr": edge_attr,
        "edge_query": score.edge_query,
        "streams": score.streams if score.dropout_p > 0.0 else None,
        "num_rows": query.shape[1],
        "num_cols": key.shape[1],
        "num_edges": rows.indices.shape[0],
        "scale": score.scale,
        "clamp": 0.0 if score.clamp is None else score.clamp,
        "keep_scale": 1.0 / (1.0 - score.dropout_p),
        "threshold": int(score.dropout_p * 2**32),
        "HEADS": query.shape[2],
        "DK": query.shape[3],
        "DV": value.shape[3],
        "DF": 1 if edge_attr is None else edge_attr.shape[1],
        "GROUPS": config.groups,
        "BLOCK_H": config.block_h,
        "BLOCK_K": config.block_k,
        "BLOCK_V": config.block_v,
        "BLOCK_F": config.block_f,
        "EXACT": config.exact,
        "SLOTS": config.slots,
        "UNROLL": config.unroll,
        "ACC": tl.float64 if wide else tl.float32,
        "CLAMP": score.clamp is not None,
        "BIAS_PER_HEAD": bias is not None and bias.dim() == 2,
        "num_warps": config.warps,
    }
