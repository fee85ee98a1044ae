"""All reductions of a row's messages in one walk over its edges, for one slice of the row."""

from typing import Any

from llvmlite import ir

from graphattn.kernels.cpu.accumulators import Accumulator, accumulators
from graphattn.kernels.cpu.emitter import I64, Value
from graphattn.kernels.cpu.reduction import Piece
from graphattn.kernels.cpu.walk import Walk, walk_intrinsic


def emit_reduce(walk: Walk, out: Value, out_plane: Value, stats: Value, plane: Value) -> None:
    """Write the walk; results lie ``out_plane`` bytes apart, statistics ``plane``."""
    e, b = walk.e, walk.e.builder
    states = [(piece, accumulators(e, piece.lanes, walk.shape)) for piece in walk.pieces]
    whole = ir.Constant(I64, 0)
    for _, held in states:
        for accumulator in held:
            accumulator.begin()
    with walk.blocks() as (start, count):
        first, fresh = walk.at(start), b.icmp_signed("==", start, walk.begin)
        for piece, held in states:
            message = walk.message(first, piece, walk.near(first, piece))
            for accumulator in held:
                accumulator.open(message, fresh)
        with walk.edges_of(start, count) as position:
            walk.fetch(position, [whole])
            edge = walk.at(position)
            for piece, held in states:
                message = walk.message(edge, piece, walk.near(edge, piece))
                for accumulator in held:
                    accumulator.step(message)
        before = walk.float_of(b.sub(start, walk.begin))
        for _, held in states:
            for accumulator in held:
                accumulator.close(before, walk.float_of(count))
    count = b.sub(walk.end, walk.begin)
    for piece, held in states:
        _emit_results(walk, piece, held, count, ((out, out_plane), (stats, plane)))


def _emit_results(
    walk: Walk, piece: Piece, held: list[Accumulator], count: Value, to: tuple[Any, Any]
) -> None:
    """Store the reductions and statistics of a piece; 0 for a row without edges."""
    b, (out, stats) = walk.e.builder, to
    empty = b.icmp_signed("==", count, ir.Constant(I64, 0))
    divisor = b.select(empty, walk.e.scalar(1.0), walk.float_of(count))
    found: dict[str, Value] = {}
    saved: list[Value] = []
    for accumulator in held:
        saved += accumulator.finish(divisor, found)
    results = [found[name] for name in walk.shape.reduce]
    for (base, plane), vectors in ((out, results), (stats, saved if walk.shape.kept else [])):
        for number, vector in enumerate(vectors):
            at = b.add(base, b.mul(plane, ir.Constant(I64, number)))
            walk.store(b.select(empty, vector.type(None), vector), at, piece)


reduce_edges = walk_intrinsic(
    "reduce_edges",
    "Reduce the messages of a row; results ``out_plane`` bytes apart, statistics ``plane``.",
    "out out_plane stats plane",
    lambda e, row, walk, rest: emit_reduce(Walk(e, row, *walk), *rest),
)
