"""CPU neighbour sampling over memory-mapped or resident CSR arrays, one batch on one thread.

The definition is kernels/reference/sampling.py. Three cache lines per edge set the pace (row
offset, column, relabelling table), so each is asked for some rows or edges before it
is read.
"""

import numpy as np
from numba.extending import register_jitable

from graphattn.kernels.cpu.arrays import ArrayKernel, prefetch
from graphattn.kernels.cpu.random import below, choose, derive, is_sparse

LOCAL_BITS = 27
"""Bits of a local id in a table entry; the rest hold the node's number."""
NUMBERS = 1 << (63 - LOCAL_BITS)
"""Numbers that fit beside a local id."""
DIRECT_NODES = 1 << 21
"""Up to here the table has a slot for every node: 8 MB, and no collisions."""
_LOCAL_BITS = np.int64(LOCAL_BITS)
_LOCAL_MASK = np.int64((1 << LOCAL_BITS) - 1)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_BLOCK = 64  # rows whose edges wait for their entries of the table
_LAG = 48  # edges of other rows between the request for a column and its reading
_AHEAD = 32  # rows between the request for an offset and its reading


@register_jitable  # type: ignore[untyped-decorator]
def _slot(number, shift):
    """Where a number's entry is looked for first; without a shift, every number has its slot."""
    if shift is None:
        return number
    return np.int64((np.uint64(number) * _GOLDEN) >> np.uint64(shift))


@register_jitable  # type: ignore[untyped-decorator]
def _number(node, owners, place, stride):
    """What the table knows a node by: with owners, every owner's copies are nodes of their own."""
    if owners is None:
        return node
    return owners[place] * stride + node


@register_jitable  # type: ignore[untyped-decorator]
def _find(table, shift, number):
    """The slot that holds a number, or the empty one where it belongs."""
    slot = _slot(number, shift)
    if shift is None:
        return slot
    mask = len(table) - 1
    while table[slot] >= 0 and table[slot] >> _LOCAL_BITS != number:
        slot = (slot + 1) & mask
    return slot


@register_jitable  # type: ignore[untyped-decorator]
def _entry(shift, number, local):
    """What the slot of a number holds: its local id, and the number where slots are shared."""
    if shift is None:
        return np.int32(local)
    return (number << _LOCAL_BITS) | local


@register_jitable  # type: ignore[untyped-decorator]
def _local(shift, entry):
    """The local id of an entry that is not empty."""
    if shift is None:
        return np.int64(entry)
    return entry & _LOCAL_MASK


def _insert(version, table, shift, nodes, owners, stride, first, last, places):
    """Enter the nodes ``first`` to ``last`` (their first copies) and note their slots."""
    for local in range(first, last):
        number = _number(nodes[local], owners, local, stride)
        slot = _find(table, shift, number)
        if table[slot] < 0:
            table[slot] = _entry(shift, number, local)
        places[local] = slot


def _count(version, indptr, nodes, first, last, fanout, replace, begin, degree, taken):
    """First edge, degree and number of edges to take of every node, and room for a choice."""
    room = np.int64(0)
    for place in range(first, last):
        prefetch(indptr, nodes[min(place + _AHEAD, last - 1)])
        node = nodes[place]
        start = indptr[node]
        size = indptr[node + 1] - start
        begin[place - first] = start
        degree[place - first] = size
        if fanout < 0 or (size <= fanout and not replace) or size == 0:
            taken[place - first] = size
        else:
            taken[place - first] = fanout
            need = 3 * fanout if is_sparse(size, fanout) else size
            room = max(room, need)
    return room


@register_jitable  # type: ignore[untyped-decorator]
def _pick(key, start, size, count, replace, room, position, at):
    """Positions of one node's edges."""
    if replace and count > 0 and size > 0:
        for step in range(count):
            position[at + step] = start + below(key, step, size)
    elif count == size:
        for step in range(count):
            position[at + step] = start + step
    else:
        choose(key, size, count, room)
        for step in range(count):
            position[at + step] = start + room[step]


@register_jitable  # type: ignore[untyped-decorator]
def _sort_row(source, position, start, end):
    """Shell sort by (source, position); rows are nearly sorted already."""
    gap = np.int64(1)
    while 3 * gap + 1 < (end - start) // 2:
        gap = 3 * gap + 1
    while gap > 0:
        for right in range(start + gap, end):
            key, value, at = source[right], position[right], right
            while at >= start + gap and (
                source[at - gap] > key or (source[at - gap] == key and position[at - gap] > value)
            ):
                source[at] = source[at - gap]
                position[at] = position[at - gap]
                at -= gap
            source[at] = key
            position[at] = value
        gap //= 3


def _expand(
    version, indices, nodes, owners, stride, first, last, filled, key, begin, degree, taken, draw,
    room, table, shift, places, source, target, position, at,
):  # fmt: skip
    """Draw the rows of the nodes ``first`` to ``last``; returns the number of nodes after it.

    ``draw``: with replacement; ``owners``: the seed of every node, or None. Edges are written
    from ``at`` on. A block of rows draws positions and asks for their columns, reads these some
    edges later and asks for the table's lines, and last gives local ids. A neighbour is
    written as if it were new before that is known. It fits: before an edge there are fewer new
    nodes than edges, and fewer than nodes, since its target is known.
    """
    for block in range(first, last, _BLOCK):
        stop, low, read = min(block + _BLOCK, last), at, at
        for place in range(block, stop):
            row, count = place - first, taken[place - first]
            own = derive(key, _number(nodes[place], owners, place, stride))
            _pick(own, begin[row], degree[row], count, draw, room, position, at)
            for edge in range(at, at + count):
                target[edge] = place
                prefetch(indices, position[edge])
            at += count
            until = at if place == stop - 1 else max(at - _LAG, read)
            for edge in range(read, until):
                node = np.int64(indices[position[edge]])
                source[edge] = node
                prefetch(table, _slot(_number(node, owners, target[edge], stride), shift))
            read = until
        for edge in range(low, at):
            node = source[edge]
            number = _number(node, owners, target[edge], stride)
            slot = _find(table, shift, number)
            entry = table[slot]
            known = entry >= 0
            local = _local(shift, entry) if known else filled
            # A branch on what is known would be missed by every other edge; but a shared table may
            # be beyond the cache, where what is written must be written back.
            if shift is None or not known:
                table[slot] = _entry(shift, number, local)
            nodes[filled] = node
            if owners is not None:
                owners[filled] = owners[target[edge]]
            places[filled] = slot
            filled += not known
            source[edge] = local
    return filled


def _sort_rows(version, source, target, position):
    """Bring edges that ascend by target into CSR order: by target, source, position."""
    start = 0
    for edge in range(1, len(target) + 1):
        if edge == len(target) or target[edge] != target[start]:
            _sort_row(source, position, start, edge)
            start = edge


def _induced(version, indptr, indices, nodes, table, shift, count_only, counts, source, position):
    """Edges among the nodes in the table: counted, or written in CSR order."""
    at = np.int64(0)
    for place in range(len(nodes)):
        start = at
        for edge in range(indptr[nodes[place]], indptr[nodes[place] + 1]):
            entry = table[_find(table, shift, np.int64(indices[edge]))]
            if entry < 0:
                continue
            if not count_only:
                source[at] = _local(shift, entry)
                position[at] = edge
            at += 1
        if count_only:
            counts[place] = at - start
        else:
            _sort_row(source, position, start, at)
    return at


insert = ArrayKernel(_insert)
count = ArrayKernel(_count)
expand = ArrayKernel(_expand)
sort_rows = ArrayKernel(_sort_rows)
induced = ArrayKernel(_induced)
