"""Small parts that several layers share: lazy linear, normalisation, pooling, resetting."""

import torch
from torch import Tensor, nn

NORMS = ("layer", "batch", "none")


class LazyLinear(nn.LazyLinear):
    """``nn.LazyLinear`` whose bias has its size from the start, as that of PyG's lazy ``Linear``.

    A state dict taken before the first forward therefore loads into PyG's layer and back. The
    first forward turns the module into a plain ``nn.Linear`` with the usual initial values.

    Args:
        out_features: Width of the output; the input width is read from the first input.
        bias: Whether to learn an additive bias.
    """

    def __init__(self, out_features: int, bias: bool = True) -> None:
        super().__init__(out_features, bias=False)
        if bias:
            self.register_parameter("bias", nn.Parameter(torch.zeros(out_features)))

    def initialize_parameters(self, input: Tensor) -> None:
        """Take the input width from ``input``, allocate the weight and draw initial values."""
        if not self.has_uninitialized_params():
            self.in_features = self.weight.shape[1]
            return
        self.in_features = input.shape[-1]
        with torch.no_grad():
            self.weight.materialize((self.out_features, self.in_features))
            self.reset_parameters()


def linear(in_features: int, out_features: int, bias: bool = True) -> nn.Linear:
    """Linear map; ``in_features=-1`` reads the width from the first input."""
    if in_features == -1:
        return LazyLinear(out_features, bias)
    return nn.Linear(in_features, out_features, bias)


def make_norm(kind: str, channels: int) -> nn.Module:
    """Normalisation by name: ``"layer"``, ``"batch"`` (over nodes) or ``"none"``."""
    if kind == "layer":
        return nn.LayerNorm(channels)
    if kind == "batch":
        return nn.BatchNorm1d(channels)
    if kind == "none":
        return nn.Identity()
    raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {kind!r}")


def check_heads(channels: int, heads: int) -> None:
    """Raise unless ``channels`` splits into ``heads`` heads of equal width."""
    if heads < 1 or channels % heads != 0:
        raise ValueError(
            f"channels must be a multiple of heads, got {channels} channels and {heads} heads; "
            f"take {max(heads, 1) * max(1, channels // max(heads, 1))} channels or other heads"
        )


def reset(module: nn.Module) -> None:
    """Call ``reset_parameters`` on every child; containers without one are entered."""
    for child in module.children():
        own = getattr(child, "reset_parameters", None)
        if own is None:
            reset(child)
        else:
            own()


def mean_pool(x: Tensor, batch: Tensor | None = None, num_graphs: int | None = None) -> Tensor:
    """Mean of the node vectors of each graph.

    Args:
        x: Node vectors ``[N, D]``.
        batch: Graph number of each node ``[N]``, in any order; ``None`` means one graph.
        num_graphs: Number of graphs ``B``; ``None`` reads it from ``batch`` (waits for a GPU).

    Returns:
        ``[B, D]``; a graph without nodes has the mean 0. Deterministic: sums run in node order.
    """
    if batch is None:
        batch, num_graphs = x.new_zeros(x.shape[0], dtype=torch.int64), 1
    if num_graphs is None:
        num_graphs = int(batch.max()) + 1 if batch.numel() else 0
    ordered, order = batch.sort(stable=True)
    bounds = torch.searchsorted(ordered, torch.arange(num_graphs + 1, device=x.device))
    sizes = bounds.diff()
    total = torch.segment_reduce(x.index_select(0, order), "sum", lengths=sizes, unsafe=True)
    return total / sizes.clamp(min=1).unsqueeze(1)
