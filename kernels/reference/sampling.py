"""Counter-based random choice and neighbour sampling: the definition, one Python step at a time.

Every random number is a hash of (key, counter), so a sample depends on the seed alone: not on
threads, batches in flight or the order in which rows are visited.
"""

from __future__ import annotations

from typing import NamedTuple

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


def mix(x: int) -> int:
    """Finaliser of splitmix64 (Steele, Lea and Flood, 2014) on 64 bits."""
    x &= _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def derive(key: int, number: int) -> int:
    """The key of stream ``number`` under ``key``."""
    return mix(key + (number + 1) * _GOLDEN)


def below(key: int, counter: int, bound: int) -> int:
    """Draw ``counter`` of a stream, uniform over ``0 .. bound - 1`` (bias below bound / 2^53)."""
    return int((derive(key, counter) >> 11) * 2.0**-53 * bound)


def choose(key: int, size: int, count: int) -> list[int]:
    """``count`` of the numbers ``0 .. size - 1`` without replacement: a partial Fisher-Yates."""
    numbers = list(range(size))
    for step in range(count):
        other = step + below(key, step, size - step)
        numbers[step], numbers[other] = numbers[other], numbers[step]
    return numbers[:count]


def pick(key: int, degree: int, fanout: int, replace: bool) -> list[int]:
    """Positions within a row of ``degree`` edges; ``fanout`` -1 takes the row as it is."""
    if fanout < 0 or (degree <= fanout and not replace):
        return list(range(degree))
    if replace:
        return [below(key, step, degree) for step in range(fanout)] if degree else []
    return choose(key, degree, fanout)


class Sampled(NamedTuple):
    """A sampled subgraph.

    nodes: global ids in the order of discovery, seeds first; source, target: local ids of every
    edge, by target, then in the order of the draw; position: its CSR position in the whole graph;
    hop_nodes: new nodes per hop, seeds first; hop_edges: edges per hop.
    """

    nodes: list[int]
    source: list[int]
    target: list[int]
    position: list[int]
    hop_nodes: list[int]
    hop_edges: list[int]


def sample_neighbors(
    indptr: list[int],
    indices: list[int],
    seeds: list[int],
    fanouts: list[int],
    replace: bool,
    seed: int,
) -> Sampled:
    """Hop by hop: every node that the last hop discovered draws from its row.

    The draw of node v in hop h comes from the key ``derive(derive(seed, h), v)``. A repeated seed
    keeps its place and draws the same row again; edges come from its first copy.
    """
    nodes, local = list(seeds), {}
    for place, node in enumerate(seeds):
        local.setdefault(node, place)
    out = Sampled(nodes, [], [], [], [len(seeds)], [])
    first = 0
    for hop, fanout in enumerate(fanouts):
        last, edges = len(nodes), len(out.source)
        for target in range(first, last):
            node = nodes[target]
            begin, degree = indptr[node], indptr[node + 1] - indptr[node]
            for offset in pick(derive(derive(seed, hop), node), degree, fanout, replace):
                neighbor = indices[begin + offset]
                if neighbor not in local:
                    local[neighbor] = len(nodes)
                    nodes.append(neighbor)
                out.source.append(local[neighbor])
                out.target.append(target)
                out.position.append(begin + offset)
        first = last
        out.hop_nodes.append(len(nodes) - last)
        out.hop_edges.append(len(out.source) - edges)
    return out
