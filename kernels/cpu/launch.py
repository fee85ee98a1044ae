"""From tensors to kernel arguments: padding, compile-time shape, addresses."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import torch
from llvmlite.binding import get_host_cpu_features, get_process_triple
from torch import Tensor
from torch.nn.functional import pad

from graphattn.kernels.cpu.block import Sizes
from graphattn.kernels.cpu.compile import Kernel
from graphattn.kernels.cpu.pages import empty
from graphattn.kernels.cpu.shape import Shape, head_groups, padded_width
from graphattn.kernels.cpu.shares import Share as Share
from graphattn.kernels.cpu.shares import address as address
from graphattn.kernels.cpu.threads import run_chunks, run_pieces, threads_for
from graphattn.kernels.layout import Layout
from graphattn.kernels.score import Score, is_implied

Argument = int | float | None


@cache
def _with_bits(shape: Shape, index_bits: int, edge_bits: int) -> Shape:
    return replace(shape, index_bits=index_bits, edge_bits=edge_bits)


def cut(tensor: Tensor, like: Tensor) -> Tensor:
    """Drop padding: [B, N, H', D'] to the heads, width and dtype of ``like``."""
    return cut_to(tensor, like.shape[2], like.shape[3], like.dtype)


def cut_to(tensor: Tensor, heads: int, width: int, dtype: torch.dtype) -> Tensor:
    """Drop padding: [B, N, H', D'] to [B, N, heads, width] in ``dtype``."""
    if tensor.shape[2] != heads or tensor.shape[3] != width:
        tensor = tensor[:, :, :heads, :width]
    return as_dtype(tensor, dtype)


def padded(tensor: Tensor, heads: int, width: int, dtype: torch.dtype) -> Tensor:
    """[B, N, H, D] contiguous in ``dtype``, with zeros up to ``heads`` and ``width``."""
    if tensor.shape[2] != heads or tensor.shape[3] != width:
        tensor = pad(tensor, (0, width - tensor.shape[3], 0, heads - tensor.shape[2]))
    return as_dtype(tensor, dtype)


def as_dtype(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Contiguous in ``dtype``."""
    # A conversion that does nothing is still a call into torch, which small graphs feel.
    return (tensor if tensor.dtype == dtype else tensor.to(dtype)).contiguous()


class Launch(NamedTuple):
    """One call's inputs as the kernels read them: padded and contiguous.

    Node tensors are in ``stored``, all others in ``dtype``, which is computed with. ``bound`` keeps
    what kernels need besides tensors, for calls that are made again (their options do not change).
    """

    shape: Shape
    heads: int
    dtype: torch.dtype
    stored: torch.dtype
    query: Tensor
    key: Tensor
    value: Tensor | None
    score: Score
    widths: tuple[int, int, int]
    products: bool
    bound: dict[Any, "Bound"] | None = None

    def on(self, query: Tensor, key: Tensor, value: Tensor) -> "Launch":
        """The same call on other tensors that need no padding either."""
        return self._replace(query=query, key=key, value=value)

    def padded(self, tensor: Tensor, width: int, dtype: torch.dtype | None = None) -> Tensor:
        """[B, N, H, D] with zeros up to the padded heads and ``width``."""
        return padded(tensor, self.heads, width, dtype or self.dtype)

    def padded_heads(self, tensor: Tensor | None) -> Tensor | None:
        """[B, N, H] with zeros up to the padded heads."""
        if tensor is None:
            return None
        return self.padded(tensor.unsqueeze(3), 1).squeeze(3)

    def empty(self, nodes: int, *width: int) -> Tensor:
        """Uninitialised [B, nodes, H'], or [B, nodes, H', width]."""
        shape = self.query.shape[0], nodes, self.heads, *width
        return empty(self.query, shape, self.dtype)

    @property
    def edge(self) -> tuple[Tensor | None, ...]:
        """The tensors of the score that can have a gradient."""
        score = self.score
        return score.bias, score.gate, score.edge_attr, score.edge_query

    @property
    def terms(self) -> tuple[Argument, ...]:
        """Scale, vector of additive scores, clamp."""
        return self.score.scale, address(self.score.att), self.score.clamp

    @property
    def biases(self) -> tuple[Argument, ...]:
        """Bias, and the table's index; none where the edges' relative positions are the index."""
        index = self.score.bias_index
        return address(self.score.bias), None if is_implied(index) else address(index)

    @property
    def known_by(self) -> str:
        """What the edges of a grid are known by in this call; see ``Share.source``."""
        score = self.score
        per_edge = any(
            t is not None for t in (score.bias, score.gate, score.edge_attr, score.streams)
        )
        if is_implied(score.bias_index):
            return "place"
        return "id" if per_edge or self.value is None or self.products else "position"

    @property
    def dropout(self) -> tuple[Argument, ...]:
        """Hash threshold, factor of a kept weight, address of the streams."""
        dropout_p, streams = self.score.dropout_p, self.score.streams
        if dropout_p == 0.0 or streams is None:
            return None, None, None
        threshold = min(int(dropout_p * 2**32), 2**32 - 1)
        return threshold, 1.0 / (1.0 - dropout_p) if dropout_p < 1.0 else 0.0, streams.data_ptr()

    def sizes(self, share: Share, columns: int) -> Sizes:
        """Run-time sizes of a pass over a share, whose rows own the edges."""
        heads, key, feature = self.widths
        bias, table = self.score.bias, self.score.bias_index is not None
        per_head = bias is not None and bias.dim() == 2 and not table
        return Sizes(
            batch=self.query.shape[0],
            rows=share.rows,
            columns=columns,
            last=share.edges - 1,
            outputs=share.outputs,
            longest=share.longest,
            groups=self.heads // self.shape.heads,
            heads=heads,
            key=key,
            feature=feature,
            bias_edge=heads if per_head else 1,
            bias_head=bias.shape[1] if bias is not None and table else int(per_head),
            table=int(table),
        )

    def run(
        self,
        kernel: Kernel,
        share: Share,
        columns: int,
        *arguments: Argument,
        tables: Tensor | None = None,
    ) -> None:
        """Run a kernel over a share of a layout, whose rows gather from ``columns`` nodes.

        ``tables`` [P, ...]: the share is cut into P pieces whatever the number of threads, and the
        kernel's last argument is the piece's own table.
        """
        known = self.bound or {}
        made = known.get((kernel, share.begins))
        if made is None:
            made = self.bind(kernel, share, columns, arguments, tables is not None)
            if self.bound is not None:
                self.bound[kernel, share.begins] = made
        entry, shape, size, head, work = made
        fixed = (*head, *arguments)
        if tables is None:

            def call(first: int, last: int) -> None:
                entry(shape, size, first, last, *fixed)

            run_chunks(call, share.bounds, work)
            return

        def call_piece(number: int, first: int, last: int) -> None:
            entry(shape, size, first, last, *fixed, tables[number].data_ptr())

        run_pieces(call_piece, share.pieces(len(tables)), threads_for(work))

    def bind(
        self,
        kernel: Kernel,
        share: Share,
        columns: int,
        arguments: tuple[Argument, ...],
        table: bool,
    ) -> "Bound":
        """What a kernel needs to know of a share, and its machine code for these arguments."""
        shape = _with_bits(self.shape, *share.bits)
        size = self.sizes(share, columns)
        head = share.source(self.known_by), *share.addresses
        entry = kernel.compiled((shape, size, 0, 0, *head, *arguments, *[0] * table))
        work = size.batch * share.edges * self.heads * (shape.key + shape.value)
        return Bound(entry, shape, size, head, work)


class Bound(NamedTuple):
    """A kernel for a share of a layout: all that does not change with the tensors."""

    entry: Callable[..., None]
    shape: Shape
    size: Sizes
    head: tuple[Any, ...]
    work: int


def storage_of(dtype: torch.dtype, score: Score, products: bool) -> tuple[str, torch.dtype]:
    """How node tensors of a dtype are read: the kernels' name for it, and their dtype.

    Gates, edge features and returned products make rows of float32 on their way; with them, half
    precision is widened beforehand, as is float16 where the machine cannot do it.
    """
    plain = score.gate is None and score.edge_attr is None and not products
    if dtype == torch.bfloat16 and plain:
        return "bf16", dtype
    if dtype == torch.float16 and plain and widens_float16():
        return "f16", dtype
    return "", torch.float64 if dtype == torch.float64 else torch.float32


@cache
def widens_float16() -> bool:
    """Whether the processor has instructions for float16."""
    machine = get_process_triple().split("-")[0]
    return machine in ("aarch64", "arm64") or bool(get_host_cpu_features().get("f16c"))


def prepare(
    query: Tensor, key: Tensor, value: Tensor | None, block: int, score: Score, products: bool
) -> Launch:
    """Choose the compile-time shape and bring the inputs into its form.

    ``products``: whether the gated products are returned, or have a gradient.
    """
    score.check_additive(products)
    storage, stored = storage_of(query.dtype, score, products)
    width, edge_attr = query.shape[3], score.edge_attr
    features = 0 if edge_attr is None else edge_attr.shape[1]
    widths = width, width if value is None else value.shape[3], features
    form = query.dtype == torch.float64, query.shape[2], *widths, block, storage
    shape, heads = _shape_for(*form, score.activation, score.slope)
    dtype = torch.float64 if shape.double else torch.float32
    return Launch(
        shape=shape,
        heads=heads,
        dtype=dtype,
        stored=stored,
        query=padded(query, heads, shape.key, stored),
        key=padded(key, heads, shape.key, stored),
        value=None if value is None else padded(value, heads, shape.value, stored),
        score=_plain_score(score, heads, shape, dtype),
        widths=(query.shape[2], width, features),
        products=products,
    )


@cache
def _shape_for(
    double: bool,
    heads: int,
    key: int,
    value: int,
    features: int,
    block: int,
    storage: str,
    activation: str,
    slope: float,
) -> tuple[Shape, int]:
    """Compile-time shape for widths as they came, and the number of heads after padding."""
    wide = padded_width(key, double), padded_width(value, double), -(-features // 8) * 8
    padded_heads, group = head_groups(heads, *wide, double)
    # One machine code for all slopes of an activation that has none.
    slope = slope if activation == "leaky_relu" else 0.0
    return Shape(double, group, *wide, 64, 64, block, storage, activation, slope), padded_heads


def plain_table(score: Score, rows: Layout, per_edge: bool) -> Score:
    """The score with the index of a bias table that a grid implies, if the kernels need it.

    They know edges by one number: the place in the table, unless other tensors have one entry per
    edge (``per_edge``: or results do).
    """
    others = (score.gate, score.edge_attr, score.streams, score.mask)
    if per_edge or any(tensor is not None for tensor in others):
        return score.spelled_out(rows)
    return score


def _plain_score(score: Score, heads: int, shape: Shape, dtype: torch.dtype) -> Score:
    """The score with contiguous tensors in the dtypes that the kernels read."""
    own, att = score.edge_query, score.att
    if score.plain:
        return score
    return score._replace(
        scale=float(score.scale),
        clamp=None if score.clamp is None else float(score.clamp),
        bias=plain(score.bias, dtype),
        bias_index=plain(score.bias_index, torch.int64),
        gate=plain(score.gate, dtype),
        edge_attr=plain(score.edge_attr, dtype),
        edge_query=None if own is None else padded(own, heads, shape.feature, dtype),
        mask=plain(score.mask, torch.int32),
        streams=plain(score.streams, torch.int64),
        att=None if att is None else padded(att[None, None], heads, shape.key, dtype)[0, 0],
    )


def plain(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """As ``as_dtype``, for a tensor that may be absent."""
    return None if tensor is None else as_dtype(tensor, dtype)
