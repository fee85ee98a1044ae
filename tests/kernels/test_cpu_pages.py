import sys
from pathlib import Path

import pytest
import torch

from graphattn.kernels.cpu import pages

LARGE = 8 * 2**20


def huge_kib(tensor: torch.Tensor) -> int:
    """KiB of huge pages in the mapping that holds a tensor's middle."""
    middle = tensor.data_ptr() + tensor.numel() * tensor.element_size() // 2
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split()[0]
        if "-" in head and not head.endswith(":"):
            first, last = (int(end, 16) for end in head.split("-"))
            inside = first <= middle < last
        elif inside and head == "AnonHugePages:":
            return int(line.split()[1])
    return 0


def test_large_results_lie_on_huge_pages() -> None:
    switch = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not switch.exists() or "[never]" in switch.read_text():
        pytest.skip("this kernel has no transparent huge pages")
    # 256 MB: malloc may serve less from what was freed before, whose pages are there already.
    made = pages.empty(torch.empty(0), (8 * LARGE,)).fill_(1.0)
    assert huge_kib(made) >= made.numel() * 4 // 1024 // 2


def test_shape_dtype_and_zeros() -> None:
    like = torch.empty(0, dtype=torch.bfloat16)
    assert pages.empty(like, (3, 5)).dtype == torch.bfloat16
    made = pages.zeros(like, (LARGE // 8, 8), torch.float64)
    assert made.shape == (LARGE // 8, 8) and made.dtype == torch.float64
    assert int(made.count_nonzero()) == 0


def test_without_madvise_memory_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    pages._advise.cache_clear()
    monkeypatch.delattr("mmap.MADV_HUGEPAGE", raising=False)
    try:
        assert pages._advise() is None
        assert float(pages.empty(torch.empty(0), (LARGE,)).fill_(2.0).max()) == 2.0
    finally:
        pages._advise.cache_clear()


@pytest.mark.skipif(sys.platform != "linux", reason="madvise is Linux's")
def test_small_tensors_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(pages, "_advise", lambda: lambda *arguments: asked.append(arguments[1]))
    pages.empty(torch.empty(0), (1000,))
    assert asked == []
    pages.empty(torch.empty(0), (LARGE,))
    assert len(asked) == 1 and asked[0] > 4 * LARGE - 4096
