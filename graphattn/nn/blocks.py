"""Small parts that several layers share: linear maps, normalisation, pooling, resetting."""

import torch
from torch import Tensor, nn

from graphattn.encodings.checks import check_batch
from graphattn.ops.linear import linear as linear_map

NORMS = ("layer", "batch", "none")


class Linear(nn.Linear):
    """``nn.Linear`` by :func:`graphattn.ops.linear.linear`: faster over many nodes on the CPU.

    What looks for the exact type (``torch.ao.quantization.quantize_dynamic``) does not see it, what
    asks ``isinstance`` does.
    """

    def forward(self, input: Tensor) -> Tensor:
        """``[..., in_features]`` -> ``[..., out_features]``."""
        return linear_map(input, self.weight, self.bias)


class LazyLinear(nn.LazyLinear):
    """``nn.LazyLinear`` whose bias has its size from the start, as that of PyG's lazy ``Linear``.

    A state dict taken before the first forward therefore loads into PyG's layer and back. The
    first forward turns the module into a ``Linear`` with the usual initial values.

    Args:
        out_features: Width of the output; the input width is read from the first input.
        bias: Whether to learn an additive bias.
    """

    cls_to_become = Linear

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
    return Linear(in_features, out_features, bias)


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
    if heads < 1:
        raise ValueError(f"heads must be at least 1, got {heads}")
    if channels % heads != 0:
        raise ValueError(
            f"channels must be a multiple of heads, got {channels} channels and {heads} heads; "
            f"take {heads * max(1, channels // heads)} channels or other heads"
        )


def check_features(x: Tensor, channels: int) -> None:
    """Raise unless ``x`` holds features ``[..., channels]`` that a linear map can take."""
    if x.shape[-1] != channels:
        raise ValueError(
            f"x must have {channels} features per node, as the layer was made for, got "
            f"{list(x.shape)}; make the layer with {x.shape[-1]} or map x with a linear layer"
        )
    if not x.is_floating_point():
        raise TypeError(
            f"x must be floating point, got {x.dtype}; pass x.float(), or embed categories with "
            "nn.Embedding"
        )


class JoinHeads(nn.Module):
    """Put heads ``[..., H, d]`` side by side ``[..., H d]``, or take their mean ``[..., d]``.

    Heads that :meth:`keep` deletes count as 0, so that the width stays: a layer without an output
    projection of its own has a place per head in what it returns.

    Args:
        heads: Number of heads H that there were at first.
        concat: Side by side, else the mean.
    """

    kept: Tensor | None

    def __init__(self, heads: int, concat: bool = True) -> None:
        super().__init__()
        self.heads, self.concat = heads, concat
        self.register_buffer("kept", None)

    def forward(self, x: Tensor) -> Tensor:
        """Heads that are left ``[..., H', d]`` -> ``[..., H d]`` or ``[..., d]``."""
        if self.kept is None:
            return x.flatten(-2) if self.concat else x.mean(-2)
        if not self.concat:
            return x.sum(-2) / self.heads
        whole = x.new_zeros(*x.shape[:-2], self.heads, x.shape[-1])
        return whole.index_copy(-2, self.kept, x).flatten(-2)

    def split(self, x: Tensor) -> Tensor:
        """``[..., H d]`` -> the parts of the heads that are left ``[..., H', d]``."""
        parts = x.reshape(*x.shape[:-1], self.heads, x.shape[-1] // self.heads)
        return parts if self.kept is None else parts.index_select(-2, self.kept)

    def keep(self, mask: Tensor) -> None:
        """Delete those of the heads left where ``mask`` [H'] is false."""
        kept = torch.arange(self.heads, device=mask.device) if self.kept is None else self.kept
        self.kept = kept[mask]


def check_nodes(x: Tensor, channels: int | None = None) -> None:
    """Raise unless ``x`` is a tensor of node features ``[N, F]``, F of ``channels`` if given."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor of node features [N, F], got {type(x).__name__}")
    if x.dim() != 2:
        raise ValueError(
            f"x must be node features [N, F], got {list(x.shape)}; join several graphs to one "
            "with disjoint nodes (PyG: Batch), and give a single feature as x.unsqueeze(1)"
        )
    if channels is not None:
        check_features(x, channels)


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
        num_graphs: Number of graphs ``B``; ``None`` means the largest graph number plus 1.

    Returns:
        ``[B, D]``; a graph without nodes has the mean 0. Deterministic: sums run in node order.

    Raises:
        TypeError: ``batch`` does not hold int64 or int32.
        ValueError: ``batch`` is not ``[N]`` or leaves ``[0, B)``. Reading it waits for a GPU.
    """
    if batch is None:
        batch, num_graphs = x.new_zeros(x.shape[0], dtype=torch.int64), 1
    else:
        num_graphs = check_batch(batch, x.shape[0], num_graphs)
    ordered, order = batch.sort(stable=True)
    bounds = torch.searchsorted(ordered, torch.arange(num_graphs + 1).to(ordered))
    sizes = bounds.diff()
    total = torch.segment_reduce(x.index_select(0, order), "sum", lengths=sizes, unsafe=True)
    return total / sizes.clamp(min=1).unsqueeze(1)
