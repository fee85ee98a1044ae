"""CPU attention, backward: the pass over rows, then the pass over columns."""

from dataclasses import dataclass

import torch
from torch import Tensor

from graphattn.kernels.cpu.backward_columns import backward_columns
from graphattn.kernels.cpu.backward_rows import backward_rows
from graphattn.kernels.cpu.handed import columns_handed
from graphattn.kernels.cpu.launch import (
    Argument,
    Launch,
    address,
    as_dtype,
    cut,
    plain,
    plain_table,
    prepare,
)
from graphattn.kernels.cpu.pages import empty, zeros
from graphattn.kernels.cpu.shares import Share, add_parts, shares
from graphattn.kernels.layout import Layout
from graphattn.kernels.score import Gradients, Results, Score

BACKWARD_BLOCK = 16
# Gradients of a table or of att are summed in one copy per piece of the rows, of at most this many
# bytes.
TABLE_BYTES, LEAST_TABLES = 2**26, 4


def attention_backward(
    grads: Results,
    query: Tensor,
    key: Tensor,
    value: Tensor | None,
    done: Results,
    rows: Layout,
    cols: Layout,
    score: Score,
    needs: tuple[bool, ...] = (False, False, False, False),
) -> Gradients:
    """Gradients of ``attention_forward``; ``done`` holds its out, lse and edge_out.

    ``needs``: whether the gradients of (bias, gate, edge_attr, edge_query) are wanted, and with
    additive scores fifth that of att. Those of edge tensors are in the caller's order and summed
    over the batch.

    Weights are recomputed as exp(logit - lse), so they inherit the rounding of ``lse``, 6e-8 of it
    in float32: beyond |lse| = 1e7 it cannot hold the log n of n equal logits, and their weights
    here come out as up to 1 instead of 1 / n. A mask of -inf has no such limit, one of
    ``finfo.min`` has it where it masks a whole row. Memory: the gradients, two numbers per row and
    head, up to 64 copies of a bias table or of att, copies of node tensors whose widths need
    padding, and with edge features two numbers per batch entry, edge and padded head.
    """
    score = plain_table(score, rows, value is None or grads.gated is not None)
    call = prepare(query, key, value, BACKWARD_BLOCK, score, grads.gated is not None)
    pulls = Pulls.of(call, grads, done)
    edge_grads = _edge_gradients(call, needs)
    by_rows, tables = pulls.by_rows(shares(rows), edge_grads, needs)
    by_columns = pulls.by_columns(shares(cols))
    summed = _sum_in_order(tables) if tables else None
    if score.bias_index is not None:
        edge_grads[0] = summed
    nodes = (by_rows[0], *by_columns)
    edge_query = None if by_rows[1] is None else cut(by_rows[1], _given(score.edge_query))
    dense = zip(nodes, (query, key, value), strict=True)
    plain = zip(edge_grads, (score.bias, score.gate, score.edge_attr), strict=True)
    return Gradients(
        *(None if like is None or g is None else cut(g, like) for g, like in dense),  # type: ignore[arg-type]
        *(None if like is None or g is None else g.to(like.dtype) for g, like in plain),
        edge_query,
        None if score.att is None or summed is None else _cut_att(summed, score.att),
    )


def _cut_att(summed: Tensor, att: Tensor) -> Tensor:
    return as_dtype(summed[: att.shape[0], : att.shape[1]], att.dtype)


def _given(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor


@dataclass(frozen=True)
class Pulls:
    """A call, its results and their gradients, as the backward kernels read them."""

    call: Launch
    out: Tensor | None
    lse: Tensor | None
    edge_out: Tensor | None
    grad_out: Tensor | None
    grad_lse: Tensor | None
    grad_edge_out: Tensor | None
    grad_gated: Tensor | None
    grad_scores: Tensor | None
    stats: Tensor | None
    handed: Tensor | None

    @classmethod
    def of(cls, call: Launch, grads: Results, done: Results) -> "Pulls":
        """Padded and contiguous; ``stats`` and ``handed`` are written by rows, read by columns."""

        def padded(
            tensor: Tensor | None, width: int, dtype: torch.dtype | None = None
        ) -> Tensor | None:
            return None if tensor is None else call.padded(tensor, width, dtype)

        features = done.edge_out if grads.edge_out is not None else None
        return cls(
            call=call,
            out=padded(done.out, call.shape.value, call.stored),
            lse=call.padded_heads(done.lse),
            edge_out=padded(features, call.shape.feature),
            grad_out=padded(grads.out, call.shape.value, call.stored),
            grad_lse=call.padded_heads(grads.lse),
            grad_edge_out=padded(
                grads.edge_out if features is not None else None, call.shape.feature
            ),
            grad_gated=plain(grads.gated, call.dtype),
            grad_scores=plain(grads.scores, call.dtype),
            stats=None if call.value is None else call.empty(call.query.shape[1], 2),
            handed=_handed(call),
        )

    @property
    def last(self) -> tuple[Argument, ...]:
        """Arguments with which both passes end."""
        return address(self.call.score.mask), *self.call.dropout

    @property
    def middle(self) -> tuple[Argument, ...]:
        """What makes up the logits of both passes, and the gradient of their products."""
        gate = address(self.call.score.gate)
        return *self.call.terms, *self.call.biases, gate, address(self.grad_gated)

    @property
    def features(self) -> tuple[Argument, ...]:
        """Edge features, which meet the rows."""
        score = self.call.score
        own = score.edge_attr, score.edge_query, self.edge_out, self.grad_edge_out
        return tuple(map(address, own))

    def by_rows(
        self,
        divided: list[Share],
        edge_grads: list[Tensor | None],
        needs: tuple[bool, ...],
    ) -> tuple[list[Tensor | None], list[Tensor]]:
        """Gradients of query and edge_query, and of a bias table or att in copies to be summed."""
        whole, *hubs = divided
        made, tables = self._rows_pass(whole, edge_grads, needs)
        for parts in hubs:
            found, more = self._rows_pass(parts, edge_grads, needs)
            assert parts.owners is not None
            add_parts(made, found, parts.owners)
            tables = [*tables, *more]
        return made, tables

    def by_columns(self, divided: list[Share]) -> list[Tensor | None]:
        """Gradients of key and value, after ``by_rows``."""
        whole, *hubs = divided
        made = self._columns_pass(whole)
        for parts in hubs:
            assert parts.owners is not None
            add_parts(made, self._columns_pass(parts), parts.owners)
        return made

    def _rows_pass(
        self, share: Share, edge_grads: list[Tensor | None], needs: tuple[bool, ...]
    ) -> tuple[list[Tensor | None], list[Tensor]]:
        call, grad_edge_query = self.call, None
        if needs[3] and call.score.edge_query is not None:
            grad_edge_query = call.empty(share.outputs, call.shape.feature)
        grad_query = call.empty(share.outputs, call.shape.key)
        bias, gate, edge_attr = edge_grads
        tables = _summed_tables(call, share, needs)
        own = () if tables is not None else (address(bias),)
        call.run(
            backward_rows, share, call.key.shape[1],
            *map(address, (call.query, call.key, call.value, self.out, self.lse, self.grad_out)),
            *map(address, (self.grad_lse, self.grad_scores, grad_query, self.stats)),
            *self.middle, *self.features, *self.last,
            *map(address, (gate, edge_attr, grad_edge_query, self.handed)), *own, tables=tables,
        )  # fmt: skip
        return [grad_query, grad_edge_query], [] if tables is None else list(tables)

    def _columns_pass(self, share: Share) -> list[Tensor | None]:
        call = self.call
        found: list[Tensor | None] = [call.empty(share.outputs, call.shape.key), None]
        if call.value is not None:
            found[1] = call.empty(share.outputs, call.shape.value)
        if self.handed is not None:
            call.run(
                columns_handed, share, call.query.shape[1],
                *map(address, (call.query, self.grad_out, self.handed, *found)),
                call.score.scale, *map(address, (call.score.gate, self.grad_gated)),
            )  # fmt: skip
            return found
        call.run(
            backward_columns, share, call.query.shape[1],
            *map(address, (call.query, call.key, call.value, self.grad_out, self.grad_scores)),
            *map(address, (self.stats, *found)), *self.middle, *self.last,
        )  # fmt: skip
        return found


def _handed(call: Launch) -> Tensor | None:
    """Room for the weight and the logit's gradient of every edge and head, see handed.py."""
    features = call.score.edge_attr
    if features is None:
        return None
    made = call.empty(features.shape[0], 2)
    # Edges that a mask leaves out are not written.
    return made if call.score.mask is None else made.zero_()


def _edge_gradients(call: Launch, needs: tuple[bool, ...]) -> list[Tensor | None]:
    """Where the row pass writes the gradients of bias [E(, H)], gate and edge features."""
    # Edges that a mask leaves out are not visited, nor is any without a batch entry or a head.
    written = call.score.mask is None and call.query.shape[0] * call.query.shape[2] > 0
    blank = empty if written else zeros
    wanted = [tensor if need else None for need, tensor in zip(needs[:4], call.edge, strict=True)]
    if call.score.bias_index is not None:
        wanted[0] = None
    return [None if tensor is None else blank(tensor, tensor.shape) for tensor in wanted[:3]]


def _summed_tables(call: Launch, share: Share, needs: tuple[bool, ...]) -> Tensor | None:
    """Zeroed copies of the bias table or of att, one for each piece of a share."""
    table = call.score.bias if needs[0] and call.score.bias_index is not None else None
    if call.score.att is not None and needs[4]:
        table = call.score.att
    if table is None:
        return None
    most = max(TABLE_BYTES // max(table.numel() * table.element_size(), 1), LEAST_TABLES)
    return zeros(table, (max(min(len(share.bounds) - 1, most), 1), *table.shape))


def _sum_in_order(tables: list[Tensor]) -> Tensor:
    total = tables[0].clone()
    for table in tables[1:]:
        total += table
    return total
