import random

import numpy as np
import pytest
import torch

from graphattn.training.seed import rng_state, seed_everything, set_rng_state


def draw() -> tuple[float, float, float, float]:
    return random.gauss(0, 1), np.random.normal(), torch.rand(()).item(), random.random()


def test_same_seed_same_numbers() -> None:
    seed_everything(5)
    first = draw()
    seed_everything(5)
    assert draw() == first
    seed_everything(6)
    assert draw() != first


def test_state_survives_a_file(tmp_path: object) -> None:
    seed_everything(1)
    draw()
    torch.save(rng_state(), f"{tmp_path}/rng.pt")
    expected = draw()
    set_rng_state(torch.load(f"{tmp_path}/rng.pt", weights_only=True))
    assert draw() == expected


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range(seed: int) -> None:
    with pytest.raises(ValueError, match=r"2\^32"):
        seed_everything(seed)
