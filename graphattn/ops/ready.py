"""Attention without options, called again with shapes that its graph has seen.

Models call attention with the same shapes at every step, and for small graphs the way from
arguments to kernels takes several times as long as the kernels. What was checked and prepared once
is kept with the graph.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from graphattn.graph import Graph
from graphattn.ops.attention_op import differentiable_backward, pull_attention
from graphattn.ops.fused import PLAIN, flatten, is_watched, kernels
from graphattn.ops.inputs import Inputs, layouts_for, prepare

SCALES = (float, int, type(None))
MOST = 64
"""Shapes kept with a graph; beyond it all are forgotten."""


class Ready:
    """What is known of calls with tensors of one kind; ``inputs`` stands for them."""

    def __init__(self, inputs: Inputs) -> None:
        nodes = [t for t in inputs[:3] if isinstance(t, Tensor)]
        self.layouts, self.score, self.impl = layouts_for(inputs), inputs.score, inputs.impl
        self.lead = tuple(inputs.lead)
        self.rows = inputs.graph.rows_layout(self.layouts)
        repeated = kernels(inputs.impl, "repeated").Repeated
        self.calls = repeated(nodes, self.lead, self.rows, self.score)

    def plain(self, *tensors: Tensor) -> list[Tensor]:
        """The tensors, copied where the kernels do not take them as they are."""
        takes = self.calls.takes
        return [t if takes(t) else t.clone(memory_format=torch.contiguous_format) for t in tensors]

    def watched(
        self, grads: Sequence[Tensor | None], tensors: Sequence[Tensor]
    ) -> list[Tensor | None]:
        """Gradients by way of the operator, for those who want to see it."""
        pulls, nodes, score = self._fold(grads), self._fold(tensors), self.score
        layouts = flatten(self.rows), flatten(self.calls.cols)
        rest = score.scale, score.clamp, score.dropout_p, self.impl, [False] * 4
        found = pull_attention(
            (*pulls, *[None] * 3), nodes[:3], (*nodes[3:], None), [None] * 7, *layouts, *rest
        )
        return _shaped_like(tensors[:3], found[:3])

    def differentiable(
        self, grads: Sequence[Tensor | None], nodes: Sequence[Tensor]
    ) -> list[Tensor | None]:
        """Gradients of query, key and value that can be differentiated again."""
        rows, given = flatten(self.rows), (*self._fold(grads), None, None, None)
        found = differentiable_backward(self._fold(nodes), rows, self.score, False, given)
        return _shaped_like(nodes, found[:3])

    def _fold(self, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
        """With one batch dimension in place of the leading ones."""
        first = len(self.lead)
        return [None if t is None else t.reshape(-1, *t.shape[first:]) for t in tensors]


def _shaped_like(nodes: Sequence[Tensor], grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    pairs = zip(grads, nodes, strict=True)
    return [None if g is None else g.reshape(t.shape) for g, t in pairs]


class _Attend(torch.autograd.Function):
    """The derivative of ready calls: as attention_op's, with nothing to sort out."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, ready: Ready) -> Any:
        out, lse = ready.calls.forward(*ready.plain(query, key, value))
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.set_materialize_grads(False)
        ctx.ready = ready
        return out, lse

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> Any:
        ready, tensors, grads = ctx.ready, ctx.saved_tensors, (grad_out, grad_lse)
        if torch.is_grad_enabled():
            found = ready.differentiable(grads, tensors[:3])
        elif torch.compiler.is_compiling() or is_watched():
            found = ready.watched(grads, tensors)
        else:
            if grad_out is None:
                grad_out = torch.zeros_like(tensors[3])
            given = [g for g in (grad_out, grad_lse) if g is not None]
            found = ready.calls.backward(ready.plain(*given), *ready.plain(*tensors))
        return *(g if n else None for g, n in zip(found, ctx.needs_input_grad, strict=False)), None


_apply: Callable[..., Sequence[Tensor]] = _Attend.apply


def attend_ready(
    query: Any, key: Any, value: Any, graph: Graph, scale: float | None, impl: str
) -> Sequence[Tensor] | None:
    """Output and LSE, or None if the call has to go the long way."""
    if not (type(query) in PLAIN and type(key) in PLAIN and type(value) in PLAIN):
        return None
    if type(scale) not in SCALES or type(impl) is not str:
        return None
    if impl == "reference" or torch.compiler.is_compiling() or is_watched():
        return None
    if forward_ad._current_level >= 0:
        return None
    name = (
        query.shape, key.shape, value.shape, query.dtype, key.dtype, value.dtype,
        query.device, key.device, value.device, scale, impl,
    )  # fmt: skip
    ready = graph.ready.get(name)
    if ready is None:
        if _is_special(query, key, value):
            return None
        inputs = prepare(query, key, value, graph, scale=scale, impl=impl)
        if inputs.impl == "reference":
            return None
        ready = Ready(inputs)
        if len(graph.ready) >= MOST:
            graph.ready.clear()
        graph.ready[name] = ready
    if torch.is_autocast_enabled(query.device.type):
        return None
    if torch.is_grad_enabled() and (
        query.requires_grad or key.requires_grad or value.requires_grad
    ):
        if ready.calls.cols is None:
            ready.calls.cols = graph.cols_layout(ready.layouts)
        return _apply(query, key, value, ready)
    found: Sequence[Tensor] = ready.calls.forward(*ready.plain(query, key, value))
    return found


def _is_special(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether a call is cast, spread over heads or empty; or wrong, which the long way says."""
    if min(query.dim(), key.dim(), value.dim()) < 3 or query.device.type not in ("cpu", "cuda"):
        return True
    if torch.is_autocast_enabled(query.device.type) or key.shape[-2] != query.shape[-2]:
        return True
    return not (query.numel() and key.numel() and value.numel())
