"""na1d, na2d, na3d: NATTEN's layout and options, against NATTEN itself where it is installed."""

import importlib.util
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import graphattn as ga
from graphattn.graph import shared
from tests.graph.test_grid import random_grid

SHAPE = (5, 7)


def nodes(shape: tuple[int, ...] = SHAPE, heads: int = 2, groups: int = 2, **options: Any) -> Any:
    """float64 query, key and value of two images."""
    make: dict[str, Any] = {"dtype": torch.float64, "requires_grad": True} | options
    widths = ((heads, 4), (groups, 4), (groups, 4))
    return [torch.randn(2, *shape, h, d, **make) for h, d in widths]


def dense(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    graph: Any,
    rpb: Tensor | None = None,
    extra: Any = None,
) -> tuple[Tensor, Tensor]:
    """One softmax over the window and the additional keys, by a dense masked product."""
    dims = query.dim() - 3
    q, k, v = (t.flatten(1, dims) for t in (query, key, value))
    k, v = (t.repeat_interleave(q.shape[2] // t.shape[2], 2) for t in (k, v))
    csr, scale = graph.to_csr(), q.shape[3] ** -0.5
    logits = torch.einsum("bqhd,bkhd->bhqk", q, k) * scale
    pairs = csr.row_index(), csr.indices.long()
    there = torch.zeros(logits.shape[2:], dtype=torch.bool)
    there[pairs] = True
    if rpb is not None:
        table = torch.zeros_like(logits[0])
        table[:, *pairs] = rpb.flatten(1)[:, graph.relative_index().long()]
        logits = logits + table
    logits = logits.masked_fill(~there, -torch.inf)
    if extra is not None:
        more = [t.repeat_interleave(q.shape[2] // t.shape[2], 2) for t in extra]
        logits = torch.cat([logits, torch.einsum("bqhd,bkhd->bhqk", q, more[0]) * scale], 3)
        v = torch.cat([v, more[1]], 1)
    out = torch.einsum("bhqk,bkhd->bqhd", logits.softmax(-1), v)
    lse = logits.logsumexp(-1).transpose(1, 2)
    return out.unflatten(1, query.shape[1:-2]), lse.unflatten(1, query.shape[1:-2])


def assert_same(found: Any, wanted: Any, leaves: list[Tensor]) -> None:
    """Outputs, LSE and gradients of all leaves."""
    both = []
    for out, lse in (found, wanted):
        both.append([out, lse, *torch.autograd.grad(out.sin().sum() + lse.square().sum(), leaves)])
    for a, b in zip(*both, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_layout_bias_and_lse() -> None:
    leaves = nodes()
    rpb = torch.randn(2, 5, 5, dtype=torch.float64, requires_grad=True)
    found = ga.na2d(*leaves, 3, dilation=(1, 2), rpb=rpb, return_lse=True)
    assert found[0].shape == (2, *SHAPE, 2, 4) and found[1].shape == (2, *SHAPE, 2)
    graph = ga.GridGraph(SHAPE, 3, dilation=(1, 2))
    assert_same(found, dense(*leaves, graph, rpb), [*leaves, rpb])
    assert torch.equal(ga.na2d(*leaves, 3, dilation=(1, 2), rpb=rpb), found[0])


def test_grouped_heads_and_additional_keys_in_one_softmax() -> None:
    leaves = nodes(groups=1)
    extra = [torch.randn(2, 3, 1, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    found = ga.na2d(
        *leaves, (3, 4), (2, 1), None, (True, False), additional_keys=extra[0],
        additional_values=extra[1], return_lse=True,
    )  # fmt: skip
    graph = ga.GridGraph(SHAPE, (3, 4), (2, 1), is_causal=(True, False))
    assert_same(found, dense(*leaves, graph, extra=extra), [*leaves, *extra])


@pytest.mark.parametrize("shape", [(11,), (3, 4, 5)])
def test_one_and_three_axes(shape: tuple[int, ...]) -> None:
    leaves = nodes(shape)
    function = {1: ga.na1d, 3: ga.na3d}[len(shape)]
    found = function(*leaves, 2, stride=2, return_lse=True)
    assert_same(found, dense(*leaves, ga.GridGraph(shape, 2, 2)), leaves)


def test_dropout_drops_additional_keys_too() -> None:
    torch.manual_seed(0)
    q = torch.zeros(1, 8, 8, 1, 4)
    more = torch.ones(1, 5, 1, 4)
    out = ga.na2d(q, q, q, 3, additional_keys=0 * more, additional_values=more, dropout_p=0.5)
    shares = out[..., 0].unique() * 14 / 2  # each of 14 weights is dropped or doubled
    assert len(shares) > 2 and torch.allclose(shares, shares.round(), atol=1e-4)
    assert abs(float(out.mean()) - 5 / 14) < 0.05


def test_windows_beyond_natten() -> None:
    q, k, v = nodes()
    assert torch.equal(ga.na2d(q, k, v, 1), v)
    wide = ga.na2d(q, k, v, 9, border="truncate", scale=0.0)
    window = torch.ones(*SHAPE, dtype=torch.bool)
    assert torch.allclose(wide[:, 2, 3], v[:, window].mean(1))
    assert ga.na2d(q, k, v, 3, border="wrap").shape == v.shape


def test_strict_natten_has_its_quirks() -> None:
    q, k, v = nodes()
    with pytest.raises(ValueError, match="axis 1 must be at least 2 under strict_natten"):
        ga.na2d(q, k, v, (3, 1), strict_natten=True)
    default = ga.na2d(q, k, v, 3)
    assert torch.equal(ga.na2d(q, k, v, 3, scale=0.0, strict_natten=True), default)
    assert not torch.equal(ga.na2d(q, k, v, 3, scale=0.0), default)


def test_calls_share_a_grid_and_compile() -> None:
    first = shared(ga.GridGraph, (4, 4), [3, 3], 1, 1, False, "clamp", "cpu")
    assert shared(ga.GridGraph, (4, 4), (3, 3), 1, 1, False, "clamp", "cpu") is first
    q, k, v = nodes()
    # Equal numbers of other kinds are not the same question, whatever was asked before.
    assert torch.equal(ga.na2d(q, k, v, np.int64(3)), ga.na2d(q, k, v, 3))
    ga.na2d(q, k, v, (3, 3), 1, 1, False)
    for wrong in ({"kernel_size": 3.0}, {"kernel_size": (3, 3.0)}, {"stride": True}):
        with pytest.raises(TypeError, match="must be a whole number, got"):
            ga.na2d(q, k, v, **{"kernel_size": 3} | wrong)
    with pytest.raises(TypeError, match="is_causal"):
        ga.na2d(q, k, v, 3, is_causal=0)
    compiled = torch.compile(lambda *t: ga.na2d(*t, 3), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(q, k, v), ga.na2d(q, k, v, 3))


def test_wrong_input() -> None:
    q, k, v = nodes(requires_grad=False)
    wrong: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
        ((q[0], k, v, 3), {}, ValueError, r"query must have shape \[B, X, Y, heads, width\]"),
        ((q, k[:, :, :6], v, 3), {}, ValueError, r"axis 1 \(Y\) is 7 for query and 6 for key"),
        ((q, k, v[:1], 3), {}, ValueError, "B is 2 for query and 1 for value"),
        ((q, k, v, (3, 8)), {}, ValueError, "axis 1 must be at most its extent 7"),
        ((q, k, v, 3), {"rpb": torch.randn(2, 3, 3)}, ValueError, r"\[2, 5, 5\], got \[2, 3, 3\]"),
        ((q, k, v, 3, 1, 1, True), {"rpb": torch.randn(2, 5, 5)}, ValueError, "axis 0 is causal"),
        ((q, k, v, (3, 4)), {"rpb": torch.randn(2, 5, 7)}, ValueError, "axis 1 is 4"),
        ((q, k, v, 3), {"rpb": torch.ones(2, 5, 5).long()}, TypeError, "rpb must be a floating"),
        ((q, k, v, 3), {"additional_keys": k[:, 0]}, ValueError, "both or neither"),
        (
            (q, k, v, 3),
            {"additional_keys": k[:, 0], "additional_values": v[:, 0, 1:]},
            ValueError,
            "additional_values must have shape .* one M",
        ),
        ((q, k, v, 3), {"backend": "flex-fna"}, ValueError, "backend='flex-fna' tunes NATTEN's"),
        ((q, k, v, 3), {"torch_compile": True}, ValueError, "leave it at False"),
        ((q, k, v, 3), {"window": 3}, TypeError, "unknown argument 'window'"),
        ((q.long(), k, v, 3), {}, TypeError, "floating point"),
    ]
    for arguments, options, kind, message in wrong:
        with pytest.raises(kind, match=message):
            ga.na2d(*arguments, **options)
    untuned = {"backend": None, "torch_compile": False, "run_persistent_kernel": True}
    assert torch.equal(ga.na2d(q, k, v, 3, **untuned), ga.na2d(q, k, v, 3))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("natten") is None, reason="natten is not installed")
@pytest.mark.filterwarnings("ignore")
def test_equals_natten() -> None:
    """Its Flex backend on the CPU over random problems of up to 1500 tokens, in float32."""
    import natten

    generator = random.Random(3)
    checked = 0
    while checked < 60:
        options = random_grid(generator, most=1500)
        dims = len(options["shape"])
        small = min(options["kernel_size"]) < 2 or options.pop("border") != "clamp"
        full = options["kernel_size"] == options["shape"]  # 1-D causal full windows raise there
        if small or full:
            continue
        shape = tuple(options.pop("shape"))
        window = {name: tuple(value) for name, value in options.items()}
        heads = generator.choice([(4, 4), (4, 2), (3, 1)])
        leaves = nodes(shape, *heads, dtype=torch.float32, requires_grad=False)
        leaves = [torch.cat([t] * 4, -1) for t in leaves]  # its Flex backend wants widths of 2^n
        name = f"na{dims}d"
        found = getattr(ga, name)(*leaves, **window, return_lse=True)
        wanted = getattr(natten, name)(*leaves, **window, return_lse=True, backend="flex-fna")
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5, msg=f"{shape} {window}")
        checked += 1


def test_wrong_arguments_are_named() -> None:
    image = [torch.zeros(1, 5, 6, 2, 4) for _ in range(3)]
    with pytest.raises(TypeError, match="kernel_size must be an integer or 2 of them, got None"):
        ga.na2d(*image, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="additional_keys must be a tensor, got list"):
        ga.na2d(*image, 3, additional_keys=[1.0], additional_values=image[0])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"rpb must have .* \[2, 5, 5\], got \[3, 5, 5\]"):
        ga.na2d(*image, 3, rpb=torch.zeros(3, 5, 5))
    with pytest.raises((TypeError, ValueError), match="kernel_size"):
        ga.na2d(*image, 2.5, strict_natten=True)  # type: ignore[arg-type]
