"""Checks of what a model is given, shared by all models."""

from torch import Tensor

from graphattn.graph import CSRGraph
from graphattn.ops.checks import check_edge_tensor

POOLS = ("mean", None)


def check_pe(pe: Tensor | None, pe_dim: int) -> None:
    """Raise unless ``pe`` [N, pe_dim] is there exactly when the model was built for one."""
    if (pe is not None) == (pe_dim > 0) and (pe is None or pe.shape[-1] == pe_dim):
        return
    came = "none" if pe is None else f"shape {list(pe.shape)}"
    raise ValueError(
        f"the model was built with pe_dim={pe_dim} and needs "
        f"{f'pe of shape [N, {pe_dim}]' if pe_dim else 'no pe'}, got {came}; "
        "build it with pe_dim=pe.shape[1], or 0 for none"
    )


def check_pool(pool: str | None) -> None:
    """Raise unless ``pool`` names a known readout."""
    if pool not in POOLS:
        raise ValueError(f"pool must be 'mean' or None, got {pool!r}")


def edge_weights(bias: Tensor | None, graph: CSRGraph) -> Tensor | None:
    """The edges' weights whose logarithms are ``bias`` [E]."""
    if bias is None:
        return None
    check_edge_tensor("bias", bias, graph, (graph.num_edges,))
    return bias.exp()
