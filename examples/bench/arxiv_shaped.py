"""From OGB's raw files to a protocol, on a folder of ogbn-arxiv's shape: time and memory by stage.

169,343 nodes, 1,166,243 edges, 128 features and 40 classes, as the real set; the content is
generated (classes that cite themselves, features around a centre per class), so the accuracy says
nothing about ogbn-arxiv. Files, runs and figures lie in ``GRAPHATTN_BENCH_DIR`` (default: the
temporary folder); a stage that is done is not repeated. ``GRAPHATTN_BENCH_SIZE`` scales the graph.
"""

import gzip
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from stages import Found, stage

NODES, EDGES, FEATURES, CLASSES, SEEDS = 169_343, 1_166_243, 128, 40, 2
SETTINGS = [
    "ogbn-arxiv", "--model", "large-gt", "--model.width", "64", "--encoding.k", "8",
    "--model.options", "{num_codes: 1024}", "--sampling.batch_size", "1024",
    "--sampling.tokens", "10", "--loop.eval_every", "2",
]  # fmt: skip


def write_files(root: Path, nodes: int, edges: int) -> None:
    """``ogbn_arxiv`` in OGB's raw layout, split by year 54/18/28."""
    random, folder = np.random.default_rng(0), root / "ogbn_arxiv"
    labels = random.integers(0, CLASSES, nodes)
    source, target = _edges(random, labels, edges)
    _write(folder / "raw/edge.csv.gz", np.stack([source, target], 1))
    _write(folder / "raw/num-node-list.csv.gz", [nodes])
    _write(folder / "raw/num-edge-list.csv.gz", [edges])
    centres = random.normal(size=(CLASSES, FEATURES))
    features = 0.3 * centres[labels] + random.normal(size=(nodes, FEATURES))
    _write(folder / "raw/node-feat.csv.gz", features.round(3))
    _write(folder / "raw/node-label.csv.gz", labels)
    _write(folder / "raw/node_year.csv.gz", 2010 + np.arange(nodes) * 11 // nodes)
    order, cuts = random.permutation(nodes), [round(nodes * 0.537), round(nodes * 0.713)]
    for part, items in zip(("train", "valid", "test"), np.split(order, cuts), strict=True):
        _write(folder / f"split/time/{part}.csv.gz", np.sort(items))
    (folder / "RELEASE_v1.txt").write_text("")


def _edges(random: np.random.Generator, labels: np.ndarray, count: int) -> tuple[Any, Any]:
    """Distinct directed edges, two of three within a class."""
    nodes, by_class = len(labels), np.argsort(labels, kind="stable")
    first = np.searchsorted(labels[by_class], np.arange(CLASSES))
    size = np.bincount(labels, minlength=CLASSES)
    source = random.integers(0, nodes, 3 * count)
    own = labels[source]
    inside = by_class[first[own] + (random.random(len(own)) * size[own]).astype(np.int64)]
    anywhere = random.integers(0, nodes, len(own))
    target = np.where(random.random(len(own)) < 2 / 3, inside, anywhere)
    keys = np.sort((source * nodes + target)[source != target])
    keys = random.permutation(keys[np.flatnonzero(np.diff(keys, prepend=-1))])
    source, target = np.divmod(keys[:count], nodes)
    return source, target


def _write(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", compresslevel=1) as out:
        pandas.DataFrame(values).to_csv(out, header=False, index=False)


def load(root: Path) -> None:
    """Raw files to a symmetric graph, from a cold start."""
    from graphattn.datasets.catalogue import load_dataset

    data = load_dataset("ogbn-arxiv", root, download=False, undirected=True).data
    assert data.x.shape[1] == FEATURES


def encode(root: Path) -> None:
    """The Laplacian encoding that training asks for."""
    from graphattn.training.inputs import graph_of, load_nodes, positional_encoding

    config = _config(root, 1)
    pe = positional_encoding(graph_of(load_nodes(config.data)), config.encoding)
    assert pe is not None and pe.shape[1] == 8


def train(root: Path) -> Found:
    """One epoch of LargeGT, loading, encoding and scores included."""
    from graphattn.training.run import train_run

    result = train_run(_config(root, 1), root / "run", resume=(root / "run").exists())
    return {"epoch": result["seconds_per_epoch"], "test": result["test"]}


def protocol(root: Path) -> Found:
    """Two seeds of two epochs."""
    from graphattn.training.protocol import run_protocol

    summary = run_protocol(_config(root, 2), root / "protocol", seeds=SEEDS)["summary"]
    return {"epoch": summary["seconds_per_epoch"], "test": summary["test"]["mean"]}


def _config(root: Path, epochs: int) -> Any:
    from graphattn.training.arguments import parse

    os.environ["GRAPHATTN_CACHE"] = str(root / "cache")
    given = [*SETTINGS, "--root", str(root), "--loop.epochs", str(epochs)]
    return parse("protocol", [*given, "--data.download", "false", "--device", "cpu"])[0]


STAGES = {"load and symmetrise": load, "LapPE k=8": encode, "train": train, "protocol": protocol}


def run(device: str, repeats: int, compiled: bool = True) -> tuple[list[dict[str, Any]], list[str]]:
    """One row per stage, each from what the stages before it left on the disk."""
    scale = float(os.environ.get("GRAPHATTN_BENCH_SIZE", "1"))
    nodes, edges = int(NODES * scale), int(EDGES * scale)
    root = Path(os.environ.get("GRAPHATTN_BENCH_DIR", tempfile.gettempdir()))
    root = root / f"graphattn-arxiv-{nodes}-{edges}"
    root.mkdir(parents=True, exist_ok=True)
    stage(root / "files.json", write_files, root, nodes, edges)
    rows = []
    for name, call in STAGES.items():
        found = stage(root / f"{call.__name__}.json", call, root)
        rows.append(
            {
                "stage": name,
                "seconds": f"{found['seconds']:.1f}",
                "anonymous memory GiB": f"{found['peak']:.2f}",
                "s per epoch": f"{found['epoch']:.1f}" if "epoch" in found else "–",
                "test acc": f"{found['test']:.3f}" if "test" in found else "–",
            }
        )
    return rows, [
        f"{nodes:,} nodes, {edges:,} edges, generated content; no row says anything of ogbn-arxiv",
        f"train: one epoch with scores; protocol: {SEEDS} seeds of two epochs",
        f"`graphattn protocol {' '.join(SETTINGS)}`",
    ]
