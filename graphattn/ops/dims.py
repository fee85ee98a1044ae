"""Which dimension of a tensor runs over the nodes or the edges, where heads are optional."""

from torch import Tensor

from graphattn.graph import CSRGraph
from graphattn.ops.checks import FLOATS


def check_float_tensor(name: str, tensor: Tensor, graph: CSRGraph, least_dim: int) -> None:
    """Check type, dtype, device and the least number of dimensions."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if tensor.dtype not in FLOATS:
        raise TypeError(
            f"{name} must be a floating point tensor, got {tensor.dtype}; call {name}.float()"
        )
    if tensor.device != graph.device:
        raise ValueError(
            f"{name} is on {tensor.device} but the graph is on {graph.device}; "
            f"call graph.to('{tensor.device}') once, outside the loop"
        )
    if tensor.dim() < least_dim:
        raise ValueError(
            f"{name} must have at least {least_dim} dimensions, got shape {list(tensor.shape)}"
        )


def has_heads(
    name: str, tensor: Tensor, size: int, what: str, width_dims: int, heads: bool | None
) -> bool:
    """Whether ``tensor`` is [..., size, H] + width rather than [..., size] + width.

    Args:
        name: What the tensor is called in messages.
        tensor: A tensor whose last ``width_dims`` dimensions are not looked at.
        size: Number of nodes or edges; ``what`` says which.
        what: For example "columns" or "edges".
        width_dims: 1 for node features, 0 for one number per edge.
        heads: The caller's word, or None to find out from the shape.
    """
    shape = tensor.shape[: tensor.dim() - width_dims]
    plain = shape[-1] == size
    split = len(shape) > 1 and shape[-2] == size
    if heads is None:
        if plain and split:
            raise ValueError(
                f"{name} of shape {list(tensor.shape)} can be read with and without heads, "
                f"because two dimensions equal the {size} {what} of the graph; "
                "pass heads=True or heads=False"
            )
        heads = split
    if not (split if heads else plain):
        width = ", D" if width_dims else ""
        wanted = f"[..., {size}, H{width}]" if heads else f"[..., {size}{width}]"
        also = "" if heads else f" or [..., {size}, H{width}]"
        raise ValueError(
            f"{name} must have shape {wanted}{also}, because the graph has {size} {what}; "
            f"got {list(tensor.shape)}"
        )
    return heads
