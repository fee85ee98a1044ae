"""A graph on disk, a model in memory: anonymous memory and waiting time of training from a store.

``GRAPHATTN_BENCH_SIZE`` scales the graph: 1 is 20M nodes, 300M edges and 128 fp16 features, 6.5 GB
on disk in ``GRAPHATTN_BENCH_DIR`` (default: the temporary folder), built once.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from graphattn.graph.store import Store
from graphattn.graph.store_build import build_store
from graphattn.models import GraphTransformer
from graphattn.sampling import NeighborLoader, open_store

NODES, EDGES, FEATURES, CLASSES, STEPS = 20_000_000, 300_000_000, 128, 40, 200
BLOCK, SEEDS, PE = 1 << 22, 512, 8


class _Rows:
    """Generated rows in fp16, made block by block where a tensor would be read."""

    def __init__(self, nodes: int, width: int) -> None:
        self.shape, self.dtype = (nodes, width), torch.float16

    def numel(self) -> int:
        return self.shape[0] * self.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> torch.Tensor:
        generator = torch.Generator().manual_seed(rows.start)
        count = min(rows.stop, self.shape[0]) - rows.start
        return torch.randn(count, self.shape[1], generator=generator).half()


def build(folder: Path, nodes: int, edges: int) -> Store:
    """A store with uniform targets and sources of falling popularity, labels, splits, encoding."""

    def stream() -> Iterator[np.ndarray]:
        for start in range(0, edges, BLOCK):
            random = np.random.default_rng(start)
            count = min(BLOCK, edges - start)
            source = (nodes * random.random(count) ** 2).astype(np.int64)
            yield np.stack([source, random.integers(0, nodes, count)])

    labels = torch.randint(0, CLASSES, (nodes,), generator=torch.Generator().manual_seed(0))
    arrays: dict[str, Any] = {"x": _Rows(nodes, FEATURES), "y": labels, "pe": _Rows(nodes, PE)}
    train = min(STEPS * SEEDS, nodes // 4)
    places = torch.arange(train) * (nodes // train)
    arrays |= {"split_train": places, "split_valid": places[:256] + 1}
    about = {
        "task": "multiclass",
        "metric": "acc",
        "evaluate": "acc",
        "num_classes": CLASSES,
        "splits": 1,
        "split_note": "generated",
        "edge_note": f"{edges:,} edges drawn, duplicates merged",
    }
    arrays["split_test"] = places[:256] + 2
    return build_store(
        folder, nodes, edges, stream, arrays, coalesce=True, name="generated", extra=about
    )


def train(folder: Path) -> dict[str, float]:
    """200 steps of a graph transformer on sampled neighbourhoods -> seconds and peak memory."""
    features, topology = open_store(folder)
    nodes = topology.graph.num_rows
    loader = NeighborLoader(
        (features, topology), [10, 5], input_nodes=torch.randint(nodes, (STEPS * SEEDS,)),
        batch_size=SEEDS, num_workers=1,
    )  # fmt: skip
    model = GraphTransformer(FEATURES, 64, CLASSES, 2, heads=4, variant="gt-sep")
    optimizer = torch.optim.Adam(model.parameters())
    waited, peak, start = 0.0, 0.0, time.perf_counter()
    batches = iter(loader)
    for step in tqdm(range(STEPS), desc=folder.name):
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked if step else 0.0
        out = model(batch.x, batch.edge_index)[: batch.batch_size]
        loss = torch.nn.functional.cross_entropy(out, batch.y[: batch.batch_size].long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        peak = max(peak, anonymous())
    return {"seconds": time.perf_counter() - start, "waited": waited, "peak": peak}


def anonymous() -> float:
    """RssAnon + RssShmem of this process in GiB (0 where /proc is missing)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    kib = sum(int(fields[key].split()[0]) for key in ("RssAnon", "RssShmem") if key in fields)
    return kib / 2**20


def run(device: str, repeats: int, compiled: bool = True) -> tuple[list[dict[str, Any]], list[str]]:
    """The graph and one of half its size; each trains in a process of its own."""
    import multiprocessing

    scale = float(os.environ.get("GRAPHATTN_BENCH_SIZE", "1"))
    root = Path(os.environ.get("GRAPHATTN_BENCH_DIR", tempfile.gettempdir()))
    rows: list[dict[str, Any]] = []
    for part in (0.5, 1.0):
        nodes, edges = int(NODES * scale * part), int(EDGES * scale * part)
        folder = root / f"graphattn-store-{nodes}-{edges}"
        start = time.perf_counter()
        build(folder, nodes, edges)
        built = time.perf_counter() - start
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(train, (folder,))
        size = sum(file.stat().st_size for file in folder.iterdir()) / 1e9
        rows.append(
            {
                "workload": f"{nodes / 1e6:.2f}M nodes, {edges / 1e6:.1f}M edges, {size:.2f} GB",
                "built in s": built,
                "200 steps in s": found["seconds"],
                "waiting for the loader %": 100 * found["waited"] / found["seconds"],
                "anonymous memory GiB": found["peak"],
            }
        )
    notes = [f"stores are in {root.name}/graphattn-store-*; remove them to build anew"]
    return rows, notes
