"""Small graphs with everything that goes wrong: empty rows, a hub, duplicates, self-loops."""

import pytest
import torch
from torch import Tensor


@pytest.fixture
def edge_index() -> Tensor:
    """41 nodes (0 and 40 without in-edges), a hub row, a hub column, duplicates, self-loops."""
    generator = torch.Generator().manual_seed(7)
    random = torch.randint(1, 39, (2, 150), generator=generator)
    hub = torch.stack([torch.arange(41), torch.full((41,), 5)])
    column = torch.stack([torch.full((30,), 9), torch.arange(5, 35)])
    edges = torch.cat([random, hub, column, random[:, :20], torch.tensor([[3, 4], [3, 4]])], 1)
    return edges[:, torch.randperm(edges.shape[1], generator=generator)]
