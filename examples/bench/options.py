"""What each option of attention costs, beside the bytes that it brings along."""

from collections.abc import Callable
from typing import Any

import torch
from bounds import Problem
from timing import interleave, no_grad, training
from torch import Tensor
from tqdm import tqdm

import graphattn as ga
from graphattn.datasets.generated import power_law

NODES, EDGES, HEADS, WIDTH, TYPES, FEATURES = 100_000, 1_600_000, 8, 16, 169, 16
# Bytes of an edge's row of all heads. An option's tensor crosses memory once in forward, twice in
# backward, and once more where its gradient is written.
_ROW = 4 * HEADS * WIDTH


def _options(device: str) -> dict[str, tuple[dict[str, Any], int, int]]:
    """Name: keywords, bytes per edge that they add to a forward pass, and to both passes."""

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device).requires_grad_()

    index = torch.randint(0, TYPES, (EDGES,), device=device)
    proj = 0.1 * torch.randn(HEADS, WIDTH, FEATURES, device=device)
    edge_rows = 4 * HEADS * FEATURES
    return {
        "plain": ({}, 0, 0),
        "clamp": ({"clamp": 5.0}, 0, 0),
        "dropout 0.1": ({"dropout_p": 0.1}, 0, 0),
        "bias [E]": ({"bias": leaf(EDGES)}, 4, 4 * 4),
        "bias [E, H]": ({"bias": leaf(EDGES, HEADS)}, 4 * HEADS, 4 * 4 * HEADS),
        "TableBias": ({"bias": ga.TableBias(leaf(HEADS, TYPES), index)}, 8, 3 * 8),
        "edge features F = D": (
            {"edge_attr": leaf(EDGES, FEATURES), "edge_proj": proj.requires_grad_()},
            4 * FEATURES,
            4 * 4 * FEATURES + edge_rows,
        ),
        "gate [E, H, D]": ({"gate": leaf(EDGES, HEADS, WIDTH)}, _ROW, 4 * _ROW),
        "top_m = 4": ({"top_m": 4}, _ROW + 8 * HEADS + 8, _ROW + 8 * HEADS + 3 * 8),
    }


def run(device: str, repeats: int, compiled: bool = True) -> tuple[list[dict[str, Any]], list[str]]:
    """All options in one interleaved run, forward and forward + backward."""
    graph = ga.as_graph(power_law(NODES, EDGES, 0.8, 0.0).to(device), NODES)
    qkv = [torch.randn(NODES, HEADS, WIDTH, device=device).requires_grad_() for _ in range(3)]
    pull = torch.randn_like(qkv[0])
    options = _options(device)
    both: tuple[dict[str, Callable[[], object]], dict[str, Callable[[], object]]] = ({}, {})
    for name, (keywords, _, _) in options.items():
        extra = [t for t in _tensors(keywords) if t.requires_grad]

        def call(*leaves: Tensor, keywords: dict[str, Any] = keywords) -> Tensor:
            out = ga.attention(*leaves[:3], graph, **keywords)
            assert isinstance(out, Tensor)
            return out

        both[0][name] = no_grad(call, qkv)
        both[1][name] = training(call, [*qkv, *extra], pull)
    with tqdm(total=2, desc="options") as bar:
        times = []
        for calls in both:
            times.append(interleave(calls, repeats, device))
            bar.update()
    problem = Problem(NODES, EDGES, HEADS, WIDTH)
    bytes_plain = problem.forward()[1], problem.forward()[1] + problem.backward()[1]
    rows = []
    for name, (_, *added) in options.items():
        row: dict[str, Any] = {"option": name}
        for what, found, plain, extra_bytes in zip(
            ("fwd", "f+b"), times, bytes_plain, added, strict=True
        ):
            row[f"{what} ms"] = 1e3 * found[name].p50
            row[f"{what} time x plain"] = found[name].p50 / found["plain"].p50
            row[f"{what} bytes x plain"] = 1 + EDGES * extra_bytes / plain
        rows.append(row)
    return rows, [f"PL(100k, 1.6M), H{HEADS} D{WIDTH}, fp32; bytes are counted without reuse"]


def _tensors(keywords: dict[str, Any]) -> list[Tensor]:
    found = [v.table if isinstance(v, ga.TableBias) else v for v in keywords.values()]
    return [v for v in found if isinstance(v, Tensor)]
