"""Walks over non-linear messages: phi(own + gathered + projected edge feature)."""

from collections.abc import Sequence

from llvmlite import ir
from numba.core import cgutils

from graphattn.kernels.cpu.accumulators import Message, plain_sum
from graphattn.kernels.cpu.activation import emit_activation
from graphattn.kernels.cpu.emitter import I64, Emitter, Value
from graphattn.kernels.cpu.pull import add_weights, fresh_lanes, message_gradient, segment_sums
from graphattn.kernels.cpu.reduce import emit_reduce
from graphattn.kernels.cpu.reduction import Piece
from graphattn.kernels.cpu.shape import Row
from graphattn.kernels.cpu.walk import Edge, Walk, walk_intrinsic

_MESSAGE = "own attr features proj jump"


class MessageWalk(Walk):
    """A walk whose edges bring phi(own + gathered + sum_f attr_f proj_f).

    ``own``: the slice of the row's own numbers; ``attr``: features of the edges, ``features`` each;
    ``proj``: this slice of their projection, features ``jump`` bytes apart.
    """

    def __init__(
        self, e: Emitter, row: Row, base: Sequence[Value], own: Value, attr: Value,
        features: Value, proj: Value, jump: Value,
    ) -> None:  # fmt: skip
        super().__init__(e, row, *base)
        self.mine = {piece.start: self.load(own, piece) for piece in self.pieces}
        self.attr, self.features, self.proj, self.jump = attr, features, proj, jump

    def near(self, edge: Edge, piece: Piece) -> Value:
        """phi of an edge."""
        return self.bend(self.before(edge, piece))[0]

    def bend(self, before: Value) -> tuple[Value, Value]:
        """phi and its slope."""
        return emit_activation(self.e, self.shape.activation, before, self.shape.slope)

    def before(self, edge: Edge, piece: Piece) -> Value:
        """What phi is applied to; the same bits in every pass."""
        e, b = self.e, self.e.builder
        total = b.fadd(self.mine[piece.start], self.gather(edge.row, piece))
        if not self.shape.featured:
            return total
        held = cgutils.alloca_once(b, total.type)
        b.store(total, held)
        with cgutils.for_range(b, self.features) as loop:
            found = self.load(self.feature_row(loop.index), piece)
            attr = e.splat(self.feature_of(edge, loop.index), piece.lanes)
            b.store(e.fma(attr, found, b.load(held, typ=total.type)), held)
        return b.load(held, typ=total.type)

    def feature_row(self, feature: Value) -> Value:
        """Address of the slice of one feature's projection."""
        return self.e.builder.add(self.proj, self.e.builder.mul(feature, self.jump))

    def feature_place(self, base: Value, edge: Edge, feature: Value) -> Value:
        """Address of one feature of an edge in an array [E, F]."""
        b, size = self.e.builder, ir.Constant(I64, self.e.itemsize)
        return b.add(base, b.mul(size, b.add(b.mul(edge.id, self.features), feature)))

    def feature_of(self, edge: Edge, feature: Value) -> Value:
        """One feature of an edge."""
        at = self.e.address(self.feature_place(self.attr, edge, feature))
        return self.e.builder.load(at, align=self.e.itemsize, typ=self.e.scalar)


def _emit_change(
    walk: MessageWalk, grad: Value, grad_weight: Value, again: Value, pulls: Value, plane: Value,
    grad_attr: Value, attr_again: Value, added: Value,
) -> None:  # fmt: skip
    """Gradient of ``own``, of the weights and of the edge features.

    The terms of the gradient lie ``plane`` bytes apart: from ``pulls`` on by rows, and behind the
    gathered numbers by columns. ``added`` is added to: gradients of the features' projection, and
    behind them the sum of the messages.
    """
    e, b, shape = walk.e, walk.e.builder, walk.shape
    first = 0 if shape.by_rows else 1
    planes = [b.mul(plane, ir.Constant(I64, first + term)) for term in range(shape.terms)]
    held = [
        [walk.load(b.add(pulls, jump), piece) for jump in planes] if shape.by_rows else []
        for piece in walk.pieces
    ]
    sums = [plain_sum(e, piece.lanes) for piece in walk.pieces]
    totals = [plain_sum(e, piece.lanes) for piece in walk.pieces if shape.total]
    for total in (*sums, *totals):
        total.begin()
    with walk.blocks() as (start, count):
        for total in (*sums, *totals):
            total.open(None, None)
        with walk.edges_of(start, count) as position:
            walk.fetch(
                position, [ir.Constant(I64, 0)] if shape.by_rows else [plane.type(0), *planes]
            )
            edge, products, changes = walk.at(position), [], []
            for piece, own_terms, total in zip(walk.pieces, held, sums, strict=True):
                value, bend = walk.bend(walk.before(edge, piece))
                terms = own_terms or [walk.gather(b.add(edge.row, at), piece) for at in planes]
                message = walk.message(edge, piece, value)
                pull = message_gradient(walk, terms, piece, message)
                if shape.total:
                    totals[len(products)].step(message)
                products.append(b.fmul(value, pull))
                change = pull if shape.activation == "identity" else b.fmul(pull, bend)
                if message.factor is not None:
                    change = b.fmul(message.factor, change)
                total.step(Message(change, None, change))
                changes.append(fresh_lanes(e, piece, change))
            if shape.needs[1]:
                at = b.add(grad_weight, b.mul(edge.id, walk.weight_jump))
                add_weights(walk, products, at, again)
            if any(shape.feature_needs):
                _emit_features(walk, edge, changes, grad_attr, attr_again, added)
        for total in (*sums, *totals):
            total.close(None, None)
    for piece, total in zip(walk.pieces, sums, strict=True):
        if shape.needs[0]:
            walk.store(total.result(), grad, piece)
    behind = b.add(added, b.mul(walk.features, walk.jump))
    for piece, total in zip(walk.pieces, totals, strict=shape.total):
        found = fresh_lanes(e, piece, total.result())
        walk.store(b.fadd(walk.load(behind, piece), found), behind, piece)


def _emit_features(
    walk: MessageWalk, edge: Edge, changes: list[Value], grad_attr: Value, again: Value,
    grad_proj: Value,
) -> None:  # fmt: skip
    """grad_attr[e, f] = sum_c change_c proj_fc; grad_proj[f] += attr_f change."""
    e, b = walk.e, walk.e.builder
    with cgutils.for_range(b, walk.features) as loop:
        row, jump = walk.feature_row(loop.index), b.mul(loop.index, walk.jump)
        if walk.shape.feature_needs[0]:
            total = None
            for piece, change in zip(walk.pieces, changes, strict=True):
                part = b.fmul(change, walk.load(row, piece))
                total = part if total is None else b.fadd(total, part)
            found = segment_sums(e, [total], walk.pieces[0].lanes)
            at = walk.feature_place(grad_attr, edge, loop.index)
            added = b.icmp_signed("!=", again, ir.Constant(I64, 0))
            old = e.load(at, 0, 1)
            e.store(b.select(added, b.fadd(old, found), found), at, 0)
        if walk.shape.feature_needs[1]:
            attr = walk.feature_of(edge, loop.index)
            at = b.add(grad_proj, jump)
            for piece, change in zip(walk.pieces, changes, strict=True):
                walk.store(
                    e.fma(e.splat(attr, piece.lanes), change, walk.load(at, piece)), at, piece
                )


def _message_walk(
    e: Emitter, row: Row, walk: Sequence[Value], rest: Sequence[Value]
) -> MessageWalk:
    return MessageWalk(e, row, walk, *rest[:5])


reduce_message_edges = walk_intrinsic(
    "reduce_message_edges",
    "As ``reduce_edges``, of the messages of a ``MessageWalk``.",
    f"{_MESSAGE} out out_plane stats plane",
    lambda e, row, walk, rest: emit_reduce(_message_walk(e, row, walk, rest), *rest[5:]),
)
change_edges = walk_intrinsic(
    "change_edges",
    "Gradients of one slice of a row of messages; see ``_emit_change``.",
    f"{_MESSAGE} grad grad_weight again pulls plane grad_attr attr_again added",
    lambda e, row, walk, rest: _emit_change(_message_walk(e, row, walk, rest), *rest[5:]),
)
