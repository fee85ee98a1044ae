"""Learned choice of nodes and edges, with a straight-through gradient to their scores."""

import torch
from torch import Tensor, nn

from graphattn.graph import CSRGraph
from graphattn.nn.adjacency import row_rank, share_of
from graphattn.ops import additive_scores, edge_softmax


def check_ratio(name: str, ratio: float) -> None:
    """Raise unless ``ratio`` lies in (0, 1]."""
    if not 0.0 < ratio <= 1.0:
        raise ValueError(
            f"{name} must lie in (0, 1], got {ratio}: 1 keeps all, and 0 would prune everything"
        )


def check_temperature(temperature: float) -> None:
    """Raise unless ``temperature`` is positive."""
    if not temperature > 0.0:
        raise ValueError(f"temperature must be positive, got {temperature}; 1 is published")


def inner_edges(graph: CSRGraph, keep: Tensor) -> Tensor:
    """Which edges join two nodes of ``keep`` [N] bool: [E] bool in the caller's order."""
    source, target = graph.edge_index()
    return keep[source] & keep[target]


def of_kept_rows(graph: CSRGraph, keep: Tensor) -> CSRGraph:
    """The graph of the nodes of ``keep`` [N] bool alone; all its edges must be among them.

    Nodes are numbered anew in their order, so that edges keep theirs, and ties break alike.
    """
    place = keep.cumsum(0) - 1
    return CSRGraph.from_edge_index(place[graph.edge_index()], int(keep.sum()))


def gumbel_like(scores: Tensor) -> Tensor:
    """Gumbel noise from torch's generator."""
    return -torch.empty_like(scores).exponential_().log()


class NodeSelector(nn.Module):
    r"""Keep the :math:`\lceil r\, n_g \rceil` best nodes of every graph for attention.

    .. math::
        \ell_v = w \cdot x_v + b, \qquad
        \pi = \mathrm{softmax}_{v \in g}((\ell + \text{noise}) / \tau)

    Nodes that are dropped neither attend nor are attended to; their features go on through the
    residual path. The features of the others are multiplied by :math:`1 + \pi - sg(\pi)`: by 1,
    with a gradient to the scores. Gumbel noise in training alone, so that evaluation is
    deterministic. Ties go to the lower node.

    Args:
        channels: Width of the node features.
        ratio: r, in (0, 1].
        temperature: tau.

    Paper: Liu et al., 2023, https://arxiv.org/abs/2312.05479 (GTSP); k is per graph here, and nodes
    are removed instead of zeroed.
    """

    def __init__(self, channels: int, ratio: float, temperature: float = 1.0) -> None:
        super().__init__()
        check_ratio("ratio", ratio)
        check_temperature(temperature)
        self.ratio, self.temperature = ratio, temperature
        self.lin = nn.Linear(channels, 1)

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        self.lin.reset_parameters()

    def forward(
        self, x: Tensor, graph: CSRGraph, batch: Tensor | None = None
    ) -> tuple[Tensor, CSRGraph, Tensor]:
        """x [N, F] -> (x, smaller graph, which of its edges are left [E] bool)."""
        if self.ratio == 1.0:
            return x, graph, torch.ones(graph.num_edges, dtype=torch.bool, device=x.device)
        keep, soft = self.keep(x, batch)
        left = inner_edges(graph, keep)
        return self.scaled(x, keep, soft), graph.filter(left), left

    @staticmethod
    def scaled(x: Tensor, keep: Tensor, soft: Tensor) -> Tensor:
        """x [N, F] times 1 + pi - sg(pi) where a node is kept."""
        return x * torch.where(keep, 1.0 + (soft - soft.detach()), 1.0)[:, None]

    def keep(self, x: Tensor, batch: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Which nodes are kept, [N] bool, and pi, [N]."""
        scores = self.lin(x).squeeze(1)
        if self.training:
            scores = scores + gumbel_like(scores)
        owner = torch.zeros_like(scores, dtype=torch.int64) if batch is None else batch
        order = owner.argsort(stable=True)
        sizes = torch.bincount(owner)
        sets = _sets(sizes, order)
        row = torch.arange(len(sizes), device=x.device).repeat_interleave(sizes)
        rank = row_rank(scores.detach()[order, None], sets)[:, 0]
        count = share_of(sizes, self.ratio)
        keep = torch.empty_like(owner, dtype=torch.bool)
        keep[order] = rank < count[row]
        soft = edge_softmax(scores[order] / self.temperature, sets, heads=False)
        return keep, torch.empty_like(soft).index_copy(0, order, soft)


def _sets(sizes: Tensor, order: Tensor) -> CSRGraph:
    """One row per graph, whose columns are its nodes; edges in row-major order."""
    indptr = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    return CSRGraph(indptr, order, order.numel())


class EdgeSelector(nn.Module):
    r"""Keep the :math:`\lceil r\, n_i \rceil` best edges of every row.

    .. math::
        \ell_{ij} = a \cdot \tanh(U x_i + V x_j + b), \qquad
        \pi = \mathrm{softmax}_j((\ell + \text{noise}) / \tau)

    The model attends over the edges that are kept, with a bias of :math:`\log \pi - sg(\log \pi)`:
    0, with a gradient to the scores. Gumbel noise in training alone; ties go to the lower column,
    then to the lower edge id.

    Args:
        channels: Width of the node features.
        ratio: r, in (0, 1].
        hidden: Width of the scorer.
        temperature: tau.
    """

    def __init__(
        self, channels: int, ratio: float, hidden: int = 16, temperature: float = 1.0
    ) -> None:
        super().__init__()
        check_ratio("ratio", ratio)
        check_temperature(temperature)
        self.ratio, self.temperature = ratio, temperature
        self.lin_row = nn.Linear(channels, hidden)
        self.lin_col = nn.Linear(channels, hidden, bias=False)
        self.vector = nn.Parameter(torch.empty(1, hidden))
        nn.init.normal_(self.vector, std=hidden**-0.5)

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        self.lin_row.reset_parameters()
        self.lin_col.reset_parameters()
        nn.init.normal_(self.vector, std=self.vector.shape[1] ** -0.5)

    def forward(self, x: Tensor, graph: CSRGraph) -> tuple[CSRGraph, Tensor | None]:
        """x [N, F] -> (smaller graph, bias of its edges [E'] or None where all are kept)."""
        if self.ratio == 1.0:
            return graph, None
        keep, soft = self.keep(x, graph)
        log = soft[keep].clamp(min=torch.finfo(soft.dtype).tiny).log()
        return graph.filter(keep), log - log.detach()

    def keep(self, x: Tensor, graph: CSRGraph) -> tuple[Tensor, Tensor]:
        """Which edges are kept, [E] bool, and pi, [E], in the caller's order."""
        row, col = self.lin_row(x).unsqueeze(1), self.lin_col(x).unsqueeze(1)
        scores = additive_scores(row, col, self.vector, graph, activation="tanh")
        if self.training:
            scores = scores + gumbel_like(scores)
        count = share_of(graph.degree(), self.ratio)[graph.edge_index()[1]]
        keep = row_rank(scores.detach(), graph)[:, 0] < count
        soft = edge_softmax(scores / self.temperature, graph, heads=True)
        return keep, soft[:, 0]
