"""What of a model Sparsified can prune, told before anything is built."""

import inspect
from typing import Any

from torch import nn

from graphattn.models import TANGNN, LaplacianTransformer
from graphattn.models.graph_transformer import PreNormBlock
from graphattn.nn.adjacency import HARD
from graphattn.sparsify.depth import residuals_of
from graphattn.sparsify.head_layers import layers_with_heads

DIMENSIONS = ("nodes", "edges", "heads", "skip", "weights")


def refusals(model: nn.Module) -> dict[str, str]:
    """Why ``model`` cannot be pruned, for each dimension of which that is so."""
    name, found = type(model).__name__, {}
    for dimension, reason in (("nodes", _nodes), ("edges", _edges), ("heads", _heads)):
        why = reason(model)
        if why:
            found[dimension] = f"{name} {why}"
    try:
        residuals_of(model)
    except ValueError as error:
        found["skip"] = str(error)
    if not any(isinstance(module, nn.Linear) for module in model.modules()):
        found["weights"] = f"{name} has no linear maps to prune"
    return found


def check_supported(model: nn.Module, wanted: list[str]) -> None:
    """Raise unless ``model`` can be called, and pruned by every dimension of ``wanted``."""
    name = type(model).__name__
    missing = _not_callable(model)
    if missing:
        raise ValueError(
            f"Sparsified calls a model as (x, graph, pe=None, batch=None), and {name} {missing}; "
            "HeadMasks, LayerSkips and WeightMasks work on the model itself"
        )
    why = refusals(model)
    for dimension in wanted:
        if dimension in why:
            able = [d for d in DIMENSIONS if d not in why]
            raise ValueError(
                f"Sparsified cannot prune {dimension} here: {why[dimension]}. "
                f"Of {', '.join(DIMENSIONS)}, {name} supports {', '.join(able) or 'none'}"
            )


def check_width(model: nn.Module, channels: int) -> None:
    """Raise if ``model`` is known to read features of another width."""
    width = getattr(model, "in_channels", channels)
    if width != channels:
        raise ValueError(
            f"channels must be the width of the node features, which {type(model).__name__} was "
            f"built for with in_channels={width}, got {channels}"
        )


def _not_callable(model: nn.Module) -> str | None:
    parameters = inspect.signature(model.forward).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return None
    missing = [name for name in ("pe", "batch") if name not in parameters]
    if missing:
        return f"takes no {' and no '.join(missing)}"
    if getattr(model, "edge_embedding", None) is not None:
        return "needs edge_attr too"
    return None


def _nodes(model: nn.Module) -> str | None:
    if isinstance(model, LaplacianTransformer):
        return "reads integer types, which no linear score is made of"
    if isinstance(model, TANGNN) and model.pool is None:
        return (
            "attends to the best of all nodes, so that none is out of reach while outputs are per "
            "node (pool=None)"
        )
    return None


def _edges(model: nn.Module) -> str | None:
    if isinstance(model, LaplacianTransformer):
        return "takes no edge bias, and reads integer types, which no linear score is made of"
    if "bias" not in inspect.signature(model.forward).parameters:
        return "takes no edge bias, so that no gradient would reach the choice of edges"
    for block in model.modules():
        if isinstance(block, PreNormBlock):
            why = _layer_edges(block.layer) if block.takes_bias else "takes no edge bias"
            if why:
                return f"has layers of {type(block.layer).__name__}, which {why}"
    return None


def _layer_edges(layer: nn.Module | None) -> str | None:
    """Why no gradient reaches a bias of the layer's edges; None where it does."""
    weights: Any = getattr(layer, "weights", None)
    if weights is None:
        return None
    if weights.is_causal:
        return "leaves out edges itself (is_causal=True), whose bias has no place"
    if weights.transform.kind in HARD and not weights.transform.straight_through:
        return (
            f"passes no gradient to its weights (transform {weights.transform.kind!r}); build it "
            "with straight_through=True"
        )
    return None


def _heads(model: nn.Module) -> str | None:
    if next(layers_with_heads(model), None) is None:
        return "has no heads that can be masked"
    return None
