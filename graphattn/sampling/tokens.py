"""TokenSampler: LargeGT's tokens from one and two hops, streamed row by row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from graphattn.graph import CSRGraph
from graphattn.graph.sort import index_dtype
from graphattn.kernels.cpu.sampling import derive
from graphattn.kernels.cpu.two_hop import sample_tokens
from graphattn.sampling.checks import check_integer, check_seeds, directed
from graphattn.sampling.neighbor import graph_of

MODES = ("exact", "walk")
RESAMPLE = ("never", "epoch", "batch")
_BLOCK = 1 << 15
_ROWS = 1 << 14  # rows looked at for duplicates at a time: a mapped graph stays on the disk


class TokenSampler:
    r"""``num_tokens`` nodes for every node: itself, and a sample of its one and two hops.

    With L1 the neighbours of i, L2 the unique ends of two steps from i, and L = L1 ++ L2 (a
    multiset, so a neighbour that closes a triangle counts twice, and i itself may come back):

    * no L: ``num_tokens - 1`` distinct nodes of the whole graph;
    * \|L\| < num_tokens - 1: the cyclic prefix of L, one hop first;
    * else ``num_tokens - 1`` of L without replacement, all subsets equally likely.

    As published (Dwivedi et al., 2023, https://arxiv.org/abs/2312.11109), without ever building
    :math:`A^2`: a row costs the sum of its neighbours' degrees, a thread one bit per node.

    Args:
        graph: Anything :class:`NeighborSampler` takes. Duplicate edges are merged first.
        num_tokens: K, the node itself included.
        mode: ``"exact"`` as above; ``"walk"``: walks of one or two steps with replacement, whose
            ends count by their paths: the cost no longer depends on degrees.
        direction: ``"in"`` (sources of in-edges), ``"out"`` (LargeGT's published choice) or
            ``"both"``.
        resample: ``"never"``: the same tokens for good (published); ``"epoch"``: new ones per
            epoch; ``"batch"``: new ones per call.
        seed: Results depend on it, and on epoch and batch as ``resample`` says, not on threads.

    Memory: N / 8 bytes and the longest list per thread beyond graph and result.

    Raises:
        TypeError: ``num_tokens`` that is not an integer.
        ValueError: ``num_tokens`` below 1, or an unknown option.
    """

    def __init__(
        self,
        graph: Any,
        num_tokens: int,
        *,
        mode: str = "exact",
        direction: str = "in",
        resample: str = "never",
        seed: int = 0,
    ) -> None:
        for name, value, known in (("mode", mode, MODES), ("resample", resample, RESAMPLE)):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        num_tokens = check_integer("num_tokens, which counts the node itself,", num_tokens, 1)
        self.graph = merged(directed(graph_of(graph), direction, ids=False))
        self.num_tokens, self.mode, self.direction = num_tokens, mode, direction
        self.resample, self.seed = resample, seed
        self.epoch = self.batch = 0

    def sample(self, nodes: Any = None, *, epoch: int | None = None, batch: int = 0) -> Tensor:
        """Tokens [n, K] of ``nodes`` (all without); column 0 is the node itself.

        Args:
            nodes: Indices [n] or a mask.
            epoch: Read unless ``resample="never"``; ``None`` is :attr:`epoch`.
            batch: Read with ``resample="batch"``.

        Returns:
            int32 (int64 past 2^31 nodes).

        Raises:
            ValueError: A node out of range.
        """
        size = self.graph.num_rows
        chosen = torch.arange(size) if nodes is None else check_seeds(nodes, size, "nodes")
        out = torch.empty(len(chosen), self.num_tokens, dtype=index_dtype(size))
        self._fill(chosen, out, self.epoch if epoch is None else epoch, batch)
        return out

    def table(self, out: Any = None) -> Any:
        """Tokens of all nodes [N, K], with a progress bar.

        Args:
            out: int32 (int64 past 2^31 nodes) tensor or NumPy array to fill, for instance a
                memory map; ``None`` allocates a tensor.
        """
        size = self.graph.num_rows
        if out is None:
            out = torch.empty(size, self.num_tokens, dtype=index_dtype(size))
        target = torch.from_numpy(out) if isinstance(out, np.ndarray) else out
        if target.shape != (size, self.num_tokens) or target.dtype != index_dtype(size):
            raise ValueError(
                f"out must be {index_dtype(size)} [{size}, {self.num_tokens}], got {target.dtype} "
                f"{list(target.shape)}"
            )
        with tqdm(total=size, unit="node", desc="tokens", disable=None, delay=2) as bar:
            for start in range(0, size, _BLOCK):
                nodes = torch.arange(start, min(start + _BLOCK, size))
                self._fill(nodes, target[start : start + len(nodes)], self.epoch, 0)
                bar.update(len(nodes))
        return out

    def batches(self, nodes: Any, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(nodes, tokens) per ``batch_size`` nodes, in order; counts one epoch up when it ends."""
        chosen = check_seeds(nodes, self.graph.num_rows, "nodes")
        return self._batches(chosen, check_integer("batch_size", batch_size, 1))

    def _batches(self, chosen: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for number, part in enumerate(torch.split(chosen, batch_size)):
            yield part, self.sample(part, batch=number)
        self.epoch += 1

    def _fill(self, nodes: Tensor, out: Tensor, epoch: int, batch: int) -> None:
        seed = self.seed & (2**64 - 1)
        if self.resample != "never":
            seed = derive(derive(seed, epoch), batch if self.resample == "batch" else 0)
        sample_tokens(
            self.graph.indptr.numpy(),
            self.graph.indices.numpy(),
            nodes.numpy(),
            out.numpy(),
            seed,
            self.mode == "walk",
            torch.get_num_threads(),
        )

    def __repr__(self) -> str:
        return f"TokenSampler(num_tokens={self.num_tokens}, mode={self.mode!r})"


def merged(graph: CSRGraph) -> CSRGraph:
    """The graph with duplicate edges merged; itself where there are none."""
    for begin in range(0, graph.num_rows, _ROWS):
        offsets = graph.indptr[begin : begin + _ROWS + 1]
        edges = graph.indices[int(offsets[0]) : int(offsets[-1])]
        same = edges[1:] == edges[:-1]
        starts = offsets[1:-1] - offsets[0]
        inner = starts[(starts > 0) & (starts < len(edges))]
        same[inner - 1] = False
        if bool(same.any()):
            return graph.coalesce()
    return graph
