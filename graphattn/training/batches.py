"""Inputs in mini-batches: neighbourhoods for message passing, tokens for LargeGT."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from graphattn.graph.csr import CSRGraph
from graphattn.graph.store import physical_memory, select, select_ascending, widened
from graphattn.kernels.cpu.pages import empty
from graphattn.kernels.cpu.sampling import derive
from graphattn.models import layerwise
from graphattn.nn.sequences import reads_positions
from graphattn.nn.sums import gathered, world_size
from graphattn.sampling import NeighborSampler, TokenSampler, hop_features
from graphattn.sampling.hops import check_direction
from graphattn.sampling.neighbor import local_graph
from graphattn.sampling.prefetch import in_order
from graphattn.training.config import SamplingConfig
from graphattn.training.distributed import shard
from graphattn.training.inputs import Forward, Inputs, Step
from graphattn.training.shares import node_parts, own_places, owners


@dataclass
class BatchedInputs(Inputs):
    """What the two kinds of batches share: the order of the seeds, threads, the device.

    Attributes:
        config: Section ``sampling``.
        seed: Of the order and of the samples.
        target: Device of the model; features stay where they are.
        part: Part of every node, where ranks take the seeds of their own parts.
    """

    config: SamplingConfig = field(default_factory=SamplingConfig)
    seed: int = 0
    target: torch.device = field(default_factory=lambda: torch.device("cpu"))
    part: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.target

    def to(self, device: torch.device) -> BatchedInputs:
        """These inputs for a model on ``device``: batches are moved there, nothing else."""
        self.target = device
        return self

    def steps(self, seeds: Tensor, epoch: int) -> Iterator[Step]:
        """Steps of an epoch; each rank has its share of every global batch."""
        seeds = seeds.cpu()
        places = self.places(seeds, epoch)

        def make(item: tuple[int, Tensor]) -> tuple[tuple[Any, ...], Tensor]:
            number, share = item
            return self.arguments(seeds[share], epoch, number), share

        for arguments, share in in_order(make, enumerate(places), self.config.threads):
            moved = tuple(self._moved(argument) for argument in arguments)
            yield Step(self.flipped(moved), slice(0, len(share)), share.to(self.target))

    def places(self, seeds: Tensor, epoch: int) -> list[Tensor]:
        """This rank's places in ``seeds``, one tensor per step; equally many on every rank."""
        owner = None if self.part is None else owners(self.part, seeds, world_size())
        return own_places(len(seeds), self.config.batch_size, self.seed, epoch, owner)

    def arguments(self, nodes: Tensor, epoch: int, number: int) -> tuple[Any, ...]:
        """Arguments of the model for a batch; its first outputs belong to ``nodes``."""
        raise NotImplementedError

    def flipped(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments with new signs of the encoding, which every model takes third."""
        if self.flip is None or arguments[2] is None:
            return arguments
        return (*arguments[:2], self.flip(arguments[2]), *arguments[3:])

    def _moved(self, argument: Any) -> Any:
        return argument if argument is None else argument.to(self.target)

    def _x_of(self, nodes: Tensor) -> Tensor:
        """Features of nodes, halves widened; read in ascending order, as a disk likes it."""
        return widened(select_ascending(self.x, nodes))

    def in_batches(self, forward: Forward, items: Tensor) -> Tensor:
        """Outputs of ``items``, made as in the first step and shared out over the ranks."""

        def make(part: Tensor) -> tuple[Any, ...]:
            return self.arguments(part, 0, 0)

        parts = torch.split(shard(items.cpu()), self.config.batch_size)
        made = in_order(make, parts, self.config.threads)
        return gathered(torch.cat([forward(*map(self._moved, given)) for given in made]))

    def _pe_of(self, nodes: Tensor) -> Tensor | None:
        return None if self.pe is None else widened(self.pe[nodes])


@dataclass
class NeighborInputs(BatchedInputs):
    """Batches of sampled neighbourhoods for any model of ``(x, graph, pe)``.

    Evaluation reads every neighbour: layer by layer where the model can (``layerwise``), else on
    the full graph.
    """

    def __post_init__(self) -> None:
        fanouts, direction = self.config.num_neighbors, self.config.direction
        self.sampler = NeighborSampler(self.graph, fanouts, direction=direction)

    def arguments(self, nodes: Tensor, epoch: int, number: int) -> tuple[Any, ...]:
        """Features, graph and encoding of the nodes sampled around ``nodes``."""
        seed = derive(derive(self.seed, epoch), number)
        out = self.sampler.sample(nodes, seed)
        return self._x_of(out.node), local_graph(out), self._pe_of(out.node)

    def outputs(self, forward: Forward, model: nn.Module, nodes: Tensor | None = None) -> Tensor:
        """Outputs of ``nodes`` with every neighbour read, shared out over the ranks."""
        if layerwise.supports(model):
            found = layerwise.layerwise(model, self.x, self.graph, self.pe, device=self.target)
        else:
            pe = None if self.pe is None else widened(self.pe)
            found = forward(*map(self._moved, (self.x.float(), self.graph, pe)))
        found = found.to(self.target)
        return found if nodes is None else found[nodes]


@dataclass
class TokenInputs(BatchedInputs):
    """Batches of LargeGT: tokens of every node, and the hop features of the distinct ones.

    Attributes:
        hops: X, ÂX, Â²X, in memory or mapped; ``None`` computes them.
    """

    hops: list[Tensor] | None = None

    def __post_init__(self) -> None:
        config = self.config
        self.sampler = TokenSampler(
            self.graph,
            config.tokens,
            mode=config.mode,
            direction=config.direction,
            resample=config.resample,
            seed=self.seed,
        )
        if self.hops is None:
            _check_room(self.x)
            self.hops = hop_features(self.graph, self.x, direction=config.direction)

    def arguments(self, nodes: Tensor, epoch: int, number: int) -> tuple[Any, ...]:
        """Hop features of the distinct tokens, tokens, encoding and numbers of ``nodes``."""
        tokens = self.sampler.sample(nodes, epoch=epoch, batch=number)
        distinct, place = torch.unique(tokens, return_inverse=True)
        return self._hops_of(distinct.long()), place, self._pe_of(nodes), nodes

    def _hops_of(self, nodes: Tensor) -> Tensor:
        """Hop features ``[n, hops + 1, F]``, halves widened; every row is copied once."""
        assert self.hops is not None
        wide = torch.promote_types(self.hops[-1].dtype, torch.float32)
        found = empty(self.x, (len(nodes), len(self.hops), self.x.shape[1]), wide)
        for place, hop in enumerate(self.hops):
            part = found[:, place]
            if hop.dtype == wide:
                select(hop, nodes, part)
            else:
                part.copy_(select(hop, nodes))
        return found

    def start_epoch(self, model: nn.Module, epoch: int) -> None:
        """Let a codebook assign all nodes, every ``refresh_every`` epochs."""
        refresh, every = getattr(model, "refresh", None), getattr(model, "refresh_every", 1)
        if refresh is not None and epoch % every == 0:

            def read(nodes: Tensor) -> tuple[Tensor, Tensor | None]:
                return self._moved(self._x_of(nodes)), self._moved(self._pe_of(nodes))

            refresh(len(self.x), read)

    def outputs(self, forward: Forward, model: nn.Module, nodes: Tensor | None = None) -> Tensor:
        """Outputs of ``nodes`` in batches, with the tokens of epoch 0."""
        return self.in_batches(forward, torch.arange(len(self.x)) if nodes is None else nodes)


def _stored_hops(
    x: Tensor, stored: Mapping[str, Any], config: SamplingConfig
) -> list[Tensor] | None:
    """The two hops of a store beside its features; ``None`` where it has none."""
    if "hop2" not in stored:
        return None
    check_direction(stored["hop_direction"], config.direction)
    return [x, stored["hop1"], stored["hop2"]]


def _check_room(x: Tensor) -> None:
    """Refuse hop features that the memory of the machine cannot hold."""
    need, room = 12 * x.numel(), physical_memory()
    if need > room:
        raise ValueError(
            f"features of two hops need {need / 2**30:.1f} GiB in memory, this machine has "
            f"{room / 2**30:.1f}; write them to the disk: graphattn partition NAME --out FOLDER "
            "--hops 2"
        )


def _check_positions(model: nn.Module) -> None:
    if reads_positions(model):
        raise ValueError(
            f"{type(model).__name__} has layers that read the numbers of nodes (is_causal, "
            "rotary), which a sampled neighbourhood counts anew; train on the full graph "
            "(--sampling.batch_size 0), or leave these options out"
        )


def batched(
    inputs: Inputs,
    model: nn.Module,
    graph: CSRGraph,
    config: SamplingConfig,
    seed: int,
    stored: Mapping[str, Any] | None = None,
) -> Inputs:
    """The inputs in the form that model and configuration ask for.

    Args:
        inputs: Features and encoding.
        model: Its attribute ``batched`` is "tokens" if it reads tokens.
        graph: As the model attends over it.
        config: Section ``sampling``.
        seed: Of the batches.
        stored: What a store holds of ``part``, ``hop1``, ``hop2`` and ``hop_direction``.

    Raises:
        ValueError: A model of tokens without a batch size, or sampled neighbourhoods for a model
            that reads the numbers of nodes.
    """
    wants_tokens = getattr(model, "batched", None) == "tokens"
    if config.batch_size < 0 or (wants_tokens and config.batch_size == 0):
        raise ValueError(
            f"expected sampling.batch_size of at least {int(wants_tokens)}, got "
            f"{config.batch_size}; {type(model).__name__} is trained with 1024"
        )
    common = (inputs.x, graph, inputs.pe, inputs.flip, config, seed)
    stored = {} if stored is None else stored
    if wants_tokens or config.batch_size:
        part = node_parts(graph, config.parts, stored.get("part"))
        if not wants_tokens:
            _check_positions(model)
            return NeighborInputs(*common, part=part)
        return TokenInputs(*common, part=part, hops=_stored_hops(inputs.x, stored, config))
    inputs.graph = graph
    return inputs
