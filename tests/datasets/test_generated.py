"""Generated sets: minesweeper's published rule, and the generators."""

from pathlib import Path

import numpy as np
import pytest
import torch

from graphattn.datasets.catalogue import load_dataset
from graphattn.datasets.generated import (
    _ranked,
    _ranked_on,
    communities,
    grid,
    minesweeper,
    power_law,
)


def check_rule(x: torch.Tensor, y: torch.Tensor, edge_index: torch.Tensor) -> None:
    """The published rule, at every node."""
    near = torch.zeros(len(y), dtype=torch.int64)
    near.index_add_(0, edge_index[1], y[edge_index[0]])
    hidden = x[:, 0] == 1
    assert int(hidden.sum()) == len(y) // 2
    assert (x[hidden, 1:] == 0).all() and (x[~hidden, 0] == 0).all()
    shown = torch.nn.functional.one_hot(near.clamp(max=5), 6).float()
    assert torch.equal(x[~hidden, 1:], shown[~hidden])


def test_minesweeper_obeys_the_rule() -> None:
    dataset = load_dataset("minesweeper-generated", seed=3)
    data = dataset.data
    assert data.x.shape == (10_000, 7) and data.edge_index.shape == (2, 78_804)
    assert int(data.y.sum()) == 2000 and dataset.metric == "rocauc" and dataset.task == "binary"
    check_rule(data.x, data.y, data.edge_index)
    assert len(dataset.splits) == 10
    for split in dataset.splits:
        counts = [(len(split[k]), int(data.y[split[k]].sum())) for k in ("train", "valid", "test")]
        assert counts == [(5000, 1000), (2500, 500), (2500, 500)]


def test_minesweeper_depends_on_the_seed_alone() -> None:
    a, b, c = minesweeper(1), minesweeper(1), minesweeper(2)
    assert torch.equal(a.data.x, b.data.x) and torch.equal(a.splits[9]["test"], b.splits[9]["test"])
    assert not torch.equal(a.data.y, c.data.y)
    assert not torch.equal(a.splits[0]["train"], a.splits[1]["train"])


def test_small_boards() -> None:
    board = minesweeper(height=5, width=9, mines=7)
    check_rule(board.data.x[:, :], board.data.y, board.data.edge_index)
    with pytest.raises(ValueError, match=r"1\.\.44 mines"):
        minesweeper(height=5, width=9, mines=45)


@pytest.mark.shared_data
def test_published_file_obeys_the_same_rule(data_root: Path) -> None:
    z = np.load(data_root / "heterophilous/minesweeper/raw/minesweeper.npz")
    edges = torch.from_numpy(z["edges"]).t()
    both = torch.cat([edges, edges.flip(0)], 1)
    generated = minesweeper().data.edge_index
    assert torch.equal(both[:, (both[0] * 10_000 + both[1]).argsort()], generated)
    y = torch.from_numpy(z["node_labels"])
    assert int(y.sum()) == 2000
    check_rule(torch.from_numpy(z["node_features"]), y, both)
    for part, mines in (("train", 1000), ("val", 500), ("test", 500)):
        assert (z["node_labels"][None] * z[f"{part}_masks"]).sum(1).tolist() == [mines] * 10


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 5), (3, 4), (7, 2)])
def test_grid(h: int, w: int) -> None:
    eight, four = grid(h, w), grid(h, w, neighbours=4)
    assert eight.shape[1] == (2 * (4 * h * w - 3 * h - 3 * w + 2) if min(h, w) > 0 else 0)
    assert four.shape[1] == 2 * (2 * h * w - h - w)
    for edges, reach in ((eight, 2), (four, 1)):
        row, column = edges // w, edges % w
        apart = (row[0] - row[1]).abs() + (column[0] - column[1]).abs()
        assert ((apart >= 1) & (apart <= reach)).all()
        assert len(edges.unique(dim=1).t()) == edges.shape[1]
        keys = edges[0] * h * w + edges[1]
        assert (keys.diff() > 0).all()
    with pytest.raises(ValueError, match="4 or 8"):
        grid(3, 3, neighbours=6)


def test_power_law_skews_what_it_is_asked_to() -> None:
    edges = power_law(1009, 40_000, 0.8, 0.0, seed=5)
    assert edges.shape == (2, 40_000) and edges.min() >= 0 and edges.max() < 1009
    keys = edges[1] * 1009 + edges[0]
    assert (keys.diff() >= 0).all()
    out, into = (torch.bincount(e, minlength=1009).float() for e in edges)
    assert out.max() > 8 * out.mean() and into.max() < 2.2 * into.mean()
    # The heaviest source has share 1 / sum(rank^-0.8).
    share = 1 / sum(rank**-0.8 for rank in range(1, 1010))
    assert abs(out.max() / 40_000 - share) < 0.2 * share
    assert torch.equal(edges, power_law(1009, 40_000, 0.8, 0.0, seed=5))
    assert not torch.equal(edges, power_law(1009, 40_000, 0.8, 0.0, seed=6))


@pytest.mark.parametrize("exponent", [0.0, 0.8])
def test_ranks_drawn_by_torch_have_the_shares_of_numpys(exponent: float) -> None:
    """What ``power_law`` draws with on a GPU."""
    generator = torch.Generator().manual_seed(5)
    drawn = torch.bincount(_ranked_on(generator, 1009, 40_000, exponent), minlength=1009)
    known = np.bincount(_ranked(np.random.default_rng(5), 1009, 40_000, exponent), minlength=1009)
    assert len(drawn) == 1009 and int(drawn.sum()) == 40_000
    for one, other in zip(drawn.sort().values[-50:].tolist(), np.sort(known)[-50:], strict=True):
        assert one == pytest.approx(int(other), rel=0.25)


def test_communities() -> None:
    edges, labels = communities(1003, 10, inside=18, outside=2, seed=1)
    assert labels.bincount().tolist() == [101] * 3 + [100] * 7
    same = (labels[edges[0]] == labels[edges[1]]).float().mean()
    assert 0.86 < same < 0.92
    assert 17 < edges.shape[1] / 1003 < 20
    keys = edges[0] * 1003 + edges[1]
    assert (keys.diff() > 0).all() and (edges[0] != edges[1]).all()
    assert torch.equal((edges[1] * 1003 + edges[0]).sort().values, keys)
    alone, _ = communities(50, 1, inside=4, outside=4)
    assert alone.shape[1] <= 50 * 4
    with pytest.raises(ValueError, match="5 blocks"):
        communities(9, 5, 1, 1)
