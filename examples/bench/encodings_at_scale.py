"""Laplacian encodings against PyG's transform, k = 8, relative residual 2e-2.

Both start from an ``edge_index``: converting it is part of the time. PyG's transform runs ARPACK on
the CPU whatever the device. A million nodes have no peer that ends in reasonable time; beside them
stands the 60 s that they may take.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array, diags_array, eye_array
from timing import interleave
from torch import Tensor
from tqdm import tqdm

import graphattn as ga
from graphattn.datasets.generated import communities, grid

K, TOL, LIMIT = 8, 2e-2, 60.0
Make = Callable[[], tuple[Tensor, int]]


def run(device: str, repeats: int, compiled: bool = True) -> tuple[list[dict[str, Any]], list[str]]:
    """One row per graph; residuals and values are checked before anything is timed."""
    small: dict[str, Make] = {
        "grid 200 x 200": lambda: (grid(200, 200, 4), 40_000),
        "200k nodes in 200 communities": lambda: (communities(200_000, 200, 18, 2)[0], 200_000),
    }
    large: dict[str, Make] = {
        "grid 1000 x 1000": lambda: (grid(1000, 1000, 4), 1_000_000),
        "1M nodes in 1000 communities": lambda: (
            communities(1_000_000, 1000, 18, 2)[0],
            1_000_000,
        ),
    }
    rows: list[dict[str, Any]] = []
    notes = [f"{torch.get_num_threads()} threads; the conversion of edge_index is in both times"]
    for name, make in tqdm({**small, **large}.items(), desc="encodings"):
        edges, nodes = make()
        ours, peer = _calls(edges, nodes, device)
        notes.append(f"{name}: {_check(edges, nodes, ours(), peer() if name in small else None)}")
        calls = {"graphattn": ours, **({"PyG": peer} if name in small else {})}
        times = interleave(calls, min(repeats, 3) if name in small else 1, device)
        _row(rows, name, times["graphattn"].p50, times["PyG"].p50 if name in small else None)
    return rows, notes


def _calls(
    edges: Tensor, nodes: int, device: str
) -> tuple[Callable[[], tuple[Tensor, Tensor]], Callable[[], Tensor]]:
    from torch_geometric.data import Data
    from torch_geometric.transforms import AddLaplacianEigenvectorPE

    transform = AddLaplacianEigenvectorPE(K, is_undirected=True)

    def ours() -> tuple[Tensor, Tensor]:
        own = edges.detach().to(device)  # a tensor of its own: conversions are cached by tensor
        graph = ga.as_graph(own, nodes)
        return ga.laplacian_pe(graph, K, tol=TOL)

    def peer() -> Tensor:
        encoding: Tensor = transform(
            Data(edge_index=edges, num_nodes=nodes)
        ).laplacian_eigenvector_pe
        return encoding

    return ours, peer


def _check(edges: Tensor, nodes: int, found: tuple[Tensor, Tensor], peer: Tensor | None) -> str:
    """Assert the residual, orthonormality and, beside the peer's vectors, the values."""
    source, target = edges.numpy()
    adjacency = csr_array((np.ones(len(source)), (source, target)), shape=(nodes, nodes))
    scale = diags_array(1 / np.sqrt(adjacency.sum(axis=1)))
    matrix = csr_array(eye_array(nodes) - scale @ adjacency @ scale)
    vectors = found[1].cpu().double().numpy()
    values = (vectors * (matrix @ vectors)).sum(0)
    residual = np.linalg.norm(matrix @ vectors - vectors * values, axis=0).max() / values.max()
    assert residual <= 1.05 * TOL, f"relative residual {residual}"
    assert np.abs(vectors.T @ vectors - np.eye(K)).max() < 1e-4
    shown = f"relative residual {residual:.1e}, eigenvalues {values[0]:.3e} to {values[-1]:.3e}"
    if peer is None:
        return shown
    other = peer.double().numpy()
    exact = np.sort((other * (matrix @ other)).sum(0))
    assert (np.sort(values) <= exact + 4 * TOL * exact[-1]).all()
    return f"{shown} (PyG {exact[0]:.3e} to {exact[-1]:.3e})"


def _row(rows: list[dict[str, Any]], name: str, ours: float, peer: float | None) -> None:
    rows.append(
        {
            "workload": f"LapPE k={K}, {name}",
            "graphattn s": ours,
            "PyG s": "-" if peer is None else f"{peer:.2f}",
            "÷ PyG": None if peer is None else peer / ours,
            "÷ 60 s": LIMIT / ours,
        }
    )
