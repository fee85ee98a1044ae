"""Masks of attention heads before their output projection, and layers without those heads."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from graphattn.models import LargeGT
from graphattn.models.graph_transformer import PreNormBlock
from graphattn.nn import GraphTransformerLayer, PNAAttention, TokenTransformer, TopMAttention
from graphattn.nn.adjacency import share_of
from graphattn.sparsify.select import check_ratio


class Heads(NamedTuple):
    """Where the heads of a layer are.

    ``owners``: modules with an attribute ``heads``; ``made_by``: linear maps whose rows belong to
    heads; ``read_by``: linear maps, each with the first column that belongs to the first head;
    ``stacks``: modules all of whose parameters have the head as their first dimension.
    """

    owners: list[Any]
    made_by: list[nn.Linear]
    read_by: list[tuple[nn.Linear, int]]
    stacks: list[nn.Module]

    @property
    def count(self) -> int:
        """Number of heads."""
        return int(self.owners[0].heads)

    @property
    def width(self) -> int:
        """Columns of a head in what the output projection reads."""
        linear, offset = self.read_by[0]
        return (linear.in_features - offset) // self.count


def heads_of(module: nn.Module) -> Heads | None:
    """The heads of a layer with an output projection; None where it is no such layer."""
    if isinstance(module, PreNormBlock) and module.layer is None:
        maps = [module.lin_query, module.lin_key, module.lin_value]
        offset = module.lin_query.in_features if module.separate else 0
        return Heads([module], maps, [(module.lin_out, offset)], [])
    if isinstance(module, GraphTransformerLayer):
        maps = [module.lin_query, module.lin_key, module.lin_value]
        maps += [] if module.lin_edge is None else [module.lin_edge]
        updates = [u for u in (module.node_update, module.edge_update) if u is not None]
        return Heads([module], maps, [(u.lin_out, 0) for u in updates], [])
    if isinstance(module, PNAAttention):
        maps = [*module.weights.lin_query, *module.weights.lin_key, module.lin_value]  # type: ignore[list-item]
        return Heads([module, module.weights], maps, [(module.lin_out, 0)], [module.mlp])
    if isinstance(module, TokenTransformer) or (
        isinstance(module, TopMAttention) and module.form == "attention"
    ):
        maps = [module.lin_query, module.lin_key, module.lin_value]
        return Heads([module], maps, [(module.lin_out, 0)], [])
    if isinstance(module, LargeGT) and module.codebook is not None:
        # The model's first linear map reads what the local module found, then the codebook's heads.
        codes, first = module.codebook, module.head[0][0]
        maps = [codes.lin_query, codes.lin_key, codes.lin_value]
        offset = first.in_features - codes.lin_value.out_features
        return Heads([codes], maps, [(first, offset)], [])
    return None


def layers_with_heads(model: nn.Module) -> Iterator[Heads]:
    """All of them, in the order of the model."""
    for module in model.modules():
        found = heads_of(module)
        if found is not None:
            yield found


class HeadMasks(nn.Module):
    r"""Keep :math:`\lfloor \rho H \rfloor` heads of every layer, and learn which.

    A mask of 0 or 1 multiplies each head's output before the output projection. Its importance is
    :math:`|\partial L / \partial m_h| = |\sum_{n,c} Z_{nhc}\, \partial L / \partial Z_{nhc}|`,
    which heads that are off have too. Every ``every`` calls of :meth:`step` the
    :math:`\lceil q \cdot \text{active} \rceil` least important active heads are turned off, and as
    many of the most important inactive ones on (those just turned off can come back).

    Args:
        model: A model of layers with an output projection; hooks are attached to it.
        density: rho, in (0, 1].
        exchange: q, in [0, 1].
        every: Steps between exchanges.
        generator: Of the first choice; None is torch's own.

    Masks, importance and the step are its state dict: save and load it with the model's. Masks are
    buffers, which no optimiser moves.

    Raises:
        ValueError: a number is out of range, no head would be left, or the model has no heads that
            can be masked. Those of GINAttention, TransformerConv, GATv2Conv and of PyG's layers
            have no projection of their own after them: a layer without some of them would have
            another width.

    Paper: Liu et al., 2023, https://arxiv.org/abs/2312.05479 (GTSP), with the outputs before the
    projection and one optimiser step per iteration.
    """

    def __init__(
        self,
        model: nn.Module,
        density: float,
        *,
        exchange: float = 0.5,
        every: int = 200,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_ratio("density", density)
        if not 0.0 <= exchange <= 1.0 or every < 1:
            raise ValueError(
                f"exchange must lie in [0, 1] and every be at least 1, got {exchange} and {every}"
            )
        self.layers = list(layers_with_heads(model))
        if not self.layers:
            raise ValueError(
                f"{type(model).__name__} has no heads before an output projection; masks work with "
                "GraphTransformer, GraphTransformerLayer, PNAAttention, LargeGT, and TopMAttention "
                "of form 'attention'"
            )
        self.density, self.exchange, self.every, self.steps = density, exchange, every, 0
        self._hooks: list[Any] = []
        for number, layer in enumerate(self.layers):
            active = int(share_of(torch.tensor(layer.count), density, down=True))
            if active == 0:
                raise ValueError(
                    f"a density of {density} leaves none of {layer.count} heads; "
                    f"keep at least {1 / layer.count:g}"
                )
            mask = torch.zeros(layer.count, device=layer.read_by[0][0].weight.device)
            mask[torch.randperm(layer.count, generator=generator)[:active]] = 1.0
            self.register_buffer(f"mask{number}", mask)
            self.register_buffer(f"importance{number}", torch.zeros_like(mask))
            for linear, offset in layer.read_by:
                hook = _Masking(self, number, offset, layer.width)
                self._hooks.append(linear.register_forward_pre_hook(hook))
        self.register_load_state_dict_post_hook(_renew)
        _renew(self)

    @property
    def masks(self) -> list[Tensor]:
        """The mask of every layer, [H] of 0 and 1."""
        return [getattr(self, f"mask{number}") for number in range(len(self.layers))]

    @property
    def importance(self) -> list[Tensor]:
        """The importance of every layer's heads since the last exchange, [H]."""
        return [getattr(self, f"importance{number}") for number in range(len(self.layers))]

    def get_extra_state(self) -> Tensor:
        """The step, for the state dict."""
        return torch.tensor(self.steps)

    def set_extra_state(self, state: Tensor) -> None:
        """Go on from a saved step."""
        self.steps = int(state)

    def _apply(self, fn: Any, recurse: bool = True) -> "HeadMasks":
        super()._apply(fn, recurse)
        _renew(self)
        return self

    def step(self) -> None:
        """Note the importance of this step; exchange heads every ``every`` steps."""
        self.steps += 1
        for mask, total in zip(self.masks, self.importance, strict=True):
            if mask.grad is not None:
                total += mask.grad.abs()
                mask.grad = None
        if self.steps % self.every == 0:
            for mask, total in zip(self.masks, self.importance, strict=True):
                _exchange(mask, total, self.exchange)
                total.zero_()

    def remove(self) -> None:
        """Take the hooks away: the model is as it was."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def compact(self) -> None:
        """Delete the masked heads from the layers, and take the hooks away."""
        self.remove()
        for layer, mask in zip(self.layers, self.masks, strict=True):
            keep_heads(layer, mask.detach() > 0)


def _renew(masks: HeadMasks, _: Any = None) -> None:
    """Make leaves of the masks again: what moves or assigns buffers makes tensors of no grad."""
    for number, mask in enumerate(masks.masks):
        if not (mask.is_leaf and mask.requires_grad):
            setattr(masks, f"mask{number}", mask.detach().requires_grad_())


class _Masking:
    """A hook that multiplies the columns of each head by its mask."""

    def __init__(self, masks: HeadMasks, number: int, offset: int, width: int) -> None:
        self.masks, self.number, self.offset, self.width = masks, number, offset, width

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0]
        factor = self.masks.masks[self.number].to(x).repeat_interleave(self.width)
        if self.offset:
            factor = torch.cat([factor.new_ones(self.offset), factor])
        return (x * factor, *inputs[1:])


@torch.no_grad()
def _exchange(mask: Tensor, importance: Tensor, share: float) -> None:
    """Turn the least important active heads off, and as many of the best inactive ones on."""
    active = mask > 0
    count = int(share_of(active.sum(), share))
    if count == 0:
        return
    weakest = importance.masked_fill(~active, torch.inf).argsort(stable=True)[:count]
    mask[weakest] = 0.0
    resting = importance.masked_fill(mask > 0, -torch.inf)
    mask[resting.argsort(descending=True, stable=True)[:count]] = 1.0


@torch.no_grad()
def keep_heads(layer: Heads, keep: Tensor) -> None:
    """Slice the layer's parameters down to the heads where ``keep`` [H] holds."""
    count = layer.count
    for linear in layer.made_by:
        width = linear.out_features // count
        _slice(linear, 0, keep.repeat_interleave(width))
    for linear, offset in layer.read_by:
        columns = keep.repeat_interleave((linear.in_features - offset) // count)
        _slice(linear, 1, torch.cat([columns.new_ones(offset), columns]))
    for stack in layer.stacks:
        for name, parameter in list(stack.named_parameters(recurse=False)):
            setattr(stack, name, nn.Parameter(parameter[keep].clone()))
    for owner in layer.owners:
        owner.heads = int(keep.sum())


def _slice(linear: nn.Linear, dim: int, keep: Tensor) -> None:
    weight = linear.weight[keep] if dim == 0 else linear.weight[:, keep]
    linear.weight = nn.Parameter(weight.clone(), requires_grad=linear.weight.requires_grad)
    linear.out_features, linear.in_features = linear.weight.shape
    if dim == 0 and linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias[keep].clone())
