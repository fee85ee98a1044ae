"""Wrong input to aggregate: every message names what was expected, what came and the remedy."""

from typing import Any

import pytest
import torch

from graphattn import CSRGraph
from graphattn.ops.aggregate import aggregate


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": torch.zeros(20, 4)}, r"x must have shape \[..., 19, D\] or .*19 columns; got"),
        ({"x": torch.zeros(19)}, "at least 2 dimensions"),
        ({"x": torch.zeros(19, 19, 4)}, "with and without heads.*heads=True or heads=False"),
        ({"x": torch.zeros(2, 19, 4), "heads": True}, r"\[..., 19, H, D\]"),
        ({"x": torch.zeros(19, 4, device="meta")}, r"x is on meta.*graph.to\('meta'\)"),
        ({"weight": torch.zeros(5)}, r"weight must have shape \[\d+\].*caller's edge order"),
        ({"weight": torch.zeros(135, 2)}, "weight must have shape"),
        ({"reduce": "prod"}, "sum, mean, min, max, var, std or a list of them, got 'prod'"),
        ({"reduce": []}, "got an empty list"),
        ({"impl": "cuda"}, "impl must be one of"),
    ],
)
def test_wrong_values(graph: CSRGraph, change: dict[str, Any], words: str) -> None:
    call: dict[str, Any] = {"x": torch.zeros(19, 4), "graph": graph} | change
    with pytest.raises(ValueError, match=words):
        aggregate(**call)


def test_wrong_types(graph: CSRGraph) -> None:
    with pytest.raises(TypeError, match="x must be a floating point tensor, got torch.int64"):
        aggregate(torch.zeros(19, 4).long(), graph)
    with pytest.raises(TypeError, match="x must be a tensor, got list"):
        aggregate([1.0], graph)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="weight must be a floating point"):
        aggregate(torch.zeros(19, 4), graph, torch.zeros(graph.num_edges).long())


def test_forward_mode_names_the_remedy(graph: CSRGraph) -> None:
    x = torch.randn(graph.num_cols, 3)
    with pytest.raises(ValueError, match="no forward-mode derivative.*impl='reference'"):
        torch.func.jvp(lambda x: aggregate(x, graph, impl="cpu"), (x,), (x,))
    _, tangent = torch.func.jvp(lambda x: aggregate(x, graph, impl="reference"), (x,), (x,))
    torch.testing.assert_close(tangent, aggregate(x, graph))
