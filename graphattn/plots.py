"""Figures; they are returned, never shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def training_curves(path: Path | str) -> Figure:
    """Loss, and training and validation score, over the epochs of a run.

    The metric's name and the best epoch come from ``result.json``, once the run is finished.

    Args:
        path: Run folder, or its ``metrics.jsonl``.

    Returns:
        A matplotlib figure; ``figure.savefig("curves.png")`` writes it.

    Raises:
        ValueError: If no epoch is recorded there.
    """
    # Figure without pyplot: no window system is touched and nothing stays registered globally.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    entries = _entries(Path(path))
    result = _result(Path(path), entries[-1]["epoch"])
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([e["epoch"] for e in entries], [e["loss"] for e in entries], color="tab:gray")
    left.set(xlabel="epoch", ylabel="training loss")
    evaluated = [entry for entry in entries if "valid" in entry]
    for part, color in (("train", "tab:blue"), ("valid", "tab:orange")):
        scores = [entry[part] for entry in evaluated]
        right.plot([e["epoch"] for e in evaluated], scores, label=part, color=color)
    if "best_epoch" in result:
        best = result["best_epoch"]
        right.axvline(best, color="tab:green", linestyle=":", label=f"best epoch {best}")
    right.set(xlabel="epoch", ylabel=result.get("metric", "score"))
    right.legend()
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    return figure


def _result(path: Path, last_epoch: int) -> dict[str, Any]:
    """``result.json`` of the run, unless the run has gone on since it was written."""
    import json

    file = (path if path.is_dir() else path.parent) / "result.json"
    result = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return result if result.get("epochs") == last_epoch else {}


def _entries(path: Path) -> list[dict[str, Any]]:
    import json

    path = path / "metrics.jsonl" if path.is_dir() else path
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    entries = [json.loads(line) for line in lines if line.endswith("}")]
    if not entries:
        raise ValueError(f"{path} records no epoch; expected the folder of a run")
    return entries


def grid_window(graph: Any, queries: Any = None, titles: Any = None) -> Figure:
    """Who attends to whom on a 1-D or 2-D grid: the neighbours of some nodes, a panel each.

    Args:
        graph: A :class:`graphattn.GridGraph` or another graph on a grid; or a list of them with
            one query each, to compare rules.
        queries: Nodes as coordinates ``(y, x)`` (or numbers); ``None`` takes a corner, a node at
            the upper border and the middle.
        titles: Heading of every panel; ``None`` writes the query's coordinates.

    Returns:
        A matplotlib figure: the query orange, its keys blue, a dot on every other node that has
        the same keys (a stride group, or what a border moved there), the rest grey.

    Raises:
        ValueError: The grid has three axes, a query lies outside, or the lists differ in length.
    """
    import numpy as np
    from matplotlib.figure import Figure

    several = isinstance(graph, (list, tuple))
    if not several and isinstance(queries, tuple) and [type(q) for q in queries] == [int, int]:
        queries = [queries]  # the coordinates of one node
    if queries is not None and len(queries) == 0:
        raise ValueError("queries must name a node at least, got none; leave it out for samples")
    if queries is None:
        queries = [_middle(g) for g in graph] if several else _sample_queries(graph)
    graphs = list(graph) if several else [graph] * len(queries)
    titles = [None] * len(graphs) if titles is None else titles
    if not len(graphs) == len(queries) == len(titles):
        raise ValueError(
            "graphs, queries and titles must be one for each panel, got "
            f"{len(graphs)}, {len(queries)} and {len(titles)}"
        )
    widest = max(_plane(one)[0] / _plane(one)[1] for one in graphs)
    figure = Figure(figsize=(2.6 * len(graphs), 2.6 * widest + 0.64), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(graphs)))
    for axes, one, query, title in zip(panels, graphs, queries, titles, strict=True):
        node = _node(one, query)
        _draw_window(axes, one, node)
        axes.set_title(title or f"query {divmod(node, _plane(one)[1])}", fontsize=10)
    dots = any(axes.lines for axes in panels)
    figure.legend(
        handles=_window_legend(dots), loc="outside lower center", ncols=3, frameon=False, fontsize=9
    )
    return figure


_CELLS = {"no key": "#e9edf2", "its keys": "#5b8fd0", "query": "#f08a24"}
_SHARED: dict[str, Any] = {"marker": "o", "color": "white", "markersize": 4, "linestyle": "none"}


def _draw_window(axes: Any, graph: Any, node: int) -> None:
    """One panel: cells by what they are to ``node``."""
    import numpy as np
    from matplotlib.colors import ListedColormap

    (rows, columns), keys = _plane(graph), _keys(graph, node)
    state = np.zeros(rows * columns)
    state[keys] = 1
    state[node] = 2
    axes.pcolormesh(
        state.reshape(rows, columns), cmap=ListedColormap(list(_CELLS.values())), vmin=0, vmax=2,
        edgecolors="white", linewidth=min(1.6, 32 / max(rows, columns)),
    )  # fmt: skip
    same = [n for n in _same_keys(graph, keys) if n != node]
    if same:
        y, x = np.divmod(same, columns)
        axes.plot(x + 0.5, y + 0.5, **_SHARED)
    axes.set(aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.invert_yaxis()


def _window_legend(dots: bool) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(color=_CELLS[n], label=n) for n in ("query", "its keys")]
    if dots:
        colours: dict[str, Any] = {
            "markerfacecolor": "white",
            "markeredgecolor": _CELLS["its keys"],
        }
        same = Line2D([], [], **_SHARED | colours, label="has the same keys")
        handles.append(same)
    return handles


def attention_map(graph: Any, weights: Any, query: Any, image: Any = None) -> Figure:
    """How strongly one node of a 2-D grid attends to the others, one panel per head.

    Args:
        graph: The :class:`graphattn.GridGraph` that the weights belong to.
        weights: ``[E]`` or ``[E, H]`` from :func:`graphattn.attention_weights`.
        query: Node as coordinates ``(y, x)`` or a number.
        image: ``[H, W]`` or ``[H, W, 3]`` in [0, 1] to lay the map over, at any resolution.

    Returns:
        A matplotlib figure; the query is marked by a cross, bright is strong.

    Raises:
        ValueError: A shape does not fit the graph.
    """
    import numpy as np
    from matplotlib.figure import Figure

    if weights.dim() not in (1, 2) or weights.shape[0] != graph.num_edges:
        raise ValueError(
            f"weights must be [E] or [E, H] with E = {graph.num_edges}, got {list(weights.shape)}"
        )
    table = weights.detach().float().cpu().reshape(weights.shape[0], -1)
    (rows, columns), node = _plane(graph), _node(graph, query)
    keys = _keys(graph, node)
    first = int(graph.degree()[:node].sum())
    figure = Figure(figsize=(2.6 * table.shape[1], 2.9), layout="constrained")
    extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)
    for head, axes in enumerate(np.atleast_1d(figure.subplots(1, table.shape[1]))):
        strength = np.zeros(rows * columns)
        strength[keys] = table[first : first + len(keys), head]
        if image is not None:
            axes.imshow(np.asarray(image), extent=extent, cmap="gray")
        axes.imshow(
            strength.reshape(rows, columns), extent=extent, cmap="magma", vmin=0.0,
            alpha=1.0 if image is None else 0.6,
        )  # fmt: skip
        axes.plot(node % columns, node // columns, "x", color="white")
        axes.set(xticks=[], yticks=[], title=f"head {head}")
    return figure


def _plane(graph: Any) -> tuple[int, int]:
    """Rows and columns of a grid of one or two axes."""
    if len(graph.shape) > 2:
        raise ValueError(f"a picture has two axes, the grid has shape {graph.shape}; draw a slice")
    rows, columns = (1, *graph.shape)[-2:]
    return rows, columns


def _middle(graph: Any) -> tuple[int, int]:
    rows, columns = _plane(graph)
    return rows // 2, columns // 2


def _sample_queries(graph: Any) -> list[tuple[int, int]]:
    rows, columns = _plane(graph)
    return [(0, 0), (0, columns // 2), _middle(graph)][: 3 if rows > 1 else 2]


def _node(graph: Any, query: Any) -> int:
    """Number of a node given by its number or its coordinates."""
    import torch

    rows, columns = _plane(graph)
    place = torch.as_tensor(query).flatten().tolist()
    if len(place) not in (1, 2) or not all(isinstance(n, int) for n in place):
        raise ValueError(f"a query must be a node's number or (y, x), got {query!r}")
    y, x = place if len(place) == 2 else divmod(place[0], columns)
    if not (0 <= y < rows and 0 <= x < columns):
        raise ValueError(f"query {query} lies outside of the grid {graph.shape}")
    return int(y * columns + x)


def _keys(graph: Any, node: int) -> list[int]:
    """Keys of one node."""
    csr = graph.to_csr()
    keys: list[int] = csr.indices[csr.indptr[node] : csr.indptr[node + 1]].tolist()
    return keys


def _same_keys(graph: Any, keys: list[int]) -> list[int]:
    """All nodes whose keys are ``keys``."""
    import torch

    csr, wanted = graph.to_csr(), torch.tensor(keys)
    alike = (csr.indptr.diff() == len(keys)).nonzero().squeeze(1)
    theirs = csr.indices[csr.indptr[alike][:, None] + torch.arange(len(keys))]
    found: list[int] = alike[(theirs == wanted).all(1)].tolist()
    return found
