"""LargeGT's offline work at ogbn-products' shape: from a list of edges to tokens and hop features.

2.45M nodes and 123.7M edges, generated; ``GRAPHATTN_BENCH_SIZE`` scales both. One pass in one
process, whose anonymous memory must stay below 12 GiB. Figures of a finished pass are kept in
``GRAPHATTN_BENCH_DIR`` (default: the temporary folder).
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from stages import Found, stage

import graphattn as ga
from graphattn.datasets.generated import power_law
from graphattn.sampling import TokenSampler, hop_features

NODES, EDGES, FEATURES, TOKENS, LIMIT = 2_450_000, 123_700_000, 100, 100, 12.0


def one_pass(nodes: int, edges: int) -> Found:
    """Edges, CSR, tokens of every node, two hops of features -> seconds of each."""
    times, last = {}, time.perf_counter()

    def lap(name: str) -> None:
        nonlocal last
        now = time.perf_counter()
        times[name], last = now - last, now
        print(f"{name}: {times[name]:.1f} s", flush=True)

    edge_index = power_law(nodes, edges, 0.6, 0.5)
    lap("generate")
    graph = ga.as_graph(edge_index, nodes)
    del edge_index
    lap("CSR")
    sampler = TokenSampler(graph, TOKENS)
    graph = sampler.graph  # duplicates merged
    tokens = sampler.table()
    assert tokens.shape == (nodes, TOKENS) and bool((tokens[:, 0] == torch.arange(nodes)).all())
    lap("tokens")
    found = hop_features(graph, torch.randn(nodes, FEATURES), 2)
    assert bool(found[2].isfinite().all())
    lap("hops")
    return times


def run(device: str, repeats: int, compiled: bool = True) -> tuple[list[dict[str, Any]], list[str]]:
    """One row: seconds of each step, and the peak beside the limit."""
    scale = float(os.environ.get("GRAPHATTN_BENCH_SIZE", "1"))
    nodes, edges = int(NODES * scale), int(EDGES * scale)
    root = Path(os.environ.get("GRAPHATTN_BENCH_DIR", tempfile.gettempdir()))
    found = stage(root / f"graphattn-tokens-{nodes}-{edges}.json", one_pass, nodes, edges)
    row = {"workload": f"PL({nodes / 1e6:.2f}M, {edges / 1e6:.1f}M, 0.6, 0.5), K={TOKENS}"}
    row |= {f"{name} s": f"{found[name]:.0f}" for name in ("generate", "CSR", "tokens", "hops")}
    row |= {"nodes per s": f"{nodes / found['tokens']:,.0f}"}
    row |= {"anonymous memory GiB": f"{found['peak']:.2f}", "limit": f"{LIMIT:.0f}"}
    return [row], [f"tokens: exact; hops: {FEATURES} fp32 features, two products"]
