"""Shape, dtype and device checks of the public boundary; run once, before any kernel."""

from numbers import Real

import torch
from torch import Tensor

from graphattn.graph import Graph, ProductGraph
from graphattn.graph.checks import is_whole

NUMBERS = (Real, torch.SymFloat, torch.SymInt)
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_qkv(query: Tensor, key: Tensor, value: Tensor, graph: Graph) -> None:
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
        if tensor.layout != torch.strided:
            raise TypeError(f"{name} must be a dense tensor, got {tensor.layout}; call to_dense()")
        if tensor.device != query.device:
            raise ValueError(
                f"query, key and value must be on one device, got {query.device} for query and "
                f"{tensor.device} for {name}; move one of them"
            )
    if query.device != graph.device:
        raise ValueError(
            f"query is on {query.device} but the graph is on {graph.device}; "
            f"call graph.to('{query.device}') once, outside the loop"
        )
    _check_sizes(query, key, value, graph)


def _check_sizes(query: Tensor, key: Tensor, value: Tensor, graph: Graph) -> None:
    if query.shape[-3] != graph.num_rows:
        remedy = (
            f"flatten the axes {list(graph.shape)} of a grid into one: [..., nodes, heads, width]"
            if isinstance(graph, ProductGraph)
            else "ga.as_graph(edge_index, size) takes the number of nodes, or (num_sources, "
            "num_targets)"
        )
        if query.dim() > 3 and query.shape[-2] == graph.num_rows:
            remedy = "heads come after nodes: call transpose(-3, -2) on query, key and value"
        raise ValueError(
            f"query has {query.shape[-3]} nodes but the graph has {graph.num_rows} rows; {remedy}"
        )
    for name, tensor in (("key", key), ("value", value)):
        if tensor.shape[-3] != graph.num_cols:
            raise ValueError(
                f"{name} has {tensor.shape[-3]} nodes but the graph has {graph.num_cols} columns; "
                "ga.as_graph(edge_index, (num_sources, num_targets)) says how many there are"
            )
        if tensor.shape[:-3] != query.shape[:-3]:
            raise ValueError(
                f"leading batch dimensions must agree, got {list(query.shape[:-3])} for query "
                f"and {list(tensor.shape[:-3])} for {name}; expand one of them"
            )
    heads, groups = query.shape[-2], key.shape[-2]
    if groups != value.shape[-2] or groups == 0 or heads % groups:
        raise ValueError(
            f"query's heads must be a multiple of the heads (at least 1) of key and value, got "
            f"{heads}, {groups} and {value.shape[-2]}"
        )
    if query.shape[-1] != key.shape[-1] or query.shape[-1] == 0:
        raise ValueError(
            f"query and key must have one head width of at least 1, got {query.shape[-1]} "
            f"and {key.shape[-1]}"
        )


def _check_device(name: str, tensor: Tensor, device: torch.device, other: str) -> None:
    if tensor.device != device:
        raise ValueError(
            f"{name} is on {tensor.device} but {other} is on {device}; call {name}.to('{device}')"
        )


def check_edge_tensor(name: str, tensor: Tensor, graph: Graph, *shapes: tuple[int, ...]) -> None:
    """Check a per-edge tensor against the allowed ``shapes`` and the graph's device."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if tensor.dtype not in FLOATS:
        remedy = (
            "for a mask use torch.where(mask, 0.0, -torch.inf)"
            if tensor.dtype == torch.bool
            else f"call {name}.float()"
        )
        raise TypeError(f"{name} must be a floating point tensor, got {tensor.dtype}; {remedy}")
    if tuple(tensor.shape) not in shapes:
        wanted = " or ".join(str(list(s)) for s in shapes)
        raise ValueError(
            f"{name} must have shape {wanted} (one entry per edge, in the caller's edge order), "
            f"got {list(tensor.shape)}"
        )
    _check_device(name, tensor, graph.device, "the graph")


def check_weights(
    name: str, tensor: Tensor, axes: str, shape: tuple[int, ...], graph: Graph
) -> None:
    """Check a learned tensor that all edges share: its type, shape (of named axes) and device."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor {axes}, got {type(tensor).__name__}")
    if tensor.dtype not in FLOATS:
        raise TypeError(f"{name} must be a floating point tensor, got {tensor.dtype}")
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have shape {axes} = {list(shape)}, got {list(tensor.shape)}")
    _check_device(name, tensor, graph.device, "the graph")


def check_edge_attr(edge_attr: Tensor, graph: Graph) -> None:
    """Check edge features [E, F]."""
    if not isinstance(edge_attr, Tensor):
        raise TypeError(f"edge_attr must be a tensor [E, F], got {type(edge_attr).__name__}")
    if edge_attr.dim() != 2 or edge_attr.shape[1] == 0:
        raise ValueError(
            f"edge_attr must have shape [E, F] with F >= 1, got {list(edge_attr.shape)}"
        )
    check_edge_tensor("edge_attr", edge_attr, graph, (graph.num_edges, edge_attr.shape[1]))


def check_same_dtype(query: Tensor, *others: Tensor) -> None:
    """Check that query, key and value share a dtype (after autocast)."""
    for name, tensor in zip(("key", "value"), others, strict=False):
        if tensor.dtype != query.dtype:
            raise TypeError(
                f"query, key and value must share a dtype, got {query.dtype} and {tensor.dtype} "
                f"for {name}; cast one of them"
            )


def check_edge_integers(name: str, tensor: Tensor, device: torch.device) -> None:
    """Check a per-edge integer tensor [E] on ``device``."""
    if not isinstance(tensor, Tensor) or tensor.dtype not in (torch.int32, torch.int64):
        kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"{name} must be an int32 or int64 tensor [E], got {kind}")
    if tensor.dim() != 1:
        raise ValueError(f"{name} must have shape [E], got {list(tensor.shape)}")
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, expected {device}; move it there")


def check_numbers(scale: float | None, clamp: float | None) -> None:
    """Check the scalars of a score: numbers, not tensors, and in range."""
    for name, number in (("scale", scale), ("clamp", clamp)):
        _check_is_number(name, number)
    if clamp is not None and not clamp >= 0.0:
        raise ValueError(f"clamp must not be negative, got {clamp}")


def check_dropout(dropout: float, name: str = "dropout") -> None:
    """Raise unless ``dropout`` is a probability below 1."""
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"{name} must lie in [0, 1), got {dropout}")


def check_normaliser(eps: float, dropout_p: float, top_m: int | None) -> None:
    """Check the scalars that decide which weights survive and how rows are normalised."""
    for name, number in (("eps", eps), ("dropout_p", dropout_p)):
        _check_is_number(name, number)
        if number is None:
            raise TypeError(f"{name} must be a number, got None; leave it out for 0")
    check_dropout(dropout_p, "dropout_p")
    if not eps >= 0.0:
        raise ValueError(f"eps must not be negative, got {eps}")
    if top_m is not None and (not is_whole(top_m) or top_m < 1):
        raise ValueError(f"top_m must be a whole number of at least 1 or None, got {top_m!r}")


def _check_is_number(name: str, number: float | None) -> None:
    if isinstance(number, Tensor):
        raise TypeError(
            f"{name} must be a number, got a tensor; multiply query by a learned scale instead"
        )
    if number is not None and not isinstance(number, NUMBERS):
        raise TypeError(f"{name} must be a number or None, got {number!r}")


def check_null_logit(null_logit: Tensor | float, lse: Tensor) -> None:
    """Check that ``null_logit`` is a scalar, [H] or [rows, H]; lse [..., rows, H]."""
    if not isinstance(null_logit, Tensor):
        if not isinstance(null_logit, NUMBERS):
            raise TypeError(f"null_logit must be a number or a tensor, got {null_logit!r}")
        return
    if null_logit.dim() > 0:
        _check_device("null_logit", null_logit, lse.device, "query")
    rows, heads = lse.shape[-2:]
    if tuple(null_logit.shape) not in ((), (heads,), (rows, heads)):
        raise ValueError(
            f"null_logit must be a scalar, [H] = [{heads}] or [rows, H] = [{rows}, {heads}], "
            f"got {list(null_logit.shape)}"
        )
