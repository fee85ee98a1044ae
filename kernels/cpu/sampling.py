"""Sampling a batch: the hops of kernels/reference/sampling.py over the kernels of neighbors.py."""

from typing import NamedTuple

import numpy as np

from graphattn.kernels.cpu import neighbors


class Sampled(NamedTuple):
    """As ``Sampled`` of the reference, in int64 arrays; ``owners`` of disjoint samples alone."""

    nodes: np.ndarray
    source: np.ndarray
    target: np.ndarray
    position: np.ndarray
    hop_nodes: list[int]
    hop_edges: list[int]
    owners: np.ndarray | None = None


def derive(key: int, number: int) -> int:
    """The key of stream ``number`` under ``key``, on 64 bits."""
    mask = 2**64 - 1
    x = (key + (number + 1) * 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


class Scratch:
    """What one thread keeps between batches: the relabelling table, found nodes, their slots.

    A slot per node up to ``DIRECT_NODES`` nodes, beyond that a hash table that grows with the
    batch: memory does not depend on the size of a large graph. Slots that a batch has used are
    emptied one by one. ``disjoint``: every seed's nodes are its own.
    """

    def __init__(self, num_nodes: int, disjoint: bool = False) -> None:
        self.num_nodes = num_nodes
        self.direct = num_nodes <= neighbors.DIRECT_NODES and not disjoint
        self.owners = np.empty(0, np.int64) if disjoint else None
        size = 1 << max(num_nodes - 1, 1).bit_length() if self.direct else 1 << 16
        self.nodes, self.places, self.room = (np.empty(0, np.int64) for _ in range(3))
        self.source, self.target, self.position = (np.empty(0, np.int64) for _ in range(3))
        self.filled = 0  # nodes found
        self.edges = 0  # edges drawn
        self.copies = 1  # that a node can have
        self._make_table(size)

    def _make_table(self, size: int) -> None:
        self.table = np.full(size, -1, np.int32 if self.direct else np.int64)
        self.shift = None if self.direct else 64 - (size.bit_length() - 1)

    def reserve(self, nodes: int) -> None:
        """Room for ``nodes`` found nodes; those found so far keep their local ids."""
        names = ("nodes", "places") if self.owners is None else ("nodes", "places", "owners")
        self._grow(names, nodes, self.filled)
        if not self.direct and 2 * nodes > len(self.table):
            self._make_table(1 << (2 * nodes - 1).bit_length())
            self._insert(self.filled)

    def _insert(self, last: int) -> None:
        table, known = (self.table, self.shift), (self.nodes, self.owners, self.num_nodes)
        neighbors.insert(*table, *known, 0, last, self.places)

    def reserve_edges(self, edges: int, room: int) -> None:
        """Room for ``edges`` drawn edges and for a choice among ``room`` numbers."""
        self._grow(("source", "target", "position"), edges, self.edges)
        self._grow(("room",), room, 0)

    def _grow(self, names: tuple[str, ...], size: int, kept: int) -> None:
        for name in names:
            old = getattr(self, name)
            if size > len(old):
                grown = np.empty(max(size, len(old) * 3 // 2), np.int64)
                grown[:kept] = old[:kept]
                setattr(self, name, grown)

    def start(self, seeds: np.ndarray) -> None:
        """Enter the seeds of a batch."""
        self.reserve(len(seeds))
        self.nodes[: len(seeds)] = seeds
        if self.owners is not None:
            self.owners[: len(seeds)] = np.arange(len(seeds))
        self.filled, self.edges = len(seeds), 0
        self.copies = 1 if self.owners is None else len(seeds)
        self._insert(len(seeds))

    def most(self, edges: int) -> int:
        """The largest number of nodes there can be after ``edges`` more."""
        return self.filled + min(edges, self.num_nodes * self.copies)

    def clear(self) -> None:
        """Forget the batch."""
        self.table[self.places[: self.filled]] = -1
        self.filled = 0


def sample_neighbors(
    indptr: np.ndarray,
    indices: np.ndarray,
    seeds: np.ndarray,
    fanouts: list[int],
    replace: bool,
    seed: int,
    scratch: Scratch,
) -> Sampled:
    """Sample one batch; the GIL is free while a hop is drawn.

    indptr int64 [N + 1], indices int32 or int64 [E], seeds int64 [B] within range. The scratch
    belongs to one thread at a time; an interrupted batch leaves it unusable.

    Raises:
        ValueError: the batch has more nodes than a local id can count, or a disjoint one more
            seeds than the table can tell apart.
    """
    most = neighbors.NUMBERS // max(len(indptr) - 1, 1)
    if scratch.owners is not None and len(seeds) > most:
        raise ValueError(
            f"a disjoint batch of this graph may have at most {most:,} seeds, got {len(seeds):,}; "
            "use smaller batches"
        )
    scratch.start(seeds)
    hop_nodes, hop_edges, first = [len(seeds)], [], 0
    for hop, fanout in enumerate(fanouts):
        last, edges = scratch.filled, scratch.edges
        key = np.uint64(derive(seed, hop))
        _hop(indptr, indices, (first, last), fanout, replace, key, scratch)
        first = last
        hop_nodes.append(scratch.filled - last)
        hop_edges.append(scratch.edges - edges)
    found = scratch.source, scratch.target, scratch.position
    edge_arrays = [array[: scratch.edges].copy() for array in found]
    nodes = scratch.nodes[: scratch.filled].copy()
    owners = None if scratch.owners is None else scratch.owners[: scratch.filled].copy()
    scratch.clear()
    return Sampled(nodes, *edge_arrays, hop_nodes, hop_edges, owners)


def _hop(
    indptr: np.ndarray,
    indices: np.ndarray,
    frontier: tuple[int, int],
    fanout: int,
    replace: bool,
    key: np.uint64,
    scratch: Scratch,
) -> None:
    """Draw the rows of the nodes ``frontier[0] .. frontier[1] - 1`` found so far."""
    begin, degree, taken = (np.empty(frontier[1] - frontier[0], np.int64) for _ in range(3))
    room = neighbors.count(indptr, scratch.nodes, *frontier, fanout, replace, begin, degree, taken)
    edges = int(taken.sum())
    most = scratch.most(edges)
    if most > 1 << neighbors.LOCAL_BITS:
        raise ValueError(
            f"a batch may hold at most {1 << neighbors.LOCAL_BITS:,} nodes, this one could reach "
            f"{most:,}; use fewer seeds or smaller fan-outs"
        )
    scratch.reserve(most)
    scratch.reserve_edges(scratch.edges + edges, room)
    scratch.filled = neighbors.expand(
        indices, scratch.nodes, scratch.owners, scratch.num_nodes, *frontier, scratch.filled, key,
        begin, degree, taken, replace and fanout >= 0, scratch.room, scratch.table, scratch.shift,
        scratch.places, scratch.source, scratch.target, scratch.position, scratch.edges,
    )  # fmt: skip
    scratch.edges += edges


def sort_rows(source: np.ndarray, target: np.ndarray, position: np.ndarray) -> None:
    """Sort edges that ascend by target in place by (target, source, position): CSR order."""
    neighbors.sort_rows(source, target, position)


def induced_subgraph(
    indptr: np.ndarray, indices: np.ndarray, nodes: np.ndarray, scratch: Scratch
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All edges among distinct ``nodes`` -> local source, local target, position, in CSR order."""
    scratch.start(nodes)
    counts, none = np.empty(len(nodes), np.int64), np.empty(0, np.int64)
    graph = indptr, indices, nodes, scratch.table, scratch.shift
    edges = neighbors.induced(*graph, True, counts, none, none)
    source, position = np.empty(edges, np.int64), np.empty(edges, np.int64)
    neighbors.induced(*graph, False, counts, source, position)
    scratch.clear()
    return source, np.repeat(np.arange(len(nodes)), counts), position
