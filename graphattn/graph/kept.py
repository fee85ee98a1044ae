"""What layers compute once per graph: it is kept beside the graph and forgotten with it.

A block of rows of a larger graph has other degrees than that graph: see :func:`as_part`.
"""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from graphattn.graph.csr import CSRGraph

Build = Callable[[CSRGraph, torch.dtype], Tensor]
_kept: WeakKeyDictionary[CSRGraph, dict[Any, Tensor]] = WeakKeyDictionary()
_parts: WeakKeyDictionary[CSRGraph, tuple[CSRGraph, Tensor]] = WeakKeyDictionary()


def once_per_graph(graph: CSRGraph, kind: str, dtype: torch.dtype, build: Build) -> Tensor:
    """What ``build(graph, dtype)`` returns; ``kind`` names it. A compiler sees it built anew."""
    if torch.compiler.is_compiling():
        return build(graph, dtype)
    known = _kept.setdefault(graph, {})
    if (kind, dtype) not in known:
        with torch.inference_mode(False):  # an inference tensor could not serve training later
            known[kind, dtype] = build(graph, dtype)
    return known[kind, dtype]


def as_part(part: CSRGraph, whole: CSRGraph, nodes: Tensor) -> CSRGraph:
    """``part`` itself; from now on :func:`per_node` gives what its ``nodes`` have in ``whole``."""
    _parts[part] = whole, nodes
    return part


def per_node(graph: CSRGraph, kind: str, dtype: torch.dtype, build: Build) -> Tensor:
    """``build(graph, dtype)``, a row per node [N, ...]; of a part, the rows of the whole graph."""
    if torch.compiler.is_compiling() or graph not in _parts:
        return build(graph, dtype)
    whole, nodes = _parts[graph]
    found = once_per_graph(whole, kind, dtype, build)
    return found[nodes.to(found.device)].to(graph.device)
