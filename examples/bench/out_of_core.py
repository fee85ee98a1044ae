"""A graph on disk, a model in memory: anonymous memory and waiting time of training from a store.

``GRAPHATTN_BENCH_SIZE`` scales the graph: 1 is 20M nodes, 300M edges and 128 fp16 features, 7 GB on
disk in ``GRAPHATTN_BENCH_DIR`` (default: the temporary folder), built once. LargeGT trains on a
tenth of it.
"""

import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stages import Found, stage
from tqdm import tqdm

from graphattn.graph.store import Store
from graphattn.graph.store_build import build_store
from graphattn.models import GraphTransformer
from graphattn.sampling import NeighborLoader, open_store
from graphattn.sampling.hops import store_hops
from graphattn.training.build import prepare
from graphattn.training.config_file import from_dict
from graphattn.training.loop import Trainer

NODES, EDGES, FEATURES, CLASSES, STEPS = 20_000_000, 300_000_000, 128, 40, 200
BLOCK, SEEDS, PE, TOKENS = 1 << 22, 512, 8, 20


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


def neighbours(folder: Path) -> Found:
    """Steps of a graph transformer on sampled neighbourhoods -> seconds of steps and of waiting."""
    features, topology = open_store(folder)
    seeds = torch.randint(topology.graph.num_rows, (STEPS * SEEDS,))
    loader = NeighborLoader(
        (features, topology), [10, 5], input_nodes=seeds, batch_size=SEEDS, num_workers=1
    )
    model = GraphTransformer(FEATURES, 64, CLASSES, 2, heads=4, variant="gt-sep")
    optimizer = torch.optim.Adam(model.parameters())
    waits = Waits(loader)
    for batch in tqdm(waits, desc=folder.name, total=STEPS):
        out = model(batch.x, batch.edge_index)[: batch.batch_size]
        loss = torch.nn.functional.cross_entropy(out, batch.y[: batch.batch_size])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return waits.found()


def large_gt(folder: Path) -> Found:
    """An epoch of LargeGT, all nodes assigned to codes before -> seconds of steps and waiting."""
    config = from_dict(
        {
            "data": {"name": str(folder)},
            "model": {
                "name": "large-gt",
                "layers": 1,
                "width": 64,
                "heads": 2,
                "options": {"num_codes": 512},
            },
            "encoding": {"kind": "stored"},
            "sampling": {"batch_size": SEEDS, "tokens": TOKENS},
            "loop": {"epochs": 2, "eval_every": 2},
        }
    )
    run = prepare(config)
    trainer = Trainer(run.model, run.inputs, run.supervision, config)
    steps, waits = run.inputs.steps, []

    def timed(seeds: torch.Tensor, epoch: int) -> Iterator[Any]:
        waits.append(Waits(steps(seeds, epoch)))
        yield from tqdm(waits[-1], desc=folder.name, total=STEPS)

    run.inputs.steps = timed  # type: ignore[method-assign]
    trainer.run_epoch()
    return waits[0].found()


KINDS = {"neighbours": neighbours, "large-gt": large_gt}
# Of the full graph. LargeGT's hops are two passes over all edges and three times the disk.
PARTS = {"neighbours": (0.5, 1.0), "large-gt": (0.05, 0.1)}


class Waits:
    """Batches, and the time spent waiting for them."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches, self.waited, self.steps = batches, 0.0, 0.0

    def __iter__(self) -> Iterator[Any]:
        """All but the first batch, which is made cold, count as waited for."""
        start, rest, first = time.perf_counter(), iter(self.batches), True
        while True:
            asked = time.perf_counter()
            batch = next(rest, None)
            self.waited += 0.0 if first else time.perf_counter() - asked
            first = False
            if batch is None:
                break
            yield batch
        self.steps = time.perf_counter() - start

    def found(self) -> Found:
        """What was seen."""
        return {"steps": self.steps, "waited": self.waited}


def kept(folder: Path, kind: str) -> Path:
    """Where a finished row lies: beside the store."""
    return folder.with_name(f"{folder.name}-{kind}.json")


def run(device: str, repeats: int, compiled: bool = True) -> tuple[list[dict[str, Any]], list[str]]:
    """A graph and one of half its size, for both kinds of batches."""
    scale = float(os.environ.get("GRAPHATTN_BENCH_SIZE", "1"))
    root = Path(os.environ.get("GRAPHATTN_BENCH_DIR", tempfile.gettempdir()))
    rows: list[dict[str, Any]] = []
    for kind in KINDS:
        for part in PARTS[kind]:
            nodes, edges = int(NODES * scale * part), int(EDGES * scale * part)
            folder = root / f"graphattn-store-{nodes}-{edges}"
            store = build(folder, nodes, edges)
            if kind == "large-gt":
                store = store_hops(folder)
            found = stage(kept(folder, kind), KINDS[kind], folder)
            size = sum(entry["bytes"] for entry in store.meta["arrays"].values()) / 1e9
            name = f"{nodes / 1e6:.2f}M nodes, {edges / 1e6:.1f}M edges, {size:.2f} GB"
            rows.append(
                {
                    "workload": name,
                    "batches": kind,
                    f"{STEPS} steps in s": found["steps"],
                    "waiting for the loader %": 100 * found["waited"] / found["steps"],
                    "anonymous memory GiB": found["peak"],
                }
            )
    notes = [
        f"neighbours: fan-out [10, 5] of {SEEDS} seeds; large-gt: {TOKENS} tokens of {SEEDS} nodes,"
        " X and two hops in fp16, encoding and assignments of all nodes",
        "memory: RssAnon + RssShmem, looked at every 20 ms; large-gt with opening and assigning",
        "stores and finished rows are graphattn-store-* in the folder for temporary files; remove "
        "them to run anew",
    ]
    return rows, notes
