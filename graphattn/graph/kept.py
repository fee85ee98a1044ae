"""What layers compute once per graph: it is kept beside the graph and forgotten with it."""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from graphattn.graph.csr import CSRGraph

Build = Callable[[CSRGraph, torch.dtype], Tensor]
_kept: WeakKeyDictionary[CSRGraph, dict[Any, Tensor]] = WeakKeyDictionary()


def once_per_graph(graph: CSRGraph, kind: str, dtype: torch.dtype, build: Build) -> Tensor:
    """What ``build(graph, dtype)`` returns; ``kind`` names it. A compiler sees it built anew."""
    if torch.compiler.is_compiling():
        return build(graph, dtype)
    known = _kept.setdefault(graph, {})
    if (kind, dtype) not in known:
        with torch.inference_mode(False):  # an inference tensor could not serve training later
            known[kind, dtype] = build(graph, dtype)
    return known[kind, dtype]
