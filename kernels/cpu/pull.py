"""Gradients of x and of the weights, in one walk over a column's edges, for one slice of it."""

from llvmlite import ir

from graphattn.kernels.cpu.accumulators import Message, plain_sum
from graphattn.kernels.cpu.emitter import I64, Emitter, Value
from graphattn.kernels.cpu.reduction import Piece
from graphattn.kernels.cpu.shape import Row
from graphattn.kernels.cpu.walk import Walk, walk_intrinsic


def _emit_pull(
    walk: Walk, own: Value, grad_x: Value, grad_weight: Value, again: Value, plane: Value
) -> None:
    """``plane``: bytes from one term of a row to the next."""
    b, shape = walk.e.builder, walk.shape
    planes = [b.mul(plane, ir.Constant(I64, term)) for term in range(shape.terms)]
    curved = shape.spread or shape.extremes
    mine = [walk.load(own, p) if curved or shape.needs[1] else None for p in walk.pieces]
    sums = [plain_sum(walk.e, piece.lanes) for piece in walk.pieces]
    for total in sums:
        total.begin()
    with walk.blocks() as (start, count):
        for total in sums:
            total.open(None, None)
        with walk.edges_of(start, count) as position:
            walk.fetch(position, planes)
            edge, products = walk.at(position), []
            for piece, x, total in zip(walk.pieces, mine, sums, strict=True):
                message = walk.message(edge, piece, x) if curved else None
                terms = [walk.gather(b.add(edge.row, plane), piece) for plane in planes]
                pull = message_gradient(walk, terms, piece, message)
                total.step(Message(pull, walk.factor(edge, piece), pull))
                products.append(b.fmul(pull, x) if shape.needs[1] else None)
            if shape.needs[1]:
                at = b.add(grad_weight, b.mul(edge.id, walk.weight_jump))
                add_weights(walk, products, at, again)
        for total in sums:
            total.close(None, None)
    for piece, total in zip(walk.pieces, sums, strict=True):
        if shape.needs[0]:
            walk.store(total.result(), grad_x, piece)


def message_gradient(
    walk: Walk, terms: list[Value], piece: Piece, message: Message | None
) -> Value:
    """add + slope (m - mean) + [m = top] share + [m = bottom] share, from a row's terms."""
    e, b, shape = walk.e, walk.e.builder, walk.shape
    terms = list(terms)
    grad = terms.pop(0) if shape.linear else e.constant(0.0, piece.lanes)
    if message is None:
        return grad
    if shape.spread:
        slope, mean = terms.pop(0), terms.pop(0)
        grad = e.fma(slope, b.fsub(message.product, mean), grad)
    for _ in shape.extremes:
        extreme, share = terms.pop(0), terms.pop(0)
        # Unordered: an extreme of NaN has a share of NaN, and passes it to every edge.
        hit = b.fcmp_unordered("==", message.product, extreme)
        grad = b.fadd(grad, b.select(hit, share, e.constant(0.0, piece.lanes)))
    return grad


def add_weights(walk: Walk, products: list[Value], at: Value, again: Value) -> None:
    """Sum the products of each head, and set or add to the gradients of its weight."""
    e, b, row = walk.e, walk.e.builder, walk.row
    vectors, width = _per_head(e, row, walk.pieces, products)
    each = vectors[0].type.count // width
    start = 0
    while start < len(vectors):
        number = 1 << ((len(vectors) - start).bit_length() - 1)
        found = segment_sums(e, vectors[start : start + number], width)
        place = start * each * e.itemsize
        old = e.load(at, place, found.type.count)
        added = b.icmp_signed("!=", again, ir.Constant(I64, 0))
        e.store(b.select(added, b.fadd(old, found), found), at, place)
        start += number


def _per_head(
    e: Emitter, row: Row, pieces: list[Piece], products: list[Value]
) -> tuple[list[Value], int]:
    """Vectors whose segments of some width add up to the heads, in order; and that width."""
    if pieces[0].lanes >= row.width and pieces[0].fresh == pieces[0].lanes:
        return products, row.width
    count, found = len(pieces) // row.heads, []
    for first in range(0, len(pieces), count):
        total = products[first]
        for piece, product in zip(pieces[first:][:count], products[first:][:count], strict=True):
            if piece is pieces[first]:
                continue
            total = e.builder.fadd(total, fresh_lanes(e, piece, product))
        found.append(total)
    return found, pieces[0].lanes


def fresh_lanes(e: Emitter, piece: Piece, vector: Value) -> Value:
    """0 in the lanes that the piece before covers too."""
    if piece.fresh == piece.lanes:
        return vector
    new = [0] * (piece.lanes - piece.fresh) + [1] * piece.fresh
    mask = ir.Constant(ir.VectorType(ir.IntType(1), piece.lanes), new)
    return e.builder.select(mask, vector, vector.type(None))


def segment_sums(e: Emitter, vectors: list[Value], width: int) -> Value:
    """One number per segment of ``width`` lanes of a power of two of vectors, in order."""
    while width > 1:
        width //= 2
        pairs = [(a, None) for a in vectors]
        if len(vectors) > 1:
            pairs = list(zip(vectors[::2], vectors[1::2], strict=True))
        vectors = [_add_halves(e, a, b, width) for a, b in pairs]
    return e.join(vectors)


def _add_halves(e: Emitter, a: Value, b: Value | None, half: int) -> Value:
    """Halve the segments of a, then those of b: first halves plus second halves."""
    lanes = a.type.count * (1 if b is None else 2)
    low = [start + n for start in range(0, lanes, 2 * half) for n in range(half)]
    high = [lane + half for lane in low]
    return e.builder.fadd(e.shuffle(a, b, low), e.shuffle(a, b, high))


pull_edges = walk_intrinsic(
    "pull_edges",
    """Gradients of one slice of a column's x, and of the weights of its edges.

    The table holds the first terms of the rows; terms lie ``plane`` bytes apart; ``own``: the slice
    of x; gradients of weights are added to what is there when ``again`` is not 0.
    """,
    "own grad_x grad_weight again plane",
    lambda e, row, walk, rest: _emit_pull(Walk(e, row, *walk), *rest),
)
