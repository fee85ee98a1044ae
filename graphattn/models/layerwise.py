"""Exact inference layer by layer, for graphs whose activations do not fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from graphattn.graph import as_graph
from graphattn.graph.kept import as_part
from graphattn.graph.store import select, widened
from graphattn.graph.store_disk import mapped
from graphattn.nn.sequences import reads_positions
from graphattn.nn.sums import gathered, world_size
from graphattn.sampling.neighbor import NeighborSampler, local_graph

_ROWS = 8192


def supports(model: nn.Module) -> bool:
    """Whether a model is encode, blocks ``(h, graph) -> h`` and decode, without pooling.

    Its blocks read a node's in-neighbours and, through ``graph.kept.per_node``, numbers of the
    whole graph; no positions of nodes.
    """
    return _obstacle(model) is None


def _obstacle(model: nn.Module) -> str | None:
    if not all(hasattr(model, name) for name in ("encode", "blocks", "decode")):
        return "has no encode, blocks and decode that read a node's in-neighbours alone"
    if getattr(model, "pool", None) is not None:
        return "pools the nodes of a graph"
    if reads_positions(model):
        return "has layers that read the numbers of nodes (is_causal, rotary)"
    return None


@torch.no_grad()
def layerwise(
    model: nn.Module,
    x: Tensor,
    graph: Any,
    pe: Tensor | None = None,
    *,
    rows: int = _ROWS,
    device: torch.device | None = None,
    folder: Path | None = None,
) -> Tensor:
    """The model's outputs [N, C] in evaluation mode, each layer for all nodes before the next.

    A block of rows is computed on the subgraph of all its neighbours, so every node's state is
    computed once per layer and no neighbourhood explodes. In a process group every rank takes a
    part of the rows and all get the result.

    Args:
        model: See :func:`supports`; left in evaluation mode.
        x: Features ``[N, F]``, in memory or mapped.
        graph: Anything that :func:`graphattn.as_graph` takes.
        pe: Encoding ``[N, k]``.
        rows: Rows of a block.
        device: Where the blocks are computed; ``None``: where the model is.
        folder: Where the states of two layers are kept as memory maps; ``None``: in memory.

    Memory: 2 N D numbers (on disk with ``folder``), and a block with its neighbours.

    Raises:
        ValueError: A model that is not made of row-wise parts and blocks, ``rows`` below 1, or
            fewer nodes than processes (or none).
    """
    obstacle = _obstacle(model)
    if obstacle is not None:
        raise ValueError(f"{type(model).__name__} {obstacle}; run it on the full graph")
    if rows < 1:
        raise ValueError(f"rows of a block must be at least 1, got {rows}; 8192 suits most")
    if len(x) < world_size():
        raise ValueError(
            f"x must have at least one node per process, got {len(x)} for {world_size()}; "
            "use fewer processes, or give features [N, F]"
        )
    model.eval()
    device = next(model.parameters()).device if device is None else device
    sampler = NeighborSampler(as_graph(graph, len(x)), [-1])
    parts = _parts(len(x), rows)
    layers: list[Any] = [model.encode, *cast(nn.ModuleList, model.blocks), model.decode]
    state, found = x, x
    with tqdm(total=len(layers) * len(parts), unit="block", disable=None, delay=2) as bar:
        for number, layer in enumerate(layers):
            place = None if folder is None else folder / f"layer{number % 2}.npy"

            def block(nodes: Tensor, layer: Any = layer, h: Tensor = state) -> Any:
                bar.update()
                if layer is layers[0]:
                    given = [None if t is None else widened(select(t, nodes)) for t in (h, pe)]
                    return layer(*_moved(device, *given))
                if layer is layers[-1]:
                    return layer(*_moved(device, select(h, nodes)))
                out = sampler.sample(nodes, 0)
                own, local = _moved(device, select(h, out.node), local_graph(out))
                return layer(own, as_part(local, sampler.graph, out.node))[: len(nodes)]

            found = _rows_of(block, parts, len(x), place)
            state = found
    return found


def _parts(count: int, rows: int) -> list[Tensor]:
    """This rank's blocks of rows: ranks have consecutive ranges, in their order."""
    rank = dist.get_rank() if world_size() > 1 else 0
    own = torch.tensor_split(torch.arange(count), world_size())[rank]
    return list(torch.split(own, rows))


def _rows_of(
    block: Callable[[Tensor], Tensor], parts: list[Tensor], count: int, place: Path | None
) -> Tensor:
    """All ranks' rows joined, in memory or in a file."""
    result: Tensor | None = None
    for nodes in parts:
        rows = block(nodes).to("cpu")
        if result is None:
            result = _allocate((count, rows.shape[1]), rows.dtype, place)
        result[nodes[0] : nodes[-1] + 1] = rows
    assert result is not None
    if world_size() > 1:
        own = result[parts[0][0] : parts[-1][-1] + 1]
        result.copy_(gathered(own.contiguous()))
    return result


def _allocate(shape: tuple[int, int], dtype: torch.dtype, place: Path | None) -> Tensor:
    if place is None:
        return torch.empty(shape, dtype=dtype)
    kind = torch.empty(0, dtype=dtype).numpy().dtype
    return torch.from_numpy(mapped(place, shape, kind))


def _moved(device: torch.device, *parts: Any) -> list[Any]:
    return [part if part is None else part.to(device) for part in parts]
