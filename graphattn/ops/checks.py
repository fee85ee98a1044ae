"""Shape, dtype and device checks of the public boundary; run once, before any kernel."""

import torch
from torch import Tensor

from graphattn.graph import CSRGraph

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_qkv(query: Tensor, key: Tensor, value: Tensor, graph: CSRGraph) -> None:
    """Check query [..., rows, H, Dk], key [..., cols, Hkv, Dk], value [..., cols, Hkv, Dv]."""
    named = {"query": query, "key": key, "value": value}
    for name, tensor in named.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
        if tensor.dim() < 3:
            raise ValueError(
                f"{name} must have shape [..., nodes, heads, width], got {list(tensor.shape)}; "
                "for one head use tensor.unsqueeze(-2)"
            )
        if tensor.dtype not in FLOATS:
            raise TypeError(f"{name} must be a floating point tensor, got {tensor.dtype}")
        if tensor.device != graph.device:
            raise ValueError(
                f"{name} is on {tensor.device} but the graph is on {graph.device}; "
                f"call graph.to('{tensor.device}') once, outside the loop"
            )
    _check_sizes(query, key, value, graph)


def _check_sizes(query: Tensor, key: Tensor, value: Tensor, graph: CSRGraph) -> None:
    if query.shape[-3] != graph.num_rows:
        raise ValueError(
            f"query has {query.shape[-3]} nodes but the graph has {graph.num_rows} rows; "
            "a bipartite graph needs size=(num_sources, num_targets)"
        )
    for name, tensor in (("key", key), ("value", value)):
        if tensor.shape[-3] != graph.num_cols:
            raise ValueError(
                f"{name} has {tensor.shape[-3]} nodes but the graph has {graph.num_cols} columns"
            )
        if tensor.shape[:-3] != query.shape[:-3]:
            raise ValueError(
                f"leading batch dimensions must agree, got {list(query.shape[:-3])} for query "
                f"and {list(tensor.shape[:-3])} for {name}; expand one of them"
            )
    if key.shape[-2] != value.shape[-2] or query.shape[-2] % max(key.shape[-2], 1):
        raise ValueError(
            f"query's heads must be a multiple of the heads of key and value, got "
            f"{query.shape[-2]}, {key.shape[-2]} and {value.shape[-2]}"
        )
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(
            f"query and key must have one head width, got {query.shape[-1]} and {key.shape[-1]}"
        )


def check_edge_tensor(name: str, tensor: Tensor, graph: CSRGraph, *shapes: tuple[int, ...]) -> None:
    """Check a per-edge tensor against the allowed ``shapes`` and the graph's device."""
    if tuple(tensor.shape) not in shapes:
        wanted = " or ".join(str(list(s)) for s in shapes)
        raise ValueError(
            f"{name} must have shape {wanted} (one entry per edge, in the caller's edge order), "
            f"got {list(tensor.shape)}"
        )
    if tensor.device != graph.device:
        raise ValueError(
            f"{name} is on {tensor.device} but the graph is on {graph.device}; "
            f"call {name}.to('{graph.device}')"
        )


def check_same_dtype(query: Tensor, key: Tensor, value: Tensor) -> None:
    """Check that query, key and value share a dtype (after autocast)."""
    for name, tensor in (("key", key), ("value", value)):
        if tensor.dtype != query.dtype:
            raise TypeError(
                f"query, key and value must share a dtype, got {query.dtype} and {tensor.dtype} "
                f"for {name}; cast one of them"
            )


def check_ranges(dropout_p: float, eps: float) -> None:
    """Check ``0 <= dropout_p < 1`` and ``eps >= 0``."""
    if not 0.0 <= dropout_p < 1.0:
        raise ValueError(f"dropout_p must lie in [0, 1), got {dropout_p}")
    if eps < 0.0:
        raise ValueError(f"eps must not be negative, got {eps}")
