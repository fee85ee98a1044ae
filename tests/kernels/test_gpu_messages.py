"""Triton reductions of non-linear messages against the reference, on a GPU or interpreted.

Without a GPU these tests skip here, and test_gpu_segment_builds.py runs this file in a process of
its own in which triton is interpreted.
"""

from typing import Any

import pytest
import torch

from graphattn.kernels.reference import message as reference
from graphattn.kernels.reference.aggregate import REDUCTIONS, message_pulls
from tests.kernels import test_gpu_segments
from tests.kernels.test_gpu_segments import (
    COLS,
    DEVICE,
    INTERPRETED,
    ROWS,
    assert_close,
    graph,
    make,
    poisoned,
)
from tests.kernels.test_gpu_segments import layouts as both

pytestmark = test_gpu_segments.pytestmark
__all__ = ["poisoned"]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The launchers; interpreted with as many slots per program as there are, to save time."""
    from graphattn.kernels.gpu import aggregate, message

    if INTERPRETED:
        for module in (aggregate, message):
            monkeypatch.setattr(module, "warp_size", lambda: 1 << 16)
    return message


def check(
    gpu: Any,
    dtype: torch.dtype,
    activation: str,
    heads: int,
    width: int,
    batch: int,
    weights: int,
    features: int,
    names: tuple[str, ...],
    chunk: int = 16,
) -> None:
    """Results, statistics and gradients; ``weights``: batch entries of the weight, 0 for none."""
    rows, cols = both(chunk)
    high = torch.float64 if dtype == torch.float64 else torch.float32
    edges = rows.indices.numel()
    given = (
        make(batch, ROWS, heads, width, dtype=dtype),
        make(batch, COLS, heads, width, dtype=dtype),
        make(weights, edges, heads, dtype=high) if weights else None,
        make(edges, features, dtype=dtype) if features else None,
        make(heads, width, features, dtype=dtype) if features else None,
    )
    options: dict[str, Any] = {"activation": activation, "slope": 0.2, "reduce": names}
    found = gpu.message_forward(*given, rows, **options)
    wanted = reference.message_forward(*given, rows, **options)
    for one, other in zip(found, wanted, strict=True):
        if other.numel():
            assert_close(one, other, dtype)
    # Each with its own statistics: an extreme is recognised by its bits.
    pull = make(*found[0].shape, dtype=dtype)
    pulls, expected_pulls = (
        message_pulls(pull, stats, rows.indptr, reduce=names) for stats in (found[1], wanted[1])
    )
    needs = tuple(t is not None for t in given)
    options |= {"needs": needs, "total": True}
    grads = gpu.message_backward(pulls, *given, rows, cols, **options)
    expected = reference.message_backward(expected_pulls, *given, rows, cols, **options)
    for one, other in zip(grads, expected, strict=True):
        assert (one is None) == (other is None)
        if other is not None:
            assert_close(one, other, dtype)


CASES = [
    (torch.float64, "gelu", 2, 3, 1, 1, 2, REDUCTIONS),
    (torch.float64, "leaky_relu", 1, 700, 1, 0, 0, ("mean", "max")),
    (torch.float32, "tanh", 2, 4, 2, 2, 0, ("std",), 256),
    (torch.float64, "silu", 2, 3, 1, 0, 2, ("var",), 256),
    (torch.bfloat16, "relu", 8, 16, 1, 0, 0, ("sum",)),
]
# The activation is a step on its own, so that one of them is enough for the other shapes.
SWEEP: list[tuple[Any, ...]] = [(torch.float64, "silu", 3, 5, 2, 1, 2, ("sum",))]
SWEEP += [
    (torch.float64, activation, heads, width, batch, weights, features, names, chunk)
    for activation in reference.ACTIVATIONS
    for heads, width in ((8, 16), (3, 24), (1, 130))
    for batch, weights, features in ((1, 0, 3), (2, 1, 0), (2, 2, 2))
    for names, chunk in ((REDUCTIONS, 16), (("mean",), 256))
    if activation == "gelu" or (width == 24 and names == REDUCTIONS)
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_message(gpu: Any, case: tuple[Any, ...]) -> None:
    check(gpu, *case)


@pytest.mark.slow
@pytest.mark.parametrize("case", SWEEP, ids=str)
def test_message_sweep(gpu: Any, case: tuple[Any, ...]) -> None:
    check(gpu, *case)


@pytest.mark.slow
def test_additive_attention_reaches_the_kernels() -> None:
    from graphattn.ops import additive_attention

    whole, results = graph(), []
    shapes = (ROWS, 1, 3), (COLS, 1, 3), (COLS, 1, 2), (1, 3)
    leaves = [make(*shape, dtype=torch.float64).requires_grad_() for shape in shapes]
    for impl in ("reference", "triton"):
        out = additive_attention(*leaves, whole, impl=impl)
        results.append([out, *torch.autograd.grad(out.sin().sum(), leaves)])
    for found, want in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-11)


def test_nothing_to_do(gpu: Any) -> None:
    rows, cols = both()
    a, b = (torch.zeros(1, n, 2, 0, device=DEVICE) for n in (ROWS, COLS))
    options: dict[str, Any] = {"activation": "relu", "slope": 0.0, "reduce": ("sum",)}
    out, stats = gpu.message_forward(a, b, None, None, None, rows, **options)
    assert out.shape == (1, *a.shape) and stats.shape[0] == 0
    needs = True, True, False, False, False
    pulls = torch.zeros(1, ROWS, 1, 2, 0, device=DEVICE)
    found = gpu.message_backward(pulls, a, b, *[None] * 3, rows, cols, **options, needs=needs)
    assert found[0].shape == a.shape and found[1].shape == b.shape
