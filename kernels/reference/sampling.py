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
    hop_nodes: new nodes per hop, seeds first; hop_edges: edges per hop; owners: the place of the
    seed that each node was found from, of disjoint samples alone.
    """

    nodes: list[int]
    source: list[int]
    target: list[int]
    position: list[int]
    hop_nodes: list[int]
    hop_edges: list[int]
    owners: list[int] | None = None


def sample_neighbors(
    indptr: list[int],
    indices: list[int],
    seeds: list[int],
    fanouts: list[int],
    replace: bool,
    seed: int,
    disjoint: bool = False,
) -> Sampled:
    """Hop by hop: every node that the last hop discovered draws from its row.

    The draw of node v in hop h comes from the key ``derive(derive(seed, h), v)``. A repeated seed
    keeps its place and draws the same row again; edges come from its first copy.

    ``disjoint``: every seed finds nodes of its own. Node v of the seed at place p counts as number
    ``p N + v`` then, for its draw too.
    """
    nodes, local = list(seeds), {}
    owners, size = list(range(len(seeds))) if disjoint else [0] * len(seeds), len(indptr) - 1
    for place, node in enumerate(seeds):
        local.setdefault(owners[place] * size + node, place)
    out = Sampled(nodes, [], [], [], [len(seeds)], [], owners if disjoint else None)
    first = 0
    for hop, fanout in enumerate(fanouts):
        last, edges = len(nodes), len(out.source)
        for target in range(first, last):
            node, first_number = nodes[target], owners[target] * size
            begin, degree = indptr[node], indptr[node + 1] - indptr[node]
            key = derive(derive(seed, hop), first_number + node)
            for offset in pick(key, degree, fanout, replace):
                neighbor = indices[begin + offset]
                number = first_number + neighbor
                if number not in local:
                    local[number] = len(nodes)
                    nodes.append(neighbor)
                    owners.append(owners[target])
                out.source.append(local[number])
                out.target.append(target)
                out.position.append(begin + offset)
        first = last
        out.hop_nodes.append(len(nodes) - last)
        out.hop_edges.append(len(out.source) - edges)
    return out


def two_hop(indptr: list[int], indices: list[int], node: int) -> tuple[list[int], list[int]]:
    """L1 and L2 of a node: its neighbours, and the unique ends of two steps as they are found."""
    first = indices[indptr[node] : indptr[node + 1]]
    ends = [k for j in first for k in indices[indptr[j] : indptr[j + 1]]]
    return first, list(dict.fromkeys(ends))


def sample_tokens(
    indptr: list[int], indices: list[int], node: int, tokens: int, seed: int
) -> list[int]:
    """LargeGT's tokens of a node (Dwivedi et al., 2023): itself and tokens - 1 of L = L1 ++ L2.

    No L: distinct nodes of the whole graph (all of them in random order, again and again, where
    they do not suffice); a short L: its cyclic prefix, L2 ascending; else without replacement.
    Lists are coalesced; L is a multiset, in which a neighbour that closes a triangle is twice.
    """
    key, rest = derive(seed, node), tokens - 1
    first, second = two_hop(indptr, indices, node)
    if not first:
        nodes = len(indptr) - 1
        drawn = choose(key, nodes, min(rest, nodes))
        return [node] + [drawn[step % len(drawn)] for step in range(rest)]
    if len(first) + len(second) < rest:
        both = first + sorted(second)
        return [node] + [both[step % len(both)] for step in range(rest)]
    both = first + second
    return [node] + [both[place] for place in choose(key, len(both), rest)]


def walk_tokens(
    indptr: list[int], indices: list[int], node: int, tokens: int, seed: int
) -> list[int]:
    """Cheaper tokens: each is a walk, with replacement, so ends count by their paths.

    A walk steps to a uniform neighbour j, stays there with probability 1 / (1 + deg j), else
    steps on to a uniform neighbour of j.
    """
    key, rest = derive(seed, node), tokens - 1
    degree = indptr[node + 1] - indptr[node]
    if degree == 0:
        return sample_tokens(indptr, indices, node, tokens, seed)
    found = [node]
    for step in range(rest):
        middle = indices[indptr[node] + below(key, 2 * step, degree)]
        begin, further = indptr[middle], indptr[middle + 1] - indptr[middle]
        on = below(key, 2 * step + 1, further + 1)
        found.append(middle if on == further else indices[begin + on])
    return found
