"""NodeLoader and NeighborLoader: PyG's loaders on threads instead of worker processes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
import torch_geometric.loader
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.sampler import BaseSampler

from graphattn.graph.store import select
from graphattn.kernels.cpu.pages import LEAST_BYTES
from graphattn.kernels.cpu.sampling import derive
from graphattn.sampling.neighbor import NeighborSampler, in_csr_order, remember_graph
from graphattn.sampling.prefetch import in_order


class NodeLoader(torch_geometric.loader.NodeLoader):  # type: ignore[misc]
    """PyG's ``NodeLoader`` whose batches are made ahead by threads of this process.

    Sampling and gathering run without the GIL, so one thread usually keeps a model fed; nothing is
    copied between processes. Each pass draws its seed from torch's default generator, as
    ``DataLoader`` does: after ``torch.manual_seed`` two runs are identical, for any number of
    threads. Batches are PyG's ``Data`` with ``n_id``, ``e_id``, ``batch_size``, ``input_id``,
    ``num_sampled_nodes`` and ``num_sampled_edges``; models of this package find the graph of
    ``batch.edge_index`` ready-made on the CPU.

    Args:
        data: PyG ``Data``, or ``(FeatureStore, GraphStore)``.
        node_sampler: A :class:`NeighborSampler` or another PyG ``BaseSampler``.
        input_nodes: Seed nodes, indices or mask; ``None`` takes all.
        transform: Called on every batch; by name only, as PyG's fourth place is ``input_time``.
        num_workers: Threads; 0 makes each batch when it is asked for.
        prefetch_factor: Batches per thread that wait.
        pin_memory: Copy batches into pinned memory, in the threads.
        **kwargs: PyG's, and those of ``DataLoader``: ``batch_size``, ``shuffle``, ``drop_last``,
            ``generator``, ``sampler``, ``batch_sampler``. ``persistent_workers`` and
            ``filter_per_worker`` are accepted: threads need neither.

    Raises:
        ValueError: A negative ``num_workers``, or edge attributes with a sampler of direction
            "both", whose edges have no ids.

    An exception in a thread is raised by the next step of the loop, however many batches wait.
    """

    def __init__(
        self,
        data: Any,
        node_sampler: BaseSampler,
        input_nodes: Any = None,
        *,
        transform: Any = None,
        num_workers: int = 1,
        prefetch_factor: int | None = 2,
        pin_memory: bool = False,
        **kwargs: Any,
    ) -> None:
        if num_workers < 0:
            raise ValueError(f"num_workers must be at least 0 threads, got {num_workers}")
        _check_edge_attributes(data, node_sampler)
        kwargs.pop("persistent_workers", None)
        kwargs["filter_per_worker"] = True
        super().__init__(data, node_sampler, input_nodes, **kwargs)
        self.batch_transform = transform
        self.threads, self.ahead, self.pinned = num_workers, prefetch_factor or 2, pin_memory

    def __iter__(self) -> Iterator[Any]:
        base = int(torch.empty((), dtype=torch.int64).random_(generator=self.generator))

        def make(item: tuple[int, list[int]]) -> Any:
            number, index = item
            batch = self.make_batch(index, derive(base, number))
            return batch.pin_memory() if self.pinned else batch

        return in_order(make, enumerate(self._index_sampler), self.threads, self.ahead)

    def make_batch(self, index: list[int], seed: int) -> Any:
        """Sample and gather the batch of the seeds at places ``index`` of the input nodes."""
        given, options = self.input_data[index], {}
        if isinstance(self.node_sampler, NeighborSampler):
            options["seed"] = seed
        out = self.node_sampler.sample_from_nodes(given, **options)
        ordered = self.transform_sampler_output is None and in_csr_order(out)
        data = self.filter_fn(out)
        if ordered and data.get("edge_index") is not None:
            remember_graph(data.edge_index, data.num_nodes)
        return data if self.batch_transform is None else self.batch_transform(data)

    def filter_fn(self, out: Any) -> Any:
        """PyG's; wide features are copied row by row onto huge pages, in half of its time."""
        wide = {} if self.transform_sampler_output else _wide_features(self.data, len(out.node))
        if not wide:
            return super().filter_fn(out)
        narrow = copy.copy(self)
        narrow.data = copy.copy(self.data)
        for key, value in wide.items():
            narrow.data[key] = value[..., :0]
        batch = super(NodeLoader, narrow).filter_fn(out)
        for key, value in wide.items():
            batch[key] = select(value, out.node)
        return batch

    def collate_fn(self, index: Any) -> Any:
        """One batch, outside of a pass: what ``loader(index)`` calls."""
        return self.make_batch(list(index), int(torch.empty((), dtype=torch.int64).random_()))


def _wide_features(data: Any, rows: int) -> dict[str, Tensor]:
    """Node features whose rows of a batch are worth huge pages; those in training stay PyG's."""
    if not isinstance(data, Data):
        return {}
    return {
        key: value
        for key, value in data.items()
        if type(value) is Tensor
        and value.dim() > 1
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.requires_grad
        and rows * value[:1].nbytes >= LEAST_BYTES
        and data.is_node_attr(key)
        and data.__cat_dim__(key, value) == 0
    }


def _check_edge_attributes(data: Any, sampler: BaseSampler) -> None:
    if not isinstance(data, Data) or getattr(sampler, "direction", "in") != "both":
        return
    lost = [name for name in data.edge_attrs() if name not in ("edge_index", "adj_t")]
    if lost:
        raise ValueError(
            f"direction='both' joins an edge with its reverse and has no edge ids, so that "
            f"{', '.join(lost)} cannot follow; delete it from data, or make the graph undirected "
            "before (T.ToUndirected()) and sample with direction='in'"
        )


class NeighborLoader(NodeLoader):
    """PyG's ``NeighborLoader``, to import in its place; needs neither pyg-lib nor torch-sparse.

    Args:
        data, num_neighbors, input_nodes, replace, subgraph_type, disjoint, transform: As PyG.
        directed: PyG's deprecated spelling; ``False`` means ``subgraph_type="induced"``.
        neighbor_sampler: Shared with other loaders, instead of a new one.
        direction: As :class:`NeighborSampler`.
        **kwargs: As :class:`NodeLoader`.

    Raises:
        ValueError: For temporal and weighted sampling, which are not available.
    """

    def __init__(
        self,
        data: Any,
        num_neighbors: list[int],
        input_nodes: Any = None,
        input_time: Any = None,
        replace: bool = False,
        subgraph_type: Any = "directional",
        disjoint: bool = False,
        temporal_strategy: str = "uniform",
        time_attr: str | None = None,
        weight_attr: str | None = None,
        transform: Any = None,
        transform_sampler_output: Any = None,
        is_sorted: bool = False,
        filter_per_worker: bool | None = None,
        neighbor_sampler: NeighborSampler | None = None,
        directed: bool = True,
        *,
        direction: str = "in",
        **kwargs: Any,
    ) -> None:
        _check_missing(input_time=input_time, time_attr=time_attr, weight_attr=weight_attr)
        if neighbor_sampler is None:
            neighbor_sampler = NeighborSampler(
                data,
                num_neighbors,
                replace=replace,
                subgraph_type=subgraph_type if directed else "induced",
                disjoint=disjoint,
                direction=direction,
            )
        elif disjoint != neighbor_sampler.disjoint:
            raise ValueError(
                f"disjoint={disjoint}, but neighbor_sampler has disjoint="
                f"{neighbor_sampler.disjoint}; build the sampler with it"
            )
        super().__init__(
            data,
            neighbor_sampler,
            input_nodes,
            transform=transform,
            transform_sampler_output=transform_sampler_output,
            **kwargs,
        )


def _check_missing(**given: Any) -> None:
    """Raise if an argument of PyG's loader is used that this one has no sampling for."""
    for name, value in given.items():
        if value is not None:
            raise ValueError(
                f"NeighborLoader has no {name} sampling (got {value!r}); leave it out, or use "
                "PyG's NeighborLoader with pyg-lib"
            )
