"""Where the heads of our layers are, and layers without some of them."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from graphattn.models import LargeGT
from graphattn.models.graph_transformer import PreNormBlock
from graphattn.nn import (
    GATv2Conv,
    GINAttention,
    GraphTransformerLayer,
    PNAAttention,
    TokenTransformer,
    TopMAttention,
    TransformerConv,
)
from graphattn.nn.blocks import JoinHeads

KNOWN = (
    "a model of GraphTransformer's blocks, GraphTransformerLayer, GINAttention, PNAAttention, "
    "TransformerConv, GATv2Conv, TokenTransformer or TopMAttention of form 'attention', or LargeGT"
)


class Heads(NamedTuple):
    """Where the heads of a layer are.

    ``owners``: modules with an attribute ``heads``; ``made_by``: linear maps whose rows belong to
    heads; ``read_by``: linear maps, each with the first column that belongs to the first head;
    ``join``: what puts heads together where the layer has no such map; ``others``: further
    parameters, (module, name, dimension of the heads).
    """

    owners: list[Any]
    made_by: Sequence[nn.Linear]
    read_by: Sequence[tuple[nn.Linear, int]]
    join: JoinHeads | None = None
    others: Sequence[tuple[nn.Module, str, int]] = ()

    @property
    def number(self) -> int:
        """Number of heads."""
        return int(self.owners[0].heads)


def heads_of(module: nn.Module) -> Heads | None:
    """The heads of a layer; None where it has none, or none that can be deleted."""
    maps: list[nn.Linear]
    if isinstance(module, PreNormBlock) and module.layer is None:
        maps = [module.lin_query, module.lin_key, module.lin_value]
        offset = module.lin_query.in_features if module.separate else 0
        return Heads([module], maps, [(module.lin_out, offset)])
    if isinstance(module, GraphTransformerLayer):
        maps = [module.lin_query, module.lin_key, module.lin_value]
        maps += [] if module.lin_edge is None else [module.lin_edge]
        updates = [u for u in (module.node_update, module.edge_update) if u is not None]
        return Heads([module], maps, [(u.lin_out, 0) for u in updates])
    if isinstance(module, PNAAttention):
        maps = [*module.weights.lin_query, *module.weights.lin_key, module.lin_value]
        owners = [module, module.weights]
        return Heads(owners, maps, [(module.lin_out, 0)], None, _stacked(module.mlp))
    if isinstance(module, GINAttention):
        maps = [*module.weights.lin_query, *module.weights.lin_key]
        others = [(module, "eps", 0), *_stacked(module.mlp)]
        return Heads([module, module.weights], maps, [], module.join, others)
    if isinstance(module, TransformerConv | GATv2Conv):
        return _convolution(module)
    if isinstance(module, TokenTransformer) or (
        isinstance(module, TopMAttention) and module.form == "attention"
    ):
        maps = [module.lin_query, module.lin_key, module.lin_value]
        return Heads([module], maps, [(module.lin_out, 0)])
    if isinstance(module, LargeGT) and module.codebook is not None:
        # The model's first linear map reads what the local module found, then the codebook's heads.
        codes, first = module.codebook, cast(nn.Linear, cast(nn.Sequential, module.head[0])[0])
        maps = [codes.lin_query, codes.lin_key, codes.lin_value]
        offset = first.in_features - codes.lin_value.out_features
        return Heads([codes], maps, [(first, offset)])
    return None


def _convolution(layer: TransformerConv | GATv2Conv) -> Heads:
    edges = [] if layer.lin_edge is None else [layer.lin_edge]
    if isinstance(layer, TransformerConv):
        return Heads(
            [layer], [layer.lin_query, layer.lin_key, layer.lin_value, *edges], [], layer.join
        )
    sides = [layer.lin_l] if layer.share_weights else [layer.lin_l, layer.lin_r]
    return Heads([layer], [*sides, *edges], [], layer.join, [(layer, "att", 1)])


def _stacked(module: nn.Module) -> list[tuple[nn.Module, str, int]]:
    """All parameters of a module that has the head as their first dimension."""
    return [(module, name, 0) for name, _ in module.named_parameters(recurse=False)]


def layers_with_heads(model: nn.Module) -> Iterator[Heads]:
    """All of them, in the order of the model."""
    for module in model.modules():
        found = heads_of(module)
        if found is not None:
            yield found


@torch.no_grad()
def keep_heads(layer: Heads, keep: Tensor) -> None:
    """Slice the layer's parameters down to the heads where ``keep`` [H] holds."""
    count = layer.number
    for linear in layer.made_by:
        width = linear.out_features // count
        _slice(linear, 0, keep.repeat_interleave(width))
    for linear, offset in layer.read_by:
        columns = keep.repeat_interleave((linear.in_features - offset) // count)
        _slice(linear, 1, torch.cat([columns.new_ones(offset), columns]))
    if layer.join is not None:
        layer.join.keep(keep)
    for module, name, dim in layer.others:
        old = getattr(module, name)
        kept = old.detach().index_select(dim, keep.nonzero().squeeze(1))
        setattr(module, name, nn.Parameter(kept, requires_grad=old.requires_grad))
    for owner in layer.owners:
        owner.heads = int(keep.sum())


def _slice(linear: nn.Linear, dim: int, keep: Tensor) -> None:
    weight = linear.weight[keep] if dim == 0 else linear.weight[:, keep]
    linear.weight = nn.Parameter(weight.clone(), requires_grad=linear.weight.requires_grad)
    linear.out_features, linear.in_features = linear.weight.shape
    if dim == 0 and linear.bias is not None:
        bias = linear.bias.detach()[keep]
        linear.bias = nn.Parameter(bias, requires_grad=linear.bias.requires_grad)
