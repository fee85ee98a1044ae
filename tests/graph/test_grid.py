"""GridGraph: NATTEN's rule to the node, the other borders, the reverse, wrong input."""

import itertools
import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import graphattn as ga
from graphattn import GridGraph
from graphattn.kernels.grid import AXES, entries, first_edges, spell_out

GOLDEN = {
    (8, 3, 1, 1, False): "0-2 0-2 1-3 2-4 3-5 4-6 5-7 5-7",
    (8, 4, 1, 1, False): "0-3 0-3 0-3 1-4 2-5 3-6 4-7 4-7",
    (9, 3, 1, 2, False): "0-4 1-5 0-4 1-5 2-6 3-7 4-8 3-7 4-8",
    (10, 4, 4, 1, False): "0-3 0-3 0-3 0-3 4-7 4-7 4-7 4-7 6-9 6-9",
    (10, 5, 2, 1, False): "0-4 0-4 1-5 1-5 3-7 3-7 5-9 5-9 5-9 5-9",
    (11, 3, 2, 2, False): "0-4 1-5 0-4 1-5 4-8 5-9 4-8 5-9 6-10 5-9 6-10",
    (8, 4, 1, 1, True): "0-0 0-1 0-2 0-3 1-4 2-5 3-6 4-7",
    (9, 4, 2, 1, True): "0-0 0-1 0-2 0-3 2-4 2-5 4-6 4-7 5-8",
    (10, 2, 1, 3, True): "0-0 1-1 2-2 0-3 1-4 2-5 3-6 4-7 5-8 6-9",
}
# Written out by hand from the unclamped window g + d (l - k // 2 + t).
BORDERS: dict[tuple[Any, ...], list[list[int]]] = {
    ("truncate", 5, 3, 1, 1): [[0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4]],
    ("truncate", 4, 7, 1, 1): [[0, 1, 2, 3]] * 4,
    ("truncate", 6, 3, 1, 2): [[0, 2], [1, 3], [0, 2, 4], [1, 3, 5], [2, 4], [3, 5]],
    ("truncate", 5, 2, 2, 1): [[0, 1], [0, 1], [2, 3], [2, 3], [3, 4]],
    ("wrap", 5, 3, 1, 1): [[0, 1, 4], [0, 1, 2], [1, 2, 3], [2, 3, 4], [0, 3, 4]],
    ("wrap", 4, 2, 1, 1): [[0, 3], [0, 1], [1, 2], [2, 3]],
    ("wrap", 6, 3, 1, 2): [[0, 2, 4], [1, 3, 5], [0, 2, 4], [1, 3, 5], [0, 2, 4], [1, 3, 5]],
    ("wrap", 5, 3, 3, 1): [[0, 1, 2], [0, 1, 2], [0, 1, 2], [0, 3, 4], [0, 3, 4]],
}


def axis_sets(
    extent: int, k: int, s: int, d: int, causal: bool, border: str = "clamp"
) -> list[set[int]]:
    """The definition, node by node."""
    rows = []
    for q in range(extent):
        g, p = q % d, q // d
        n = len(range(g, extent, d))
        if causal:
            leader = min(p // s * s + s - 1, n - 1)
            window = range(max(leader - k + 1, 0), p + 1)
        else:
            leader = min(p // s * s + s // 2, n - 1)
            a = leader - k // 2
            a = min(max(a, 0), n - k) if border == "clamp" else a
            window = range(a, a + k)
        inside = [t % n for t in window] if border == "wrap" else [t for t in window if 0 <= t < n]
        rows.append({g + d * t for t in inside})
    return rows


def lists(graph: Any) -> list[list[int]]:
    csr = graph.to_csr()
    return [part.tolist() for part in csr.indices.split(csr.indptr.diff().tolist())]


def legal(extent: int, causal: bool, border: str) -> list[tuple[int, int, int]]:
    found = []
    for k in range(1, extent + (3 if border == "truncate" else 1)):
        for d in range(1, extent + 1):
            fits = k * d <= extent and (border != "wrap" or extent % d == 0)
            if fits or border == "truncate":
                found += [(k, s, d) for s in range(1, k + 1)]
    return found


def reverse_lists(graph: GridGraph) -> tuple[Tensor, Tensor, Tensor]:
    return spell_out(graph.cols_layout("cpu").edges[0])


@pytest.mark.parametrize("case", GOLDEN, ids=str)
def test_golden_vectors(case: tuple[int, int, int, int, bool]) -> None:
    extent, k, s, d, causal = case
    bounds = [tuple(map(int, pair.split("-"))) for pair in GOLDEN[case].split()]
    wanted = [list(range(a, b + 1, d)) for a, b in bounds]
    assert lists(GridGraph(extent, k, s, d, causal)) == wanted


@pytest.mark.parametrize("case", BORDERS, ids=str)
def test_golden_vectors_of_the_other_borders(case: tuple[Any, ...]) -> None:
    border, extent, k, s, d = case
    assert lists(GridGraph(extent, k, s, d, border=border)) == BORDERS[case]


def check_axis(extent: int, k: int, s: int, d: int, causal: bool, border: str) -> None:
    graph = GridGraph(extent, k, s, d, causal, border)
    wanted = [sorted(row) for row in axis_sets(extent, k, s, d, causal, border)]
    label = f"{extent=} {k=} {s=} {d=} {causal=} {border}"
    assert lists(graph) == wanted, label
    assert graph.num_edges == sum(map(len, wanted)) == graph.to_csr().num_edges, label
    assert graph.degree().tolist() == list(map(len, wanted)), label
    indptr, readers, _ = reverse_lists(graph)
    transposed = graph.to_csr().t()
    assert torch.equal(indptr, transposed.indptr), label
    assert torch.equal(readers, transposed.indices.long()), label


def reverse_of_natten(extent: int, k: int, s: int, d: int, causal: bool, key: int) -> list[int]:
    """Section 2.4 of the published rule, as closed forms."""
    g, j = key % d, key // d
    n = len(range(g, extent, d))
    if causal:
        low, high = j, n if j + k >= n else (j + k) // s * s
    elif s == 1:
        low = 0 if j < k else j - (k - 1 - k // 2)
        high = n if j >= n - k else j + k // 2 + 1
    else:
        starts = [min(max(min(t + s // 2, n - 1) - k // 2, 0), n - k) for t in range(0, n, s)]
        reading = [t for t, a in enumerate(starts) if j - k + 1 <= a <= j]
        low, high = reading[0] * s, min((reading[-1] + 1) * s, n)
    return [g + d * p for p in range(low, high)]


@pytest.mark.parametrize("extent", [1, 3])
def test_every_legal_axis_equals_the_definition(extent: int) -> None:
    for border in ("clamp", "truncate", "wrap"):
        for causal in (False, True) if border != "wrap" else (False,):
            for k, s, d in legal(extent, causal, border):
                check_axis(extent, k, s, d, causal, border)


@pytest.mark.slow
@pytest.mark.parametrize("extent", [2, *range(4, 15)])
def test_every_legal_axis_equals_the_definition_up_to_14(extent: int) -> None:
    test_every_legal_axis_equals_the_definition(extent)


@pytest.mark.parametrize("extent", range(1, 15))
def test_numbers_of_edges_have_closed_forms(extent: int) -> None:
    """k X in windows that clamp; causal ones lack k (k - 1) / 2 at the start of every class."""
    for k, s, d in legal(extent, False, "clamp"):
        assert GridGraph(extent, k, s, d).num_edges == k * extent, (k, s, d)
        causal = k * extent - d * k * (k - 1) // 2
        found = GridGraph(extent, k, s, d, True).num_edges
        assert found == causal if s == 1 else found <= causal, (k, s, d)
        assert found == sum(map(len, axis_sets(extent, k, s, d, True))), (k, s, d)
        if s == 1:
            shape, window = (extent, extent + 1, 3), (k, k, 2)
            flags = {"dilation": (d, d, 1), "is_causal": (True, False, True)}
            every = GridGraph(shape, window, **flags)
            assert every.num_edges == causal * k * (extent + 1) * 5, (k, d)


@pytest.mark.parametrize(
    "extent", [6, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 15) if n != 6)]
)
def test_the_reverse_has_nattens_closed_form(extent: int) -> None:
    for causal in (False, True):
        for k, s, d in legal(extent, causal, "clamp"):
            graph = GridGraph(extent, k, s, d, causal)
            indptr, readers, _ = reverse_lists(graph)
            for key in range(extent):
                found = readers[indptr[key] : indptr[key + 1]].tolist()
                assert found == reverse_of_natten(extent, k, s, d, causal, key), (k, s, d, causal)


def random_grid(generator: Any, most: int = 400) -> dict[str, Any]:
    """A legal grid of up to three axes and at most ``most`` nodes."""
    dims = generator.randint(1, 3)
    border = generator.choice(["clamp", "clamp", "truncate", "wrap"])
    while True:
        shape = [generator.randint(1, (most, 30, 11)[dims - 1]) for _ in range(dims)]
        if torch.tensor(shape).prod() <= most:
            break
    axes = []
    for extent in shape:
        causal = border != "wrap" and generator.random() < 0.3
        d = generator.choice(
            [d for d in range(1, extent + 1) if extent % d == 0 or border != "wrap"]
        )
        most_k = extent // d if border != "truncate" else 12
        k = generator.randint(1, min(most_k, 12))
        axes.append((k, generator.randint(1, k), d, causal))
    k, s, d, c = (list(values) for values in zip(*axes, strict=True))
    return {"shape": shape, "kernel_size": k, "stride": s, "dilation": d, "is_causal": c} | {
        "border": border
    }


@pytest.mark.parametrize("count", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_many_axes_are_the_product_of_each(count: int) -> None:
    generator = random.Random(5)
    for _ in range(count):
        options = random_grid(generator)
        graph = GridGraph(**options)
        columns = zip(
            *(options[n] for n in ("shape", "kernel_size", "stride", "dilation", "is_causal")),
            strict=True,
        )
        per_axis = [axis_sets(*column, options["border"]) for column in columns]
        wanted = []
        strides = [1]
        for extent in reversed(options["shape"][1:]):
            strides.insert(0, strides[0] * extent)
        for query in itertools.product(*map(range, options["shape"])):
            sets = [sorted(axis[q]) for axis, q in zip(per_axis, query, strict=True)]
            wanted.append(
                [sum(map(int.__mul__, node, strides)) for node in itertools.product(*sets)]
            )
        assert lists(graph) == wanted, options
        csr, tables = graph.to_csr(), graph.rows_layout("cpu").edges[0]
        assert graph.num_edges == csr.num_edges
        every = torch.arange(graph.num_rows + 1)
        assert torch.equal(first_edges(tables, every), csr.indptr)
        assert torch.equal(reverse_lists(graph)[1], csr.t().indices.long()), options


def test_relative_positions_are_key_minus_query_in_dilated_steps() -> None:
    graph = GridGraph((9, 10), (3, 5), dilation=(3, 2))
    csr = graph.to_csr()
    rows, cols = csr.row_index(), csr.indices.long()
    down = (cols // 10 - rows // 10) // 3 + 2
    right = (cols % 10 - rows % 10) // 2 + 4
    assert torch.equal(graph.relative_index().long(), down * 9 + right)
    assert graph.num_relative == 5 * 9


@pytest.mark.parametrize("border", ["clamp", "truncate", "wrap"])
def test_the_reverse_has_the_relative_positions_of_the_edges(border: str) -> None:
    graph = GridGraph((6, 12), (3, 6), stride=(2, 4), dilation=(2, 1), border=border)
    _, _, found = reverse_lists(graph)
    order = graph.to_csr().t().edge_perm
    assert order is not None
    assert torch.equal(found, graph.relative_index()[order].long())
    low, high = int(found.min()), int(found.max())
    assert low >= 0 and high < graph.num_relative
    if border == "wrap":  # the unwrapped distance: never further than the window reaches
        ring = GridGraph(8, 3, border="wrap")
        assert set(ring.relative_index().tolist()) == {1, 2, 3}


def test_nothing_is_written_down_before_it_is_asked_for() -> None:
    graph = GridGraph((256, 256), 80)
    rows, cols = graph.layout("cpu")
    assert graph.num_edges == 256**2 * 80**2 == rows.indices.shape[0]
    assert sum(t.untyped_storage().nbytes() for t in (*rows[:3], *cols[:3])) < 200_000
    assert graph._csr is None
    chunks = rows.plan[0]
    assert int(chunks[0]) == 0 and int(chunks[-1]) == 65536 and chunks.numel() == 65
    assert int(chunks.diff().max() - chunks.diff().min()) <= 1


def test_chunks_of_unequal_rows_are_those_of_the_csr() -> None:
    graph = GridGraph((40, 50), (9, 7), is_causal=(True, False))
    for implicit, written in zip(graph.layout("cpu"), graph.to_csr().layout("cpu"), strict=True):
        assert torch.equal(implicit.plan[0], written.plan[0])
        assert entries(implicit.edges[0], AXES - 1).shape == (50, 8)


def test_equality_pickle_repr_and_degree() -> None:
    graph = GridGraph((5, 6), 3, stride=2)
    graph.to_csr()
    again = pickle.loads(pickle.dumps(graph))
    assert again == graph and hash(again) == hash(graph) and again._csr is None
    assert graph != GridGraph((5, 6), 3)
    assert repr(graph) == "GridGraph((5, 6), kernel_size=(3, 3), stride=(2, 2), border='clamp')"
    assert graph.to("cpu") is graph
    assert (graph.num_rows, graph.num_cols, graph.num_edges) == (30, 30, 270)
    assert ga.as_graph(graph) is graph.to_csr()
    assert graph.t() is graph.to_csr().t()


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"shape": (5, 6), "kernel_size": (3, 7)}, ValueError, "axis 1 must be at most its extent 6"),
    ({"shape": 9, "kernel_size": 3, "dilation": 4}, ValueError, r"got 3 \* 4"),
    ({"shape": 9, "kernel_size": 3, "stride": 4}, ValueError, "stride of axis 0.*3, got 4; take"),
    ({"shape": 9, "kernel_size": 0}, ValueError, "kernel_size of axis 0 must be at least 1"),
    ({"shape": (9, 9), "kernel_size": 3, "dilation": (1, 0)}, ValueError, "dilation of axis 1"),
    ({"shape": 9, "kernel_size": 2.0}, TypeError, "whole number, got 2.0 of type float; pass"),
    ({"shape": 9, "kernel_size": True}, TypeError, "whole number"),
    ({"shape": 9, "kernel_size": "3"}, TypeError, "kernel_size of axis 0 .* got '3' of type str"),
    ({"shape": 9, "kernel_size": torch.tensor(3)}, TypeError, "of type Tensor; pass ints"),
    ({"shape": 9.0, "kernel_size": 3}, TypeError, "shape of axis 0 .* got 9.0 of type float"),
    ({"shape": "9", "kernel_size": 3}, TypeError, "shape of axis 0 .* of type str"),
    ({"shape": (), "kernel_size": 3}, ValueError, r"got shape \(\); leave batch and heads out"),
    ({"shape": (9, 9), "kernel_size": (3, 3, 3)}, ValueError, "each of the 2 axes"),
    ({"shape": (2, 2, 2, 2), "kernel_size": 1}, ValueError, "1, 2 or 3 axes"),
    ({"shape": (3, 0), "kernel_size": 1}, ValueError, "shape of axis 1"),
    ({"shape": 9, "kernel_size": 3, "is_causal": 1}, TypeError, "axis 0 .* got 1 of type int"),
    ({"shape": 9, "kernel_size": 3, "border": "shift"}, ValueError, "border must be one of"),
    (
        {"shape": 9, "kernel_size": 3, "border": "wrap", "is_causal": True},
        ValueError,
        "circle.*drop",
    ),
    ({"shape": 9, "kernel_size": 2, "dilation": 2, "border": "wrap"}, ValueError, "divides.*pad"),
    ({"shape": 9, "kernel_size": 10, "border": "wrap"}, ValueError, "at most its extent"),
]


@pytest.mark.parametrize("options, kind, message", WRONG)
def test_wrong_input(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        GridGraph(**options)


def test_arrays_in_place_of_numbers_are_named_in_layers_too() -> None:
    query = torch.randn(1, 5, 6, 1, 2)
    with pytest.raises(TypeError, match=r"kernel_size of axis 0 .* got array\(\[3, 3\]\)"):
        ga.na2d(query, query, query, np.array([3, 3]))
