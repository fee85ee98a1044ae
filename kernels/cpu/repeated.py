"""Attention called again with tensors of one shape; the GPU's twin repeats launches."""

from collections.abc import Sequence

from torch import Tensor

from graphattn.kernels.cpu.attention import attention_backward, attention_forward
from graphattn.kernels.layout import Layout
from graphattn.kernels.score import Results, Score


class Repeated:
    """Attention without options on one graph, for tensors of one shape; see gpu/repeated.py.

    Kernels get addresses here, so that nothing but the layouts is kept from call to call.
    """

    def __init__(
        self,
        nodes: Sequence[Tensor],
        lead: tuple[int, ...],
        rows: Layout,
        score: Score,
    ) -> None:
        self.batch, self.lead, self.score = nodes[0].shape[0], lead, score
        self.rows = rows
        self.cols: Layout | None = None

    def takes(self, *tensors: Tensor) -> bool:
        """Whether these can be viewed with one leading dimension."""
        return all(t.is_contiguous() for t in tensors)

    def forward(self, *nodes: Tensor) -> list[Tensor]:
        """Output and LSE of query, key and value."""
        query, key, value = self._fold(nodes)
        out, lse, *_ = attention_forward(query, key, value, self.rows, self.score)
        return self._unfold(out, lse)

    def backward(self, grads: Sequence[Tensor], *nodes: Tensor) -> list[Tensor]:
        """Gradients of query, key and value, from query, key, value, output and LSE."""
        assert self.cols is not None
        query, key, value, *done = self._fold(nodes)
        pulls = Results(*self._fold(grads))
        found = attention_backward(
            pulls, query, key, value, Results(*done), self.rows, self.cols, self.score
        )
        return self._unfold(*found[:3])

    def _fold(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        first = len(self.lead)
        return [t.view(self.batch, *t.shape[first:]) for t in tensors]

    def _unfold(self, *tensors: Tensor | None) -> list[Tensor]:
        return [t.view(self.lead + t.shape[1:]) for t in tensors if t is not None]
