"""flip_signs: one sign per column, or per graph and column."""

import numpy as np
import pytest
import torch

from graphattn.encodings import flip_signs
from graphattn.encodings.signs import fix_signs


def test_batch_mode_has_one_sign_per_column():
    pe = torch.rand(37, 50) + 0.1
    ratio = flip_signs(pe) / pe
    assert ((ratio == 1) | (ratio == -1)).all()
    assert (ratio == ratio[0]).all()
    assert 0 < (ratio[0] > 0).sum() < 50


def test_graph_mode_has_one_sign_per_graph_and_column():
    pe, batch = torch.rand(30, 40) + 0.1, torch.arange(30) // 7
    ratio = flip_signs(pe, "graph", batch) / pe
    for graph in range(5):
        rows = ratio[batch == graph]
        assert (rows == rows[0]).all()
    assert not torch.equal(ratio[0], ratio[-1])


def test_generator_decides():
    pe = torch.rand(5, 9, dtype=torch.float64)
    one, two = (flip_signs(pe, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two) and one.dtype == torch.float64


def test_empty_and_padded_columns():
    assert flip_signs(torch.zeros(0, 3), "graph", torch.zeros(0, dtype=torch.long)).shape == (0, 3)
    assert not flip_signs(torch.zeros(4, 2)).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(3),), r"\[N, k\]"),
        ((torch.ones(3, 2), "node"), "mode must be"),
        ((torch.ones(3, 2), "graph", torch.zeros(2)), "one graph number per node"),
        ((torch.ones(3, 2), "graph", torch.tensor([0, -1, 1])), r"batch .*\[0, 2\), got -1"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        flip_signs(*arguments)


def test_graph_numbers_are_integers():
    with pytest.raises(TypeError, match=r"int64 or int32, got torch.bool; call batch.long\(\)"):
        flip_signs(torch.ones(3, 2), "graph", torch.ones(3, dtype=torch.bool))


def test_fixed_sign_and_its_tie_rule():
    vectors = np.array([[-0.5, 0.5, 0.0], [0.5 + 1e-12, -0.7, 0.0], [0.1, 0.1, 0.0]])
    fixed = fix_signs(vectors)
    assert fixed[0, 0] > 0  # equal up to rounding: the first one decides
    assert fixed[1, 1] > 0
    assert not fixed[:, 2].any()
    np.testing.assert_array_equal(fix_signs(-vectors), fixed)
