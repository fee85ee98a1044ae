"""HopBias: what attention to sampled hops adds to its logits, so that hops have comparable mass."""

import torch
from torch import Tensor, nn

from graphattn.graph import CSRGraph


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

    def forward(self, graph: CSRGraph, hop: Tensor) -> Tensor:
        """Bias ``[E, heads]`` of edges whose hops are ``hop`` ``[E]``, in the caller's order.

        Raises:
            ValueError: not one hop per edge, or a hop out of range.
        """
        most = len(self.weight) - 1
        if hop.shape != (graph.num_edges,):
            raise ValueError(f"hop must have shape [{graph.num_edges}], got {list(hop.shape)}")
        if hop.numel() and (int(hop.min()) < 0 or int(hop.max()) > most):
            raise ValueError(
                f"hop must lie in [0, {most}], got {int(hop.min())} to {int(hop.max())}; build "
                "HopBias with the number of hops that are sampled"
            )
        place = graph.edge_index()[1] * len(self.weight) + hop
        size = torch.bincount(place)[place].to(self.weight.dtype)
        return self.weight[hop] - size.log()[:, None]
