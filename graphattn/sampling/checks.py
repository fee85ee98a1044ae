"""Checks that the samplers share."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from graphattn.graph import CSRGraph, as_graph
from graphattn.graph.sort import transpose_without_ids

DIRECTIONS = ("in", "out", "both")


def check_seeds(seeds: Any, num_nodes: int, what: str = "seeds") -> Tensor:
    """Node indices as an int64 tensor on the CPU.

    Raises:
        TypeError: Not integers (nor a mask of all nodes).
        ValueError: Not one-dimensional, or out of range.
    """
    nodes: Tensor = torch.as_tensor(seeds)
    if nodes.dtype == torch.bool and nodes.shape == (num_nodes,):
        nodes = nodes.nonzero().squeeze(1)
    if nodes.dtype not in (torch.int64, torch.int32) and nodes.numel():
        raise TypeError(
            f"{what} must be node indices (int64) or a mask [{num_nodes}], got {nodes.dtype} of "
            f"shape {list(nodes.shape)}; call .long(), or .nonzero().squeeze(1) on a mask"
        )
    if nodes.dim() != 1:
        raise ValueError(f"{what} must be one-dimensional, got shape {list(nodes.shape)}")
    nodes = nodes.to(device="cpu", dtype=torch.int64)
    if nodes.numel():
        low, high = (int(v) for v in torch.aminmax(nodes))
        if low < 0 or high >= num_nodes:
            raise ValueError(
                f"{what} must be nodes in [0, {num_nodes}), got {low if low < 0 else high}; "
                "drop it, or pass the graph that it belongs to"
            )
    return nodes.contiguous()


def check_integer(name: str, value: Any, least: int) -> int:
    """``value`` as a Python integer.

    Raises:
        TypeError: Not an integer.
        ValueError: Below ``least``.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(
            f"{name} must be an integer of at least {least}, got {value!r}; call int() on it if "
            "it is a whole number"
        ) from None
    if number < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {number}")
    return number


def directed(graph: Any, direction: str, ids: bool = True) -> CSRGraph:
    """The square graph whose rows are the neighbours to follow, on the CPU.

    "in" follows rows as they are (sources of in-edges), "out" their transpose; "both" joins the
    two and counts an edge and its reverse once, losing edge ids. Without ``ids`` a transpose made
    for the purpose has none either, and takes no memory beyond its own.

    Raises:
        ValueError: An unknown direction, or a graph that is not square.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"direction must be one of {', '.join(DIRECTIONS)}, got {direction!r}")
    found: CSRGraph = as_graph(graph).to("cpu")
    if found.num_rows != found.num_cols:
        raise ValueError(
            f"a sampler needs one set of nodes, got {found.num_rows} rows and {found.num_cols} "
            "columns; pass size=N to as_graph, or sample the two node sets apart"
        )
    if direction == "both":
        return found.to_undirected()
    if direction == "in":
        return found
    if ids or found._transpose is not None:
        return found.t()
    indptr, indices = transpose_without_ids(found.indptr, found.indices, found.num_cols)
    return CSRGraph._trusted(indptr, indices, found.num_rows, None)
