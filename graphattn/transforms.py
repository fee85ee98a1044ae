"""PyG transforms over :mod:`graphattn.encodings`; the package loads this module at first use."""

from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.data.datapipes import functional_transform
from torch_geometric.transforms import BaseTransform

from graphattn.encodings import laplacian_pe, random_walk_pe
from graphattn.graph import CSRGraph, as_graph


@functional_transform("graphattn_laplacian_pe")
class AddLaplacianPE(BaseTransform):  # type: ignore[misc]
    r"""Add Laplacian eigenvectors, as PyG's ``AddLaplacianEigenvectorPE`` does.

    Unlike PyG's it always uses a symmetric solver that suits the graph, finds every copy of a
    repeated eigenvalue, fixes the sign (flip it in training with
    :func:`graphattn.encodings.flip_signs`), pads graphs with too few eigenvectors with zeros and
    keeps the result on disk. ``data.edge_weight`` counts when it is there. Apply it to single
    graphs, for instance as ``pre_transform``, not to a batch of several.

    Args:
        k: Number of eigenvectors.
        attr_name: Attribute that receives them; ``None`` appends them to ``data.x``.
        normalization, drop, tol, method, max_iter, max_nodes: As :func:`graphattn.laplacian_pe`.
        cache: Keep the result of graphs with more than 600 nodes under ``$GRAPHATTN_CACHE``
            (default ``~/.cache/graphattn``).

    Raises:
        TypeError: the object is not a homogeneous ``Data``.
        ValueError: a directed graph (apply ``ToUndirected()`` first), or a batch of several.
    """

    def __init__(
        self,
        k: int,
        attr_name: str | None = "laplacian_eigenvector_pe",
        *,
        normalization: str | None = "sym",
        drop: str | None = "first",
        tol: float = 1e-6,
        method: str = "auto",
        max_iter: int = 5000,
        max_nodes: int = 5_000_000,
        cache: bool = True,
    ) -> None:
        self.k = k
        self.attr_name = attr_name
        self.options: dict[str, Any] = {"normalization": normalization, "drop": drop, "tol": tol}
        self.options |= {"method": method, "max_iter": max_iter, "max_nodes": max_nodes}
        self.options["cache"] = cache

    def forward(self, data: Data) -> Data:
        """Write the encodings ``[N, k]`` into ``data``."""
        graph = _graph_of(data, self)
        if getattr(data, "num_graphs", 1) > 1:
            raise ValueError(
                f"AddLaplacianPE needs one graph, got a batch of {data.num_graphs}, whose "
                "eigenvectors would mix; apply it before batching, as transform or pre_transform"
            )
        _, vectors = laplacian_pe(graph, self.k, edge_weight=data.edge_weight, **self.options)
        return _add(data, vectors, self.attr_name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(k={self.k}, attr_name={self.attr_name!r})"


@functional_transform("graphattn_random_walk_pe")
class AddRandomWalkPE(BaseTransform):  # type: ignore[misc]
    r"""Add return probabilities of random walks, as PyG's ``AddRandomWalkPE`` does, in less memory.

    Args:
        walk_length: Longest walk.
        attr_name: Attribute that receives them; ``None`` appends them to ``data.x``.

    Raises:
        TypeError: the object is not a homogeneous ``Data``.
    """

    def __init__(self, walk_length: int, attr_name: str | None = "random_walk_pe") -> None:
        self.walk_length = walk_length
        self.attr_name = attr_name

    def forward(self, data: Data) -> Data:
        """Write the encodings ``[N, walk_length]`` into ``data``."""
        graph = _graph_of(data, self)
        pe = random_walk_pe(graph, self.walk_length, edge_weight=data.edge_weight)
        return _add(data, pe, self.attr_name)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(walk_length={self.walk_length}, attr_name={self.attr_name!r})"
        )


def _graph_of(data: Any, transform: BaseTransform) -> CSRGraph:
    if not isinstance(data, Data):
        raise TypeError(
            f"{type(transform).__name__} needs a Data object, got {type(data).__name__}; "
            "convert HeteroData with data.to_homogeneous()"
        )
    if data.edge_index is not None:
        return as_graph(data.edge_index, data.num_nodes)
    if data.get("adj_t") is not None:
        return as_graph(data.adj_t, data.num_nodes)
    raise ValueError(f"{type(transform).__name__} needs data.edge_index or data.adj_t")


def _add(data: Data, value: Tensor, attr_name: str | None) -> Data:
    if attr_name is not None:
        data[attr_name] = value
    elif data.x is None:
        data.x = value
    else:
        x = data.x.view(-1, 1) if data.x.dim() == 1 else data.x
        data.x = torch.cat([x, value.to(x.device, x.dtype)], dim=-1)
    return data
