"""Codebooks: how many codes live after an epoch on real features, and what a batch costs.

A code lives if some node has it. In the first columns a node has the code of its training batch,
in the second the one that is nearest after the epoch. The published start (random sums, zero
counts, no re-seeding) stands beside.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timing import interleave
from torch import Tensor

import graphattn as ga
from graphattn.nn import CodebookAttention

CODES, BATCH, WIDTH = 1024, 1024, 64
SETS = {"GitHub": ("musae", "github"), "BlogCatalog": ("attributed", "BlogCatalog")}
COSTS = [(nodes, 1024) for nodes in (10_000, 100_000, 1_000_000)]
COSTS += [(100_000, codes) for codes in (256, 4096)]


def run(device: str, repeats: int, compiled: bool = True) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of living codes where ``GRAPHATTN_DATA`` is set, and rows of times."""
    rows: list[dict[str, Any]] = []
    notes = [f"{BATCH} rows per batch; lives: {CODES} codes, raw features, one epoch of all nodes"]
    data = os.environ.get("GRAPHATTN_DATA")
    for name, (folder, known) in SETS.items() if data else ():
        x = ga.load_dataset(known, str(Path(data or "", folder)), download=False).data.x
        row: dict[str, Any] = {"workload": f"{name}, {x.shape[0]:,} nodes, {x.shape[1]:,} features"}
        for start, legacy in (("", False), ("published start: ", True)):
            hit, nearest = living(x.to_dense().float().to(device), legacy)
            row[f"{start}lives in the epoch %"] = f"{100 * hit / CODES:.1f}"
            row[f"{start}lives after it %"] = f"{100 * nearest / CODES:.1f}"
        rows.append(row)
    if not data:
        notes.append("left out: living codes; set GRAPHATTN_DATA to the folder of musae/, ...")
    times = interleave({str(cost): _batch(*cost, device) for cost in COSTS}, repeats, device)
    for nodes, codes in COSTS:
        found = times[str((nodes, codes))].p50
        name = f"{nodes:,} nodes, {codes:,} codes, {WIDTH} features"
        rows.append({"workload": name, "ms per training batch": f"{1e3 * found:.1f}"})
    return rows, notes


def living(x: Tensor, legacy: bool) -> tuple[int, int]:
    """Codes that nodes have after one epoch: those of their batches, and the nearest ones."""
    torch.manual_seed(0)
    size = x.shape[0]
    sizes: dict[str, Any] = {"num_nodes": size, "num_codes": CODES, "head_dim": 16, "heads": 4}
    layer = CodebookAttention(x.shape[1], 0, legacy_init=legacy, **sizes).to(x.device)
    if not legacy:
        layer.start(x)
    order = torch.randperm(size, device=x.device)
    for nodes in order.split(BATCH):
        with torch.no_grad():
            layer(x[nodes], None, nodes)
    hit = layer.used()
    for nodes in order.split(BATCH):
        layer.assign(x[nodes], None, nodes)
    return hit, layer.used()


def _batch(nodes: int, codes: int, device: str) -> Callable[[], object]:
    """Forward, backward and update of one batch."""
    sizes: dict[str, Any] = {"num_nodes": nodes, "num_codes": codes, "head_dim": 16, "heads": 4}
    layer = CodebookAttention(WIDTH, 0, **sizes).to(device)
    x = torch.randn(BATCH, WIDTH, device=device)
    chosen = torch.randperm(nodes, device=device)[:BATCH]
    return partial(_step, layer, x, chosen)


def _step(layer: CodebookAttention, x: Tensor, nodes: Tensor) -> None:
    layer.zero_grad()
    layer(x, None, nodes).sum().backward()
