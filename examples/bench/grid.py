"""Neighbourhood attention on grids: computed neighbours, their CSR, torch's SDPA, NATTEN."""

import importlib.util
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bounds import Problem
from timing import Times, interleave, no_grad, training
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from tqdm import tqdm

import graphattn as ga

HEADS, WIDTH, KERNEL, TILE = 4, 32, 7, 8
SIDES = {"cpu": (64, 128), "cuda": (128, 256)}
DENSE_UP_TO = 64  # dense products of larger grids take seconds on a CPU
TOLERANCE = 1e-3
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
    if side <= DENSE_UP_TO:
        found["dense SDPA"] = dense
    if importlib.util.find_spec("natten") is not None and side <= DENSE_UP_TO:
        import natten

        # Its CPU path refuses tensors that want gradients.
        found["NATTEN"] = lambda *t: natten.na2d(*(x.detach() for x in t), KERNEL)
    return found


def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """All pairs, without a mask: less work than any dense route to the same answer."""
    flat = (t.flatten(1, 2).transpose(1, 2) for t in (q, k, v))
    return scaled_dot_product_attention(*flat).transpose(1, 2).reshape(v.shape)


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
        split = q.view(count, TILE, count, TILE, HEADS, WIDTH).transpose(1, 2)
        own = split.reshape(count * count, TILE * TILE, HEADS, WIDTH).transpose(1, 2)
        near = [t.view(-1, HEADS, WIDTH)[node].transpose(1, 2) for t in (k, v)]
        out = scaled_dot_product_attention(own, *near, attn_mask=mask).transpose(1, 2)
        out = out.reshape(count, count, TILE, TILE, HEADS, WIDTH).transpose(1, 2)
        return out.reshape(v.shape)

    return call


def run(device: str, repeats: int, compiled: bool = True) -> tuple[list[dict[str, Any]], list[str]]:
    """Forward, and forward + backward, of every side; agreement is checked before timing."""
    rows, notes, ours = [], [], []
    for side in tqdm(SIDES[device], desc="grid"):
        leaves = [
            torch.randn(1, side, side, HEADS, WIDTH, device=device).requires_grad_()
            for _ in range(3)
        ]
        calls = _agreeing(contestants(side, device), leaves, notes, side)
        grad = torch.randn_like(leaves[0])
        forward = interleave({n: no_grad(c, leaves) for n, c in calls.items()}, repeats, device)
        trained = {n: training(c, leaves, grad) for n, c in calls.items() if n != "NATTEN"}
        both = interleave(trained, repeats, device)
        ours.append((forward["graphattn"].p50, both["graphattn"].p50))
        rows.append(_figures(side, forward, both))
    growth = [b / a for a, b in zip(*ours, strict=True)]
    notes.append(
        f"time({SIDES[device][1]}^2) / time({SIDES[device][0]}^2): forward {growth[0]:.2f}, "
        f"forward + backward {growth[1]:.2f}; 4 is linear"
    )
    notes.append(f"window {KERNEL} x {KERNEL}, H{HEADS} D{WIDTH}, fp32; NATTEN by its Flex backend")
    notes.append("dense SDPA has no mask, so it answers another question with less work")
    if device == "cpu":
        notes.append(_memory())
    return rows, notes


def _agreeing(
    calls: dict[str, Call], leaves: list[Tensor], notes: list[str], side: int
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
            if error < TOLERANCE:
                kept[name] = call
            else:
                notes.append(f"{side}: {name} differs by {error:.1e} and is left out")
    return kept


def _figures(side: int, forward: dict[str, Times], both: dict[str, Times]) -> dict[str, Any]:
    own, trained = forward["graphattn"], both["graphattn"]
    figures: dict[str, Any] = {
        "workload": f"{side} x {side}, k {KERNEL}",
        "fwd ms p20/p50/p80": "/".join(f"{1e3 * t:.1f}" for t in (own.p20, own.p50, own.p80)),
        "f+b ms p20/p50/p80": "/".join(
            f"{1e3 * t:.1f}" for t in (trained.p20, trained.p50, trained.p80)
        ),
    }
    for peer in ("own CSR", "tiled SDPA", "dense SDPA", "NATTEN"):
        for what, times in (("fwd", forward), ("f+b", both)):
            if (peer, what) != ("NATTEN", "f+b"):
                ratio = times[peer].p50 / times["graphattn"].p50 if peer in times else None
                figures[f"÷ {peer} {what}"] = ratio
    problem = Problem(side * side, side * side * KERNEL**2, HEADS, WIDTH, index=0)
    figures["fwd GB/s of no-reuse bytes"] = problem.forward()[1] / own.p50 / 1e9
    figures["fwd GB/s of compulsory bytes"] = problem.forward()[0] / own.p50 / 1e9
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
        leaves = [torch.randn(1, side, side, HEADS, WIDTH).requires_grad_() for _ in range(3)]
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
