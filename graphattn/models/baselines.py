"""GCN, GraphSAGE and GAT with the three knobs that make them strong, from PyG's convolutions."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphattn.graph import CSRGraph, as_graph
from graphattn.graph.kept import once_per_graph, per_node
from graphattn.models.inputs import check_pe, check_pool
from graphattn.nn.blocks import Linear, check_heads, make_norm, mean_pool, reset

_ROWS = 1 << 18  # rows looked at for self-loops at a time


class _TunedGNN(nn.Module):
    """``x <- drop(relu(Norm(conv(x) + W_res x)))``, layer after layer, then a linear readout."""

    self_loops = True

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        num_layers: int,
        heads: int = 1,
        *,
        norm: str = "batch",
        dropout: float = 0.5,
        residual: bool = True,
        input_linear: bool = False,
        input_dropout: float = 0.0,
        jumping: bool = False,
        pe_dim: int = 0,
        pool: str | None = None,
    ) -> None:
        super().__init__()
        check_pool(pool)
        self.in_channels, self.pe_dim = in_channels, pe_dim
        self.pool = pool
        self.jumping = jumping
        self.dropout = dropout
        self.input_dropout = input_dropout
        width = in_channels + pe_dim
        self.lin_in = Linear(width, hidden_channels) if input_linear else None
        widths = [hidden_channels if input_linear or i else width for i in range(num_layers)]
        self.convs = nn.ModuleList(self.make_conv(w, hidden_channels, heads) for w in widths)
        self.skips = nn.ModuleList(Linear(w, hidden_channels) for w in widths if residual)
        self.norms = nn.ModuleList(make_norm(norm, hidden_channels) for _ in widths)
        final = hidden_channels if input_linear or num_layers else width
        self.lin_out = Linear(final, out_channels)

    def make_conv(self, in_channels: int, out_channels: int, heads: int) -> nn.Module:
        """PyG's convolution for one layer."""
        raise NotImplementedError

    def adjacency(self, graph: CSRGraph, dtype: torch.dtype) -> Tensor:
        """The form of ``graph`` in which the convolution is fastest."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Draw new initial values for every part."""
        reset(self)

    def forward(
        self, x: Tensor, graph: Any, pe: Tensor | None = None, batch: Tensor | None = None
    ) -> Tensor:
        """Run the network.

        Args:
            x: Node features ``[N, in_channels]``.
            graph: Anything that :func:`graphattn.as_graph` takes; PyG's form of a ``CSRGraph``
                is kept as long as the graph lives.
            pe: Positional encoding ``[N, pe_dim]``, concatenated to ``x``.
            batch: Graph number of each node ``[N]``, read with ``pool="mean"`` only.

        Returns:
            ``[N, out_channels]``, or ``[graphs, out_channels]`` with ``pool="mean"``.
        """
        graph = as_graph(graph, x.shape[0])
        x = self._layers(self.encode(x, pe), graph)
        return cast(Tensor, self.lin_out(mean_pool(x, batch) if self.pool == "mean" else x))

    def encode(self, x: Tensor, pe: Tensor | None = None) -> Tensor:
        """The input of the first layer, row by row: see :func:`layerwise`."""
        check_pe(pe, self.pe_dim)
        x = x if pe is None else torch.cat([x, pe.to(x.dtype)], dim=1)
        x = F.dropout(x, self.input_dropout, self.training)
        if self.lin_in is None:
            return x
        return F.dropout(self.lin_in(x), self.dropout, self.training)

    @property
    def blocks(self) -> list[Callable[[Tensor, CSRGraph], Tensor]]:
        """The layers ``(h, graph) -> h``; with ``jumping``, h is [x || sum of the layers]."""
        return [partial(self._block, depth) for depth in range(len(self.convs))]

    def decode(self, h: Tensor) -> Tensor:
        """Outputs per node from the last block's, row by row."""
        return cast(Tensor, self.lin_out(h[:, -self.lin_out.in_features :]))

    def _block(self, depth: int, h: Tensor, graph: CSRGraph) -> Tensor:
        if not self.jumping:
            return self._layer(depth, h, graph)
        before, total = (h, 0.0) if depth == 0 else h.chunk(2, 1)
        x = self._layer(depth, before, graph)
        return torch.cat([x, total + x], 1)

    def _layers(self, x: Tensor, graph: CSRGraph) -> Tensor:
        total: Tensor | float = 0.0
        for depth in range(len(self.convs)):
            x = self._layer(depth, x, graph)
            total = total + x if self.jumping else total
        return total if isinstance(total, Tensor) else x

    def _layer(self, depth: int, x: Tensor, graph: CSRGraph) -> Tensor:
        h = self._convolve(self.convs[depth], x, graph)
        if len(self.skips):
            h = h + self.skips[depth](x)
        return F.dropout(F.relu(self.norms[depth](h)), self.dropout, self.training)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _convolve(self, conv: nn.Module, x: Tensor, graph: CSRGraph) -> Tensor:
        """Convolve outside of autocast and the compiler: sparse products know neither."""
        with torch.autocast(x.device.type, enabled=False):
            weight_dtype = self.lin_out.weight.dtype
            out = conv(x.to(weight_dtype), self.adjacency(graph, weight_dtype))
        return cast(Tensor, out)


class GCN(_TunedGNN):
    r"""GCN with normalisation, dropout and residuals: the baseline to print beside a transformer.

    .. math::
        x \leftarrow \mathrm{drop}(\mathrm{relu}(\mathrm{Norm}(\hat A x W + W_{res} x)))

    The convolution is PyG's ``GCNConv``; its normalised adjacency (each node with one self-loop)
    is computed once per graph and kept as a sparse matrix.

    Args:
        in_channels: Width of the node features.
        hidden_channels: Width of the network.
        out_channels: Width of the output.
        num_layers: Number of convolutions.
        heads: Not used; present so that all models are built alike.
        norm: ``"batch"``, ``"layer"`` or ``"none"``.
        dropout: After each layer and the input linear map.
        residual: Whether each layer adds ``W_res x``.
        input_linear: Whether a linear map comes before the first convolution.
        input_dropout: On the features.
        jumping: Whether the readout sees the sum of all layers instead of the last.
        pe_dim: Width of a positional encoding that is concatenated to ``x``; 0 for none.
        pool: ``"mean"`` gives one output per graph of ``batch``; ``None`` one per node.

    The published recipe adds self-loops to an undirected graph: read :attr:`self_loops`.
    Paper: Luo et al., 2024, https://arxiv.org/abs/2406.08993.
    """

    def make_conv(self, in_channels: int, out_channels: int, heads: int) -> nn.Module:
        """``GCNConv`` on an adjacency that is normalised beforehand."""
        from torch_geometric.nn import GCNConv

        conv: nn.Module = GCNConv(in_channels, out_channels, normalize=False)
        return conv

    def adjacency(self, graph: CSRGraph, dtype: torch.dtype) -> Tensor:
        """Normalised sparse adjacency with one self-loop per node, [N, N]."""
        return once_per_graph(graph, "gcn", dtype, _normalised)


class SAGE(_TunedGNN):
    """GraphSAGE (mean aggregation) with normalisation, dropout and residuals.

    Arguments and layer as in :class:`GCN`; the convolution is PyG's ``SAGEConv``.
    Paper: Luo et al., 2024, https://arxiv.org/abs/2406.08993.
    """

    def make_conv(self, in_channels: int, out_channels: int, heads: int) -> nn.Module:
        """``SAGEConv`` with mean aggregation."""
        from torch_geometric.nn import SAGEConv

        conv: nn.Module = SAGEConv(in_channels, out_channels)
        return conv

    def adjacency(self, graph: CSRGraph, dtype: torch.dtype) -> Tensor:
        """Sparse adjacency of ones, [N, N]."""
        return once_per_graph(graph, "sage", dtype, _ones)


class GAT(_TunedGNN):
    """GAT with normalisation, dropout and residuals.

    Arguments and layer as in :class:`GCN`; the convolution is PyG's ``GATConv`` without bias,
    whose ``heads`` share ``hidden_channels`` (published: one head). It allocates per-edge vectors.
    Paper: Luo et al., 2024, https://arxiv.org/abs/2406.08993.
    """

    def make_conv(self, in_channels: int, out_channels: int, heads: int) -> nn.Module:
        """``GATConv`` whose concatenated heads are ``out_channels`` wide."""
        from torch_geometric.nn import GATConv

        check_heads(out_channels, heads)
        width = out_channels // heads
        conv: nn.Module = GATConv(in_channels, width, heads=heads, add_self_loops=False, bias=False)
        return conv

    def adjacency(self, graph: CSRGraph, dtype: torch.dtype) -> Tensor:
        """``edge_index`` [2, E]: gathering is all that PyG's GAT can do."""
        return once_per_graph(graph, "gat", torch.int64, lambda g, _: g.edge_index())


def _ones(graph: CSRGraph, dtype: torch.dtype) -> Tensor:
    ones = torch.ones(graph.num_edges, dtype=dtype, device=graph.device)
    return _sparse(graph, ones)


def _normalised(graph: CSRGraph, dtype: torch.dtype) -> Tensor:
    """PyG's ``gcn_norm`` in CSR order, with the degrees of the whole graph."""
    looped = graph.remove_self_loops().add_self_loops()
    scale = per_node(graph, "gcn degrees", dtype, _root_degrees)
    return _sparse(looped, scale[looped.indices] * scale[looped.row_index()])


def _root_degrees(graph: CSRGraph, dtype: torch.dtype) -> Tensor:
    """In-degree^-1/2 of every node with exactly one self-loop, [N]."""
    degree = graph.degree() + 1
    for begin in range(0, graph.num_rows, _ROWS):  # a mapped graph stays on the disk
        offsets = graph.indptr[begin : begin + _ROWS + 1]
        row = torch.arange(len(offsets) - 1, device=graph.device).repeat_interleave(offsets.diff())
        loops = row[graph.indices[int(offsets[0]) : int(offsets[-1])] == row + begin]
        degree[begin : begin + _ROWS] -= torch.bincount(loops, minlength=len(offsets) - 1)
    return degree.to(dtype).pow(-0.5)


def _sparse(graph: CSRGraph, values: Tensor) -> Tensor:
    """Sparse adj_t from values in CSR order; int32 offsets where they fit: MKL runs on them."""
    size = (graph.num_rows, graph.num_cols)
    indptr, indices = graph.indptr, graph.indices
    if indices.dtype == torch.int32 and graph.num_edges < 2**31:
        indptr = indptr.to(torch.int32)
    else:
        indices = indices.to(torch.int64)
    with warnings.catch_warnings():  # torch announces once per process that CSR is in beta
        warnings.filterwarnings("ignore", "Sparse CSR tensor support", UserWarning)
        return torch.sparse_csr_tensor(indptr, indices, values, size, check_invariants=False)
