"""A board of 12 x 10 cells as a user's folder: trains in milliseconds."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from graphattn.datasets.generated import minesweeper
from graphattn.training.config import TrainConfig
from graphattn.training.config_file import from_dict


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A board of 120 cells is no work for two threads that must find a free core each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def board_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root folder of the data set ``board``: two splits, binary labels."""
    root = tmp_path_factory.mktemp("data")
    dataset = minesweeper(seed=3, height=12, width=10, mines=24)
    (root / "board").mkdir()
    arrays = {"x": dataset.data.x, "y": dataset.data.y, "edge_index": dataset.data.edge_index}
    for part in ("train", "valid", "test"):
        masks = np.zeros((2, 120), dtype=bool)
        for number in range(2):
            masks[number, dataset.splits[number][part].numpy()] = True
        arrays[part] = masks
    for name, array in arrays.items():
        np.save(root / "board" / f"{name}.npy", np.asarray(array))
    (root / "board" / "meta.json").write_text(json.dumps({"task": "binary"}))
    return root


@pytest.fixture
def config(board_root: Path) -> TrainConfig:
    """A two-layer transformer with dropout, a checkpoint after every epoch."""
    return from_dict(
        {
            "data": {"name": "board", "root": str(board_root)},
            "model": {
                "layers": 2,
                "width": 16,
                "heads": 2,
                "dropout": 0.1,
                "options": {"impl": "reference"},
            },
            "optim": {"lr": 1e-2},
            "loop": {"epochs": 6, "device": "cpu", "checkpoint_seconds": 0.0},
        }
    )
