"""Where the row pass of the backward writes the gradients of edge tensors."""

from typing import NamedTuple

import torch
from torch import Tensor

from graphattn.kernels.gpu.arguments import Call, Work
from graphattn.kernels.gpu.tuning import table_programs
from graphattn.kernels.score import Score


class EdgeGradients(NamedTuple):
    """Buffers, None where not needed, and how the row pass is launched to fill them.

    bias, gate and edge_attr sum over batch entries and groups of heads: with any of them these
    units are launched one after the other, each adding to what the one before it left, in the
    accumulation dtype. ``table`` [programs * slots, T, H] is summed by every slot on its own, so
    ``programs`` share the ``items`` of a launch.
    """

    bias: Tensor | None
    table: Tensor | None
    gate: Tensor | None
    edge_attr: Tensor | None
    launches: int
    items: int
    programs: int

    def finish(self, score: Score) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of (bias, gate, edge_attr) in the dtypes of these."""
        bias = self.bias if self.table is None else self.table.sum(0).T.contiguous()
        return (
            _like(bias, score.bias),
            _like(self.gate, score.gate),
            _like(self.edge_attr, score.edge_attr),
        )


def edge_gradients(call: Call, work: Work, score: Score, needs: tuple[bool, ...]) -> EdgeGradients:
    """Allocate for the gradients that are needed of (bias, gate, edge_attr)."""
    blocks = work.num_tasks // call.config.slots
    items = call.units * blocks
    if not any(needs[:3]):
        return EdgeGradients(None, None, None, None, 1, items, items)
    by_table = score.bias_index is not None
    plain = needs[0] and not by_table, needs[1], needs[2]
    dtype = call.high if any(plain) and call.units != 1 else None
    launches = 1 if dtype is None else call.units
    items //= max(launches, 1)
    programs, table = items, None
    if needs[0] and by_table and score.bias is not None:
        heads, types = score.bias.shape
        programs = table_programs(items, call.config, heads * types * call.high.itemsize)
        shape = programs * call.config.slots, types, heads
        table = score.bias.new_zeros(shape, dtype=call.high)
    bias, gate, edge_attr = (
        _buffer(tensor, dtype) if need else None
        for need, tensor in zip(plain, (score.bias, score.gate, score.edge_attr), strict=True)
    )
    return EdgeGradients(bias, table, gate, edge_attr, launches, items, programs)


def _buffer(tensor: Tensor | None, sum_dtype: torch.dtype | None) -> Tensor | None:
    """Zeros to be added to, or memory to be filled."""
    if tensor is None:
        return None
    if sum_dtype is None:
        return torch.empty_like(tensor)
    return torch.zeros_like(tensor, dtype=sum_dtype)


def _like(found: Tensor | None, tensor: Tensor | None) -> Tensor | None:
    return None if found is None or tensor is None else found.to(tensor.dtype)
