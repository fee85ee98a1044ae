"""From tensors to kernel arguments: padding, compile-time shape, addresses."""

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from graphattn.kernels.cpu.block import Sizes
from graphattn.kernels.cpu.compile import Kernel
from graphattn.kernels.cpu.shape import Shape, head_groups, padded_width
from graphattn.kernels.cpu.threads import run_chunks
from graphattn.kernels.layout import Layout

Argument = int | float | None
make_shape = cache(Shape)


@cache
def _with_bits(shape: Shape, index_bits: int, edge_bits: int) -> Shape:
    return replace(shape, index_bits=index_bits, edge_bits=edge_bits)


def address(tensor: Tensor | None) -> int | None:
    """Where a tensor's numbers are; the caller keeps it alive."""
    return None if tensor is None else tensor.data_ptr()


def cut(tensor: Tensor, like: Tensor) -> Tensor:
    """Drop padding: [B, N, H', D'] to the heads, width and dtype of ``like``."""
    return tensor[:, :, : like.shape[2], : like.shape[3]].to(like.dtype).contiguous()


@dataclass(frozen=True)
class Launch:
    """One call's inputs as the kernels read them: padded, contiguous, in the compute dtype."""

    shape: Shape
    heads: int
    dtype: torch.dtype
    query: Tensor
    key: Tensor
    value: Tensor
    edge: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
    terms: tuple[Argument, ...]
    dropout: tuple[Argument, ...]
    streams: Tensor | None
    widths: tuple[int, int, int]

    def padded(self, tensor: Tensor, width: int) -> Tensor:
        """[B, N, H, D] with zeros up to the padded heads and ``width``."""
        tensor = tensor.to(self.dtype)
        if tensor.shape[2] != self.heads or tensor.shape[3] != width:
            tensor = pad(tensor, (0, width - tensor.shape[3], 0, self.heads - tensor.shape[2]))
        return tensor.contiguous()

    def padded_heads(self, tensor: Tensor | None) -> Tensor | None:
        """[B, N, H] with zeros up to the padded heads."""
        if tensor is None:
            return None
        tensor = tensor.to(self.dtype)
        if tensor.shape[2] != self.heads:
            tensor = pad(tensor, (0, self.heads - tensor.shape[2]))
        return tensor.contiguous()

    def empty(self, nodes: int, width: int) -> Tensor:
        """Uninitialised [B, nodes, H', width]."""
        return self.query.new_empty((self.query.shape[0], nodes, self.heads, width))

    def sizes(self, rows: int, columns: int, edges: int) -> Sizes:
        """Run-time sizes of a pass whose ``rows`` own the edges."""
        heads, key, feature = self.widths
        per_head = self.edge[0] is not None and self.edge[0].dim() == 2
        return Sizes(
            batch=self.query.shape[0],
            rows=rows,
            columns=columns,
            last=edges - 1,
            groups=self.heads // self.shape.heads,
            heads=heads,
            key=key,
            feature=feature,
            bias_edge=heads if per_head else 1,
            bias_head=1 if per_head else 0,
        )

    def run(self, kernel: Kernel, layout: Layout, columns: int, *arguments: Argument) -> None:
        """Run a kernel over all rows of a layout, which gather from ``columns`` nodes."""
        ids = layout.edges.data_ptr() if layout.edges.shape[0] else None
        bits = (8 * tensor.element_size() for tensor in (layout.indices, layout.edges))
        shape = _with_bits(self.shape, *bits)
        edges = layout.indices.shape[0]
        size = self.sizes(layout.indptr.shape[0] - 1, columns, edges)
        graph = (layout.indptr.data_ptr(), layout.indices.data_ptr(), ids)
        entry = kernel.compiled((shape, size, 0, 0, *graph, *arguments))

        def call(first: int, last: int) -> None:
            entry(shape, size, first, last, *graph, *arguments)

        work = size.batch * edges * self.heads * (shape.key + shape.value)
        run_chunks(call, layout.plan[0], work)


def prepare(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    block: int,
    *,
    scale: float,
    clamp: float | None,
    bias: Tensor | None,
    gate: Tensor | None,
    edge_attr: Tensor | None,
    edge_query: Tensor | None,
    dropout_p: float,
    streams: Tensor | None,
) -> Launch:
    """Choose the compile-time shape and bring the inputs into its form."""
    double = query.dtype == torch.float64
    dtype = torch.float64 if double else torch.float32
    widths = padded_width(query.shape[3], double), padded_width(value.shape[3], double)
    width = 0 if edge_attr is None else edge_attr.shape[1]
    feature = -(-width // 8) * 8
    heads, group = head_groups(query.shape[2], *widths, feature, double)
    streams = None if streams is None else streams.contiguous()
    plain = tuple(t if t is None else t.to(dtype).contiguous() for t in (bias, gate, edge_attr))
    launch = Launch(
        shape=make_shape(double, group, *widths, feature, 64, 64, block),
        heads=heads,
        dtype=dtype,
        query=query,
        key=key,
        value=value,
        edge=(*plain, edge_query),
        terms=(float(scale), None if clamp is None else float(clamp)),
        dropout=_dropout(dropout_p, streams),
        streams=streams,
        widths=(query.shape[2], query.shape[3], width),
    )
    if edge_query is not None:
        edge_query = launch.padded(edge_query, feature)
    return replace(
        launch,
        query=launch.padded(query, widths[0]),
        key=launch.padded(key, widths[0]),
        value=launch.padded(value, widths[1]),
        edge=(*plain, edge_query),
    )


def _dropout(dropout_p: float, streams: Tensor | None) -> tuple[Argument, ...]:
    """Hash threshold, factor of a kept weight, address of the streams."""
    if dropout_p == 0.0 or streams is None:
        return None, None, None
    threshold = min(int(dropout_p * 2**32), 2**32 - 1)
    return threshold, 1.0 / (1.0 - dropout_p) if dropout_p < 1.0 else 0.0, streams.data_ptr()
