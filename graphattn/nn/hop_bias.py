"""HopBias: what attention to sampled hops adds to its logits, so that hops have comparable mass."""

from typing import Any

import torch
from torch import Tensor, nn

from graphattn.graph import as_graph


class HopBias(nn.Module):
    r"""A learned number per hop and head, less the logarithm of the hop's size.

    .. math::
        b_{ij} = \beta_{h,\, \mathrm{hop}(j)} - \log |\{l : \mathrm{hop}(l) = \mathrm{hop}(j)\}|

    With equal keys a hop's share of the attention is proportional to :math:`e^{\beta}`, however
    many nodes were sampled in it: GOAT's local attention, over the graph of
    :func:`graphattn.sampling.hop_stars`.

    Args:
        hops: Number of hops; hop 0 is the node itself.
        heads: Number of heads.

    Paper: Kong et al., 2023 (GOAT), https://proceedings.mlr.press/v202/kong23a.html.

    Example:
        >>> from graphattn import CSRGraph
        >>> star = CSRGraph.from_edge_index(torch.tensor([[0, 1, 2], [0, 0, 0]]), (3, 1))
        >>> HopBias(1, heads=2)(star, torch.tensor([0, 1, 1])).shape
        torch.Size([3, 2])
    """

    def __init__(self, hops: int, heads: int) -> None:
        super().__init__()
        if hops < 0 or heads < 1:
            raise ValueError(
                f"hops must be at least 0 and heads at least 1, got {hops} and {heads}"
            )
        self.weight = nn.Parameter(torch.zeros(hops + 1, heads))

    def reset_parameters(self) -> None:
        """Back to equal mass for every hop."""
        nn.init.zeros_(self.weight)

    def forward(self, graph: Any, hop: Tensor) -> Tensor:
        """Bias ``[E, heads]`` of edges whose hops are ``hop`` ``[E]``, in the caller's order.

        Raises:
            TypeError: hops that are not integers.
            ValueError: not one hop per edge, or a hop out of range (compiled code does not look).
        """
        graph, hops = as_graph(graph), len(self.weight)
        if hop.shape != (graph.num_edges,):
            raise ValueError(
                f"hop must hold one hop per edge, [{graph.num_edges}], got {list(hop.shape)}; "
                "sampling.hop_stars returns both"
            )
        if hop.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8):
            raise TypeError(f"hop must be integers, got {hop.dtype}; call hop.long()")
        if not torch.compiler.is_compiling() and hop.numel():
            low, high = (int(n) for n in hop.aminmax())
            if low < 0 or high >= hops:
                raise ValueError(
                    f"hop must lie in [0, {hops - 1}], got {low} to {high}; build HopBias with the "
                    "number of hops that are sampled"
                )
        place = graph.edge_index()[1] * hops + hop
        ones = torch.ones(place.shape, device=place.device)
        size = ones.new_zeros(graph.num_rows * hops).index_add(0, place, ones)
        return self.weight[hop.long()] - size[place].log()[:, None].to(self.weight.dtype)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.weight) - 1}, heads={self.weight.shape[1]})"
