"""Attention called again with tensors of one shape; the GPU's twin repeats launches."""

from collections.abc import Sequence
from functools import cached_property

from torch import Tensor

from graphattn.kernels.cpu.attention import (
    FORWARD_BLOCK,
    attention_backward,
    attention_forward,
    forward_shares,
)
from graphattn.kernels.cpu.backward import BACKWARD_BLOCK, Pulls
from graphattn.kernels.cpu.launch import Launch, prepare
from graphattn.kernels.cpu.shares import Share, shares
from graphattn.kernels.layout import Layout
from graphattn.kernels.score import Results, Score

NO_EDGES: list[Tensor | None] = [None] * 3


class Repeated:
    """Attention without options on one graph, for tensors of one shape; see gpu/repeated.py.

    Kernels get addresses here. What they need besides is kept from the first call, unless heads or
    widths have to be padded: then every call goes the whole way.
    """

    def __init__(
        self,
        nodes: Sequence[Tensor],
        lead: tuple[int, ...],
        rows: Layout,
        score: Score,
    ) -> None:
        self.batch, self.lead, self.score = nodes[0].shape[0], lead, score
        self.rows, self.shares = rows, shares(rows)
        self.cols: Layout | None = None
        self._forward = self._kept(nodes, FORWARD_BLOCK)
        self._backward = [self._kept(nodes, BACKWARD_BLOCK) for _ in range(2)]

    def _kept(self, nodes: Sequence[Tensor], block: int) -> Launch | None:
        """A launch that can be made on other tensors; None where these would need padding."""
        query, key, value = nodes
        made = prepare(query, key, value, block, self.score, False)
        same = (made.query, made.key, made.value)
        if any(a is not b for a, b in zip(same, nodes, strict=True)):
            return None
        blank = query.new_empty(0)
        return made.on(blank, blank, blank)._replace(bound={})

    @cached_property
    def col_shares(self) -> list[Share]:
        """The columns' work, once a gradient is asked for."""
        assert self.cols is not None
        return shares(self.cols)

    def takes(self, tensor: Tensor) -> bool:
        """Whether it can be viewed with one leading dimension, and has an address of its own."""
        return tensor.is_contiguous()

    def forward(self, *nodes: Tensor) -> list[Tensor]:
        """Output and LSE of query, key and value."""
        query, key, value = self._fold(nodes)
        if self._forward is None:
            out, lse, *_ = attention_forward(query, key, value, self.rows, self.score)
        else:
            call = self._forward.on(query, key, value)
            lse, out, _ = forward_shares(call, self.shares, key.shape[1])
        return self._unfold(out, lse)

    def backward(self, grads: Sequence[Tensor], *nodes: Tensor) -> list[Tensor]:
        """Gradients of query, key and value, from query, key, value, output and LSE."""
        query, key, value, *done = self._fold(nodes)
        given, results = Results(*self._fold(grads)), Results(*done)
        kept = self._backward[len(grads) - 1]
        if kept is None:
            assert self.cols is not None
            layouts = self.rows, self.cols
            found = attention_backward(given, query, key, value, results, *layouts, self.score)
            return self._unfold(*found[:3])
        pulls = Pulls.of(kept.on(query, key, value), given, results)
        (grad_query, _), _ = pulls.by_rows(self.shares, NO_EDGES, (False,) * 4)
        return self._unfold(grad_query, *pulls.by_columns(self.col_shares))

    def _fold(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        first = len(self.lead)
        return [t.view(self.batch, *t.shape[first:]) for t in tensors]

    def _unfold(self, *tensors: Tensor | None) -> list[Tensor]:
        return [t.view(self.lead + t.shape[1:]) for t in tensors if t is not None]
