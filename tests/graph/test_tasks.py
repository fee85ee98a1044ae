"""The GPU work division: every edge once, longest first, hubs cut and merged."""

import pytest
import torch
from torch import Tensor

from graphattn.graph.tasks import WINDOW, build_tasks
from graphattn.kernels.gpu.tuning import CHUNK, SLOTS, row_slots


def offsets(degrees: list[int] | Tensor) -> Tensor:
    counts = torch.as_tensor(degrees, dtype=torch.int64)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def edges_of(slots: Tensor) -> Tensor:
    owner = torch.repeat_interleave(torch.arange(slots.shape[1]), slots[2])
    first = slots[2].cumsum(0) - slots[2]
    return slots[1][owner] + torch.arange(owner.numel()) - first[owner]


def check(degrees: list[int] | Tensor, chunk: int, fan_in: int) -> tuple[Tensor, ...]:
    indptr = offsets(degrees)
    slots, groups, tops = build_tasks(indptr, chunk=chunk, fan_in=fan_in)
    degree, num_rows = indptr.diff(), indptr.numel() - 1
    chunks, whole = slots.split([slots.shape[1] - row_slots(num_rows), row_slots(num_rows)], 1)
    assert chunks.shape[1] % SLOTS == 0 and whole.shape[1] % SLOTS == 0
    assert torch.equal(edges_of(slots).sort().values, torch.arange(int(indptr[-1])))
    assert int(slots[2].max()) <= chunk
    small = torch.nonzero(degree <= chunk).squeeze(1)
    live = whole[0] >= 0
    assert torch.equal(whole[0][live].sort().values, small)
    assert torch.equal(whole[1][live], indptr[whole[0][live]])
    assert torch.equal(whole[2][live], degree[whole[0][live]])
    assert bool((slots[2][slots[0] < 0] == 0).all())
    for run in (1, 2, 4, 8, 16, 32):
        assert bool((whole[2].view(-1, run) <= whole[2][::run, None]).all())
        assert bool((chunks[2].view(-1, run) <= chunks[2][::run, None] + 1).all())
    check_merges(degree, chunks, groups, tops, chunk, fan_in)
    return slots, groups, tops


def check_merges(
    degree: Tensor, chunks: Tensor, groups: Tensor, tops: Tensor, chunk: int, fan_in: int
) -> None:
    """Follow the merges back: each hub receives exactly its own edges, in order."""
    hubs = torch.nonzero(degree > chunk).squeeze(1)
    last = tops if tops.shape[1] else groups
    assert torch.equal(last[2].sort().values, hubs)
    assert groups.shape[1] == 0 or int(groups[1].max()) <= fan_in
    for first, count, row in last.T.tolist():
        parts = (
            groups[:, first : first + count].T.tolist() if tops.shape[1] else [[first, count, row]]
        )
        covered = [chunks[:, a : a + n] for a, n, _ in parts]
        assert all(owner == row for _, _, owner in parts)
        assert all(bool((piece[0] == row).all()) for piece in covered)
        edges = torch.cat([edges_of(piece) for piece in covered])
        start = int(offsets(degree)[row])
        assert torch.equal(edges, torch.arange(start, start + int(degree[row])))


def test_small_rows_alone() -> None:
    slots, groups, tops = check([3, 0, 7, 1, 0], chunk=256, fan_in=64)
    assert slots.shape == (3, SLOTS) and groups.shape == tops.shape == (3, 0)
    assert slots[0, :5].tolist() == [2, 0, 3, 1, 4]


def test_no_rows() -> None:
    assert [t.shape[1] for t in build_tasks(torch.zeros(1, dtype=torch.int64))] == [0, 0, 0]


def test_one_merge_level() -> None:
    _, groups, tops = check([300, 2, 257, 256, 1000], chunk=CHUNK, fan_in=64)
    assert groups.shape[1] == 3 and tops.shape[1] == 0


def test_two_merge_levels() -> None:
    _, groups, tops = check([170, 3, 17, 0, 33, 16], chunk=16, fan_in=2)
    assert tops.shape[1] == 3 and groups.shape[1] == 6 + 1 + 2


@pytest.mark.parametrize("seed", range(5))
def test_random_degrees(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    degrees = (torch.rand(237, generator=generator).pow(-1.2) - 1).long().clamp(max=900)
    check(degrees, chunk=13 + seed, fan_in=3)


def test_rows_stay_in_their_window() -> None:
    degrees = torch.arange(2 * WINDOW + 5) % 9
    slots = build_tasks(offsets(degrees))[0]
    rows = slots[0][slots[0] >= 0]
    assert torch.equal(rows // WINDOW, torch.arange(rows.numel()) // WINDOW)


def test_is_an_operator() -> None:
    torch.library.opcheck(
        torch.ops.graphattn.build_tasks, (offsets([40, 1, 0]), 16, 2), test_utils="test_schema"
    )
