"""Neighbourhood attention on grids: computed neighbours, their CSR, torch's SDPA, NATTEN."""

import importlib.util
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from bounds import Problem
from dense import compiled_flex
from timing import Times, interleave, no_grad, training
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from tqdm import tqdm

import graphattn as ga

KERNEL, TILE = 7, 8


class Setting(NamedTuple):
    """What is timed on a device; beyond ``dense`` dense products take too long."""

    sides: tuple[int, int]
    heads: int
    width: int
    dtype: torch.dtype
    dense: int
    tolerance: float


SETTINGS = {
    "cpu": Setting((64, 128), 4, 32, torch.float32, 64, 1e-3),
    "cuda": Setting((128, 256), 8, 64, torch.bfloat16, 128, 0.05),
}
PEERS = ("own CSR", "tiled SDPA", "dense SDPA", "compiled Flex", "NATTEN")
Call = Callable[[Tensor, Tensor, Tensor], Tensor]


def contestants(side: int, device: str) -> dict[str, Call]:
    """Functions of query, key and value [1, side, side, H, D]; ours and its peers."""
    grid = ga.GridGraph((side, side), KERNEL, device=device)
    csr = grid.to_csr()

    def over(graph: Any) -> Call:
        def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            out: Tensor = ga.attention(*(t.flatten(1, 2) for t in (q, k, v)), graph)
            return out.view(v.shape)

        return call

    found = {"graphattn": over(grid), "own CSR": over(csr), "tiled SDPA": tiled(side, device)}
    if side <= SETTINGS[device].dense:
        found["dense SDPA"] = dense
    if device == "cuda":
        found["compiled Flex"] = flex(side, device)
    if importlib.util.find_spec("natten") is not None and side <= SETTINGS[device].dense:
        import natten

        # Its CPU path refuses tensors that want gradients.
        found["NATTEN"] = lambda *t: natten.na2d(*(x.detach() for x in t), KERNEL)
    return found


def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """All pairs, without a mask: less work than any dense route to the same answer."""
    flat = (t.flatten(1, 2).transpose(1, 2) for t in (q, k, v))
    return scaled_dot_product_attention(*flat).transpose(1, 2).reshape(v.shape)


def flex(side: int, device: str) -> Call:
    """FlexAttention over a block mask of the same windows, row-major nodes, compiled."""
    last = side - 1 - KERNEL // 2

    def near(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        centre_y = (query // side).clamp(KERNEL // 2, last)
        centre_x = (query % side).clamp(KERNEL // 2, last)
        by_y = (key // side - centre_y).abs() <= KERNEL // 2
        return by_y & ((key % side - centre_x).abs() <= KERNEL // 2)

    attend = compiled_flex(near, side * side, device)

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(*(t.flatten(0, 2) for t in (q, k, v))).reshape(v.shape)

    return call


def tiled(side: int, device: str) -> Call:
    """Tiles of 8 x 8 queries against the union of their windows, masked: torch alone."""
    most = TILE + KERNEL - 1
    first = (torch.arange(0, side, TILE) - KERNEL // 2).clamp(0, side - most)
    keys = first[:, None] + torch.arange(most)  # [tiles, 14] along an axis
    start = (torch.arange(side) - KERNEL // 2).clamp(0, side - KERNEL).view(-1, TILE, 1)
    inside = (keys[:, None] >= start) & (keys[:, None] < start + KERNEL)  # [tiles, 8, 14]
    mask = (inside[:, None, :, None, :, None] & inside[None, :, None, :, None, :]).to(device)
    mask = mask.flatten(4).flatten(2, 3).flatten(0, 1).unsqueeze(1)  # [tiles^2, 1, 64, 196]
    node = (keys[:, None, :, None] * side + keys[None, :, None, :]).flatten(0, 1).flatten(1)
    node = node.to(device)
    count = side // TILE

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shape = q.shape[-2:]
        split = q.view(count, TILE, count, TILE, *shape).transpose(1, 2)
        own = split.reshape(count * count, TILE * TILE, *shape).transpose(1, 2)
        near = [t.view(-1, *shape)[node].transpose(1, 2) for t in (k, v)]
        out = scaled_dot_product_attention(own, *near, attn_mask=mask).transpose(1, 2)
        out = out.reshape(count, count, TILE, TILE, *shape).transpose(1, 2)
        return out.reshape(v.shape)

    return call


def run(device: str, repeats: int, compiled: bool = True) -> tuple[list[dict[str, Any]], list[str]]:
    """Forward, and forward + backward, of every side; agreement is checked before timing."""
    rows, notes, ours = [], [], []
    setting = SETTINGS[device]
    for side in tqdm(setting.sides, desc="grid"):
        shape = 1, side, side, setting.heads, setting.width
        leaves = [
            torch.randn(shape, device=device).to(setting.dtype).requires_grad_() for _ in range(3)
        ]
        calls = _agreeing(contestants(side, device), leaves, notes, side, setting.tolerance)
        grad = torch.randn_like(leaves[0])
        forward = interleave({n: no_grad(c, leaves) for n, c in calls.items()}, repeats, device)
        trained = {n: training(c, leaves, grad) for n, c in calls.items() if n != "NATTEN"}
        both = interleave(trained, repeats, device)
        ours.append((forward["graphattn"].p50, both["graphattn"].p50))
        rows.append(_figures(side, setting, forward, both))
    growth = [b / a for a, b in zip(*ours, strict=True)]
    notes.append(
        f"time({setting.sides[1]}^2) / time({setting.sides[0]}^2): forward {growth[0]:.2f}, "
        f"forward + backward {growth[1]:.2f}; 4 is linear"
    )
    notes.append(
        f"window {KERNEL} x {KERNEL}, H{setting.heads} D{setting.width}, {setting.dtype}; "
        "NATTEN by its Flex backend"
    )
    notes.append("dense SDPA has no mask, so it answers another question with less work")
    if importlib.util.find_spec("natten") is None:
        notes.append("NATTEN left out: not installed (pip install --no-deps natten)")
    if device == "cpu":
        notes.append("NATTEN's CPU path has no backward; compiled Flex is what it runs on there")
        notes.append(_memory())
    return rows, notes


def _agreeing(
    calls: dict[str, Call], leaves: list[Tensor], notes: list[str], side: int, tolerance: float
) -> dict[str, Call]:
    """Without the peers that fail or differ, which are named in the notes."""
    kept = {}
    with torch.no_grad():
        want = calls["graphattn"](*leaves)
        for name, call in calls.items():
            try:
                error = 0.0 if name == "dense SDPA" else float((call(*leaves) - want).abs().max())
            except Exception as failure:
                notes.append(f"{side}: {name} failed: {type(failure).__name__}: {failure}"[:200])
                continue
            if error < tolerance:
                kept[name] = call
            else:
                notes.append(f"{side}: {name} differs by {error:.1e} and is left out")
    return kept


def _figures(
    side: int, setting: Setting, forward: dict[str, Times], both: dict[str, Times]
) -> dict[str, Any]:
    own, trained = forward["graphattn"], both["graphattn"]
    figures: dict[str, Any] = {
        "workload": f"{side} x {side}, k {KERNEL}",
        "fwd ms p20/p50/p80": own.spread,
        "f+b ms p20/p50/p80": trained.spread,
    }
    for peer in PEERS:
        for what, times in (("fwd", forward), ("f+b", both)):
            if (peer, what) != ("NATTEN", "f+b"):
                ratio = times[peer].p50 / times["graphattn"].p50 if peer in times else None
                figures[f"÷ {peer} {what}"] = ratio
    edges, size = side * side * KERNEL**2, setting.dtype.itemsize
    problem = Problem(side * side, edges, setting.heads, setting.width, size, index=0)
    forward_bytes = problem.forward()
    both_bytes = [f + b for f, b in zip(forward_bytes, problem.backward(), strict=True)]
    for what, (compulsory, no_reuse), seconds in (
        ("fwd", forward_bytes, own.p50),
        ("f+b", both_bytes, trained.p50),
    ):
        figures[f"{what} GB/s of no-reuse bytes"] = no_reuse / seconds / 1e9
        figures[f"{what} GB/s of compulsory bytes"] = compulsory / seconds / 1e9
    return figures


def _memory() -> str:
    """Peak memory of a training step on 256 x 256 for two windows, each in its own process."""
    context = multiprocessing.get_context("spawn")
    peaks = []
    for kernel_size in (7, 13):
        with context.Pool(1) as pool:
            peaks.append(pool.apply(_peak, (kernel_size,)))
    first, second = (f"{peak / 2**20:.0f} MiB" for peak in peaks)
    return (
        f"peak memory of a training step on 256 x 256, query, key, value and gradients included: "
        f"{first} at k 7, {second} at k 13 (x {peaks[1] / peaks[0]:.3f}); the edges alone would "
        f"be {256**2 * 13**2 * 4 / 2**20:.0f} MiB"
    )


def _peak(kernel_size: int) -> int:
    """Bytes by which a training step raises this process's peak memory."""

    def step(side: int, size: int) -> None:
        shape = 1, side, side, SETTINGS["cpu"].heads, SETTINGS["cpu"].width
        leaves = [torch.randn(shape).requires_grad_() for _ in range(3)]
        out = ga.na2d(*leaves, size)
        out.backward(torch.ones_like(out))

    step(16, 3)  # machine code, thread pools
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    step(256, kernel_size)
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
