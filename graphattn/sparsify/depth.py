"""Layers that are skipped at random in training, and dropped for good afterwards."""

import operator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from graphattn.models import SINC, TANGNN
from graphattn.nn import GraphTransformerLayer


class Residuals(NamedTuple):
    """Where a model adds to its state, depth by depth.

    ``modules``: one for each depth; ``whole``: whether its output is the new state, x + step, and
    not the step alone; ``lists``: what is cut when a depth is dropped.
    """

    modules: list[nn.Module]
    whole: bool
    lists: list[nn.ModuleList]


def residuals_of(model: nn.Module) -> Residuals:
    """The residual steps of a model.

    Raises:
        ValueError: it has none, or none that are known.
    """
    if isinstance(model, TANGNN):
        return Residuals(list(model.layers), False, [model.layers])
    if isinstance(model, SINC):
        # leaky_relu(c z) = c leaky_relu(z): what multiplies the norm multiplies the step.
        return Residuals(list(model.norms), False, [model.convs, model.norms])
    blocks, layers = getattr(model, "blocks", None), getattr(model, "layers", None)
    if isinstance(blocks, nn.ModuleList):
        return Residuals(list(blocks), True, [blocks])
    if isinstance(layers, nn.ModuleList):
        if all(isinstance(layer, GraphTransformerLayer) for layer in layers):
            return Residuals(list(layers), True, [layers])
        raise ValueError(
            f"{type(model).__name__}.layers may return x + step or the step alone, which cannot be "
            "told from outside; expected GraphTransformerLayer, or a list named 'blocks' of "
            "modules (x, ...) -> x + step"
        )
    raise ValueError(
        f"{type(model).__name__} has no list of residual blocks; expected GraphTransformer, "
        "IsomorphicTransformer, LaplacianTransformer, TANGNN, SINC, or a model with a ModuleList "
        "named 'blocks' of modules (x, ...) -> x + step"
    )


class LayerSkips:
    r"""Stochastic depth: a block adds :math:`b / (1 - p)` of its change, b Bernoulli(1 - p).

    One draw per block and step, or per graph with a ``batch``; nothing happens in evaluation. A
    block's change is its output less its input, or the step that TANGNN and SINC add themselves.

    Args:
        model: GraphTransformer, IsomorphicTransformer, LaplacianTransformer, TANGNN, SINC, or a
            model with a ModuleList ``blocks`` of modules ``(x, ...) -> x`` of equal width.
        p: Probability of skipping a block, in [0, 1).

    Set ``batch`` [N] before a forward pass to draw per graph; edges that a layer updates go with
    their target. It has no state but torch's generator. Papers: Huang et al., 2016; Liu et al.,
    2023, https://arxiv.org/abs/2312.05479 (GTSP; drawn per node in its code).

    Raises:
        ValueError: p is out of range, the model's blocks are not known, or it adds no input, so
            that nothing would be left of what a skipped step is given.
    """

    def __init__(self, model: nn.Module, p: float) -> None:
        if not 0.0 <= p < 1.0:
            raise ValueError(f"p must lie in [0, 1), got {p}: 1 would prune every layer")
        found = residuals_of(model)
        if not (found.whole or getattr(model, "residual", True)):
            raise ValueError(
                f"{type(model).__name__} was built with residual=False: a skipped layer would "
                "leave nothing of its input; build it with residual=True"
            )
        self.p = p
        self.batch: Tensor | None = None
        hook = self._skip if found.whole else self._scale
        self._hooks = [module.register_forward_hook(hook) for module in found.modules]

    def _factor(self, x: Tensor) -> Tensor:
        """b / (1 - p): one number, or [N, 1]."""
        if self.batch is None:
            kept = torch.rand(1, device=x.device) >= self.p
        else:
            graphs = int(self.batch.max()) + 1
            kept = (torch.rand(graphs, device=x.device) >= self.p)[self.batch, None]
        return kept.to(x.dtype) / (1.0 - self.p)

    def _scale(self, module: nn.Module, inputs: tuple[Any, ...], step: Tensor) -> Tensor | None:
        if not module.training or self.p == 0.0:
            return None
        return step * self._factor(step)

    def _skip(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        if not module.training or self.p == 0.0:
            return None
        x, factor = inputs[0], self._factor(inputs[0])
        if isinstance(output, Tensor):
            return x + (output - x) * factor
        edges = factor if self.batch is None else factor[inputs[1].edge_index()[1]]
        pairs = zip((x, inputs[2]), output, (factor, edges), strict=True)
        return tuple(old + (new - old) * by for old, new, by in pairs)

    def remove(self) -> None:
        """Take the hooks away."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()


def drop_layers(model: nn.Module, count: int) -> list[int]:
    """Delete ``count`` residual blocks, evenly spaced and neither first nor last while others are.

    Returns:
        The numbers of the blocks that are left.

    Raises:
        TypeError: ``count`` is not a whole number.
        ValueError: no block would be left, or the model's blocks are not known (see
            :class:`LayerSkips`).
    """
    lists = residuals_of(model).lists
    total = len(lists[0])
    try:
        count = operator.index(count)
    except TypeError as error:
        raise TypeError(
            f"count must be a whole number of blocks to drop, got {count!r}; for half of them "
            f"pass {total // 2}"
        ) from error
    if not 0 <= count < total:
        raise ValueError(
            f"count must lie in [0, {total}), got {count}: one of {total} blocks must be left"
        )
    places = torch.linspace(0, total - 1, total - count).round().long().unique().tolist()
    if total - count == 1:
        places = [0]
    for blocks in lists:
        kept = [blocks[place] for place in places]
        del blocks[:]
        blocks.extend(kept)
    if isinstance(model, TANGNN) and model.fanouts is not None:
        last = len(model.fanouts) - 1
        model.fanouts = tuple(model.fanouts[min(place, last)] for place in places)
    return [int(place) for place in places]
