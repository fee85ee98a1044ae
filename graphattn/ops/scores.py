"""edge_scores and attention_weights: what attention computes per edge, for other normalisers."""

from typing import Any, Unpack

import torch
from torch import Tensor

from graphattn.graph.convert import as_pattern
from graphattn.ops.edge_softmax import edge_softmax
from graphattn.ops.inputs import ScoreOptions, prepare, run, unfold_batch


def edge_scores(query: Tensor, key: Tensor, graph: Any, **options: Unpack[ScoreOptions]) -> Tensor:
    r"""Logit of every edge, ``[..., E, H]``, in the caller's edge order.

    .. math::
        s_{ij} = \mathrm{clamp}\Big(\mathrm{scale} \sum_c q_{ic}\, (k_j + P a_{ij})_c\, g_{ijc}\Big)
                 + b_{ij}

    Args:
        query: ``[..., rows, H, Dk]``.
        key: ``[..., cols, Hkv, Dk]``.
        graph: A :class:`CSRGraph`, a :class:`GridGraph`, or whatever :func:`as_graph` takes.
        **options: ``scale``, ``bias``, ``gate``, ``edge_attr``, ``edge_proj``, ``clamp`` and
            ``impl`` as in :func:`graphattn.attention`.

    Returns:
        float32 (float64 for float64), whatever the storage: the accumulated sums.

    Raises:
        ValueError, TypeError, BackendUnavailable: as :func:`graphattn.attention`.

    Memory: the result and, in backward, the gradients; no tensor of size E x D.
    """
    known = ScoreOptions.__annotations__
    unknown = sorted(options.keys() - known.keys())
    if unknown:
        raise TypeError(f"unknown option {unknown[0]!r}; expected one of {', '.join(known)}")
    inputs = prepare(query, key, None, as_pattern(graph, query, key), **options)
    scores = run(inputs).scores
    assert scores is not None
    return unfold_batch(scores, inputs.lead)


def attention_weights(
    query: Tensor, key: Tensor, graph: Any, **options: Unpack[ScoreOptions]
) -> Tensor:
    """Softmax weight of every edge, ``[..., E, H]``, in the caller's edge order.

    ``edge_softmax(edge_scores(...))``, with the arguments of :func:`edge_scores`; in float32
    (float64 for float64); differentiable. Meant for reading: :func:`graphattn.attention` never
    writes its weights down.
    """
    graph = as_pattern(graph, query, key)
    if not isinstance(query, Tensor):
        raise TypeError(f"query must be a tensor, got {type(query).__name__}")
    with torch.autocast(query.device.type, enabled=False):
        scores = edge_scores(query, key, graph, **options)
    return edge_softmax(scores, graph, heads=True, impl=options.get("impl", "auto"))
