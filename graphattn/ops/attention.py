"""attention: softmax attention of every node over its neighbours in a graph."""

from typing import Any, Literal, Unpack, overload

import torch
from torch import Tensor

from graphattn.graph.convert import as_graph, as_pattern
from graphattn.ops.bias import TableBias, write_down
from graphattn.ops.checks import check_normaliser
from graphattn.ops.inputs import Inputs, ScoreOptions, prepare, run, unfold_batch
from graphattn.ops.merge import add_null_key
from graphattn.ops.project import project_heads
from graphattn.ops.ready import attend_ready
from graphattn.ops.top_m import top_m_bits


class Options(ScoreOptions, total=False):
    """Keywords of :func:`attention` that do not decide how many results it returns."""

    eps: float
    null_logit: Tensor | float | None
    top_m: int | None
    dropout_p: float


@overload
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    graph: Any,
    *,
    return_lse: Literal[False] = False,
    return_gated: Literal[False] = False,
    **options: Unpack[Options],
) -> Tensor: ...


@overload
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    graph: Any,
    *,
    return_lse: bool = False,
    return_gated: bool = False,
    **options: Unpack[Options],
) -> Any: ...


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    graph: Any,
    *,
    scale: float | None = None,
    bias: Tensor | TableBias | None = None,
    gate: Tensor | None = None,
    edge_attr: Tensor | None = None,
    edge_proj: Tensor | None = None,
    clamp: float | None = None,
    eps: float = 0.0,
    null_logit: Tensor | float | None = None,
    top_m: int | None = None,
    dropout_p: float = 0.0,
    return_lse: bool = False,
    return_gated: bool = False,
    impl: str = "auto",
) -> Any:
    r"""Attend from every row of ``graph`` to its neighbours.

    .. math::
        s_{ij} = \mathrm{clamp}\Big(\mathrm{scale} \sum_c q_{ic}\, (k_j + P a_{ij})_c\, g_{ijc}\Big)
                 + b_{ij}, \qquad
        o_i = \frac{\sum_j e^{s_{ij}} (v_j + P a_{ij})}{\varepsilon + \sum_j e^{s_{ij}}}

    Args:
        query: ``[..., rows, H, Dk]``; leading batch dimensions share the graph.
        key: ``[..., cols, Hkv, Dk]``; query head ``h`` reads head ``h // (H / Hkv)``.
        value: ``[..., cols, Hkv, Dv]``.
        graph: A :class:`CSRGraph`, a :class:`GridGraph`, or whatever :func:`as_graph` takes. Edge
            tensors below are in the caller's edge order; a grid's is that of its ``to_csr()``.
        scale: Factor of the dot product; ``None`` means ``Dk ** -0.5``.
        bias: Added to the logits, ``[E]``, ``[E, H]`` or a :class:`TableBias`; ``-inf`` masks an
            edge.
        gate: Per-channel factor inside the dot product, ``[E, H, Dk]`` (Dwivedi-Bresson).
        edge_attr: Edge features ``[E, F]``, added to key and value after ``edge_proj``; not
            together with a gate, which can hold them itself.
        edge_proj: Projection ``P`` of the edge features, ``[H, D, F]``; needs ``Dk == Dv``.
        clamp: Limit ``c`` of the scaled dot product to ``[-c, c]``; the gradient outside is 0.
        eps: Added to the denominator; counts in the LSE.
        null_logit: Logit of one more key with zero value, scalar, ``[H]`` or ``[rows, H]``;
            counts in the LSE.
        top_m: Keep the ``top_m`` largest logits of each row and head; ties by lower column, then
            edge id. Keys are read for all edges, values for the survivors. No gradient flows
            through the choice (Wang et al., 2021; TANGNN).
        dropout_p: Probability of dropping a weight, in [0, 1); the others are scaled up.
        return_lse: Also return the natural log of the denominators ``[..., rows, H]`` in float32
            (float64 for float64); differentiable.
        return_gated: Also return ``scale * q * k * gate`` per edge, ``[..., E, H, Dk]``.
        impl: ``"auto"``, ``"reference"``, ``"cpu"`` (Numba) or ``"triton"``; never changes the
            meaning.

    Returns:
        ``out [..., rows, H, Dv]``; ``(out, lse)``; ``(out, gated)``; ``(out, lse, gated)``.
        A row without neighbours (or fully masked) has output 0 and LSE ``-inf``.

    Raises:
        ValueError: shapes, devices or ranges do not fit; the message says which.
        TypeError: a dtype is not floating point, or dtypes differ.
        BackendUnavailable: ``impl`` cannot run here.

    Memory O(N H D + E): beyond inputs and outputs, only the LSE is kept for backward; key and
    value of fewer heads are spread to H heads, and kept so. No tensor of size E x D is made, except
    copies of half-precision edge tensors, which the CPU reads in
    float32. Over a grid neighbours are computed, so there is no term in E either, except in the
    reference, under ``top_m``, and on the GPU with dropout or any option of the score but relative
    positions, with ``border="wrap"``, in float64 or for heads beyond 256 bytes: there a grid's
    edges are written down once. ``top_m`` needs the logits [E, H] for a moment, and keeps 4 bytes
    per edge.
    Deterministic bit for bit, forward and backward. The backward pass recomputes the weights
    (Rabe and Staats, 2021; Dao et al., 2022). ``torch.vmap`` maps query, key and value;
    forward-mode differentiation and other ``torch.func`` transforms need ``impl="reference"``.
    """
    graph = as_pattern(graph, query, key)
    check_normaliser(eps, dropout_p, top_m)
    options = (bias, gate, edge_attr, edge_proj, clamp, null_logit, top_m)
    if not (any(o is not None for o in options) or eps or dropout_p or return_gated):
        done = attend_ready(query, key, value, graph, scale, impl)
        if done is not None:
            return tuple(done) if return_lse else done[0]
    if top_m is not None:
        graph, bias = write_down(graph, bias)
    inputs = prepare(
        query, key, value, graph, scale=scale, bias=bias, gate=gate, edge_attr=edge_attr,
        edge_proj=edge_proj, clamp=clamp, impl=impl, return_gated=return_gated,
    )  # fmt: skip
    if top_m is not None:
        inputs = inputs.scored(mask=_strongest(inputs, int(top_m)))
    if dropout_p > 0.0:
        inputs = inputs.scored(dropout_p=float(dropout_p), streams=_streams(inputs.query))
    out, lse, edge_out, gated, _ = run(inputs, return_gated)
    assert out is not None and lse is not None
    if inputs.edge_proj is not None and edge_out is not None:
        out = project_heads(edge_out, inputs.edge_proj.transpose(1, 2), inputs.impl, out)
    out, lse = add_null_key(out, lse, null_logit, eps)
    results = [unfold_batch(out, inputs.lead)]
    if return_lse:
        results.append(unfold_batch(lse, inputs.lead))
    if return_gated and gated is not None:
        results.append(unfold_batch(gated, inputs.lead))
    return results[0] if len(results) == 1 else tuple(results)


def _strongest(inputs: Inputs, top_m: int) -> Tensor:
    """Bits of the ``top_m`` largest logits of every row and head; no value is read."""
    with torch.no_grad():
        logits = run(inputs._replace(value=None)).scores
    assert logits is not None
    return top_m_bits(logits, as_graph(inputs.graph), top_m, inputs.impl)


def _streams(query: Tensor) -> Tensor:
    """Two random words per (batch, head) from torch's generator: the seed of the dropout hash."""
    shape = (query.shape[0] * query.shape[2], 2)
    return torch.randint(0, 2**32, shape, dtype=torch.int64, device=query.device)
