"""Calls that are made again on other tensors: their launches, without the way there.

What a call launches depends on shapes, dtypes and the graph alone. It is written down once, as a
CUDA graph would be, but every call allocates its results.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphattn.kernels.gpu.attention import attention_backward, attention_forward
from graphattn.kernels.gpu.launch import launch_values, on_device_of, recording
from graphattn.kernels.layout import Layout
from graphattn.kernels.score import Results, Score


@dataclass
class _Step:
    """One launch.

    ``slots``: (argument, number of the tensor among given and made ones); ``runner``: the compiled
    kernel with its grid, once it is known.
    """

    kernel: Any
    programs: int
    num_warps: int
    max_registers: int | None
    values: list[Any]
    slots: list[tuple[int, int]]
    runner: Callable[..., None] | None = None

    def launch(self, tensors: Sequence[Tensor]) -> None:
        """Make the launch on these tensors."""
        values = self.values.copy()
        for place, number in self.slots:
            values[place] = tensors[number]
        if self.runner is not None:
            self.runner(*values)
            return
        options = self.num_warps, self.max_registers
        compiled = launch_values(self.kernel, self.programs, values, *options)
        if compiled is not None:
            self.runner = compiled[self.programs, 1, 1]


class Replay:
    """The launches of a call that does nothing else but allocate.

    Args:
        call: Function of ``given``, all on the meta device, that returns some of what it allocates.
        given: Stand-ins of the tensors that come at each run, contiguous and 16-byte aligned.
        lead: What the results' first dimension, the batch, is unfolded to.
    """

    def __init__(
        self,
        call: Callable[..., Sequence[Tensor | None]],
        given: Sequence[Tensor],
        lead: tuple[int, ...],
    ) -> None:
        with recording() as launches:
            results = [t for t in call(*given) if t is not None]
        made = list(results)
        places = {id(t): number for number, t in enumerate((*given, *made))}
        self.steps: list[_Step] = []
        for kernel, arguments, num_warps, max_registers, programs in launches:
            values, slots = [arguments[name] for name in kernel.arg_names], []
            for place, value in enumerate(values):
                if isinstance(value, Tensor) and value.is_meta:
                    if id(value) not in places:
                        places[id(value)] = len(given) + len(made)
                        made.append(value)
                    slots.append((place, places[id(value)]))
                    values[place] = None
            if programs > 0:
                self.steps.append(_Step(kernel, programs, num_warps, max_registers, values, slots))
        self.made = [(t.shape, t.dtype) for t in made]
        self.made[: len(results)] = [((*lead, *t.shape[1:]), t.dtype) for t in results]
        self.results = results

    def run(self, *given: Tensor) -> list[Tensor]:
        """Results of the call on other tensors."""
        made = [given[0].new_empty(shape, dtype=dtype) for shape, dtype in self.made]
        tensors = (*given, *made)
        with on_device_of(given[0]):
            for step in self.steps:
                step.launch(tensors)
        return made[: len(self.results)]


class Repeated:
    """Attention without options on one graph, for tensors of one shape, forward and backward.

    Args:
        nodes: Query, key and value [B, N, H, D], whose shapes and dtypes count.
        lead: The leading dimensions that B stands for; tensors come and go with these.
        rows: Layout by rows.
        score: Scale alone.

    ``cols``, the layout by columns, has to be there when a gradient is asked for.
    """

    def __init__(
        self,
        nodes: Sequence[Tensor],
        lead: tuple[int, ...],
        rows: Layout,
        score: Score,
    ) -> None:
        self.lead, self.rows, self.score = lead, rows, score
        self.cols: Layout | None = None
        self.nodes = [torch.empty(t.shape, dtype=t.dtype, device="meta") for t in nodes]

        def call(query: Tensor, key: Tensor, value: Tensor) -> Results:
            return attention_forward(query, key, value, rows, score)

        self._forward = Replay(call, self.nodes, lead)
        self._backward: dict[int, Replay] = {}

    def takes(self, tensor: Tensor) -> bool:
        """Whether kernels can be launched on it as it is."""
        return tensor.is_contiguous() and tensor.data_ptr() % 16 == 0

    def forward(self, *nodes: Tensor) -> list[Tensor]:
        """Output and LSE of query, key and value."""
        return self._forward.run(*nodes)

    def backward(self, grads: Sequence[Tensor], *nodes: Tensor) -> list[Tensor]:
        """Gradients of query, key and value.

        Args:
            grads: Those of the output and, if there is one, of the LSE.
            nodes: Query, key, value, output, LSE.
        """
        replay = self._backward.get(len(grads))
        if replay is None:
            replay = self._backward[len(grads)] = self._record(len(grads))
        return replay.run(*grads, *nodes)

    def _record(self, count: int) -> Replay:
        rows, cols, score = self.rows, self.cols, self.score

        def call(*given: Tensor) -> Sequence[Tensor | None]:
            pulls, nodes, done = given[:count], given[count:-2], given[-2:]
            query, key, value = nodes
            return attention_backward(
                Results(*pulls), query, key, value, Results(*done), rows, cols, score
            )[:3]

        done = self._forward.results
        pulls = [torch.empty_like(t) for t in done[:count]]
        return Replay(call, (*pulls, *self.nodes, *done), self.lead)
