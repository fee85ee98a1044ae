import json
from pathlib import Path

import pytest
import torch

from graphattn import GridGraph
from graphattn.plots import attention_map, grid_window, training_curves


def test_training_curves(tmp_path: Path) -> None:
    lines = [{"epoch": 1, "loss": 0.7}, {"epoch": 2, "loss": 0.5, "train": 0.6, "valid": 0.55}]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"epoch": 3, "lo'
    (tmp_path / "metrics.jsonl").write_text(text)
    figure = training_curves(tmp_path)
    left, right = figure.axes
    assert list(left.lines[0].get_ydata()) == [0.7, 0.5]
    assert [line.get_label() for line in right.lines] == ["train", "valid"]
    figure.savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_finished_run_names_metric_and_best_epoch(tmp_path: Path) -> None:
    lines = [{"epoch": e, "loss": 0.7, "train": 0.6, "valid": 0.5} for e in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = {"metric": "rocauc", "best_epoch": 1, "epochs": 2}
    (tmp_path / "result.json").write_text(json.dumps(result))
    right = training_curves(tmp_path).axes[1]
    assert right.get_ylabel() == "rocauc"
    assert right.lines[-1].get_label() == "best epoch 1"
    assert all(float(tick).is_integer() for tick in right.get_xticks())
    (tmp_path / "result.json").write_text(json.dumps(result | {"epochs": 1}))  # resumed since
    assert training_curves(tmp_path).axes[1].get_ylabel() == "score"


def test_nothing_recorded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="records no epoch"):
        training_curves(tmp_path)


def test_grid_window_colours_the_query_and_its_keys(tmp_path: Path) -> None:
    graph = GridGraph((5, 6), 3)
    figure = grid_window(graph)
    corner = figure.axes[0].collections[0].get_array().reshape(5, 6)
    assert corner[0, 0] == 2 and (corner[:3, :3] > 0).all() and corner.sum() == 10
    assert len(figure.axes) == 3
    assert [a.get_title() for a in grid_window([graph, GridGraph(7, 3)], titles="ab").axes] == [
        "a",
        "b",
    ]
    assert not figure.axes[2].lines, "nothing shares the window of the middle"
    shared = figure.axes[0].lines[0].get_xydata().tolist()
    assert shared == [[1.5, 0.5], [0.5, 1.5], [1.5, 1.5]]  # moved there by the border
    figure.savefig(tmp_path / "window.png")
    assert (tmp_path / "window.png").stat().st_size > 1000
    with pytest.raises(ValueError, match=r"query \(5, 0\) lies outside"):
        grid_window(graph, [(5, 0)])
    assert len(grid_window(graph, (2, 3)).axes) == 1  # one coordinate, not two numbers
    for wrong in ([(1, 2, 3)], [1.5], []):
        with pytest.raises(ValueError, match=r"number or \(y, x\)|at least, got none"):
            grid_window(graph, wrong)
    line = [a.get_title() for a in grid_window(GridGraph(7, 3)).axes]
    assert line == ["query (0, 0)", "query (0, 3)"]  # its end and its middle
    with pytest.raises(ValueError, match="one for each panel, got 1, 1 and 2"):
        grid_window(graph, [(0, 0)], titles="ab")
    with pytest.raises(ValueError, match="draw a slice"):
        grid_window(GridGraph((3, 3, 3), 3))


def test_attention_map_places_the_weights_of_one_query() -> None:
    graph = GridGraph((4, 5), 3, border="truncate")
    weights = torch.rand(graph.num_edges, 2)
    figure = attention_map(graph, weights, (0, 1), image=torch.rand(8, 10))
    first = int(graph.degree()[0])
    drawn = figure.axes[1].images[1].get_array()
    assert drawn[:2, :3].ravel().tolist() == pytest.approx(weights[first : first + 6, 1].tolist())
    assert drawn.sum() == pytest.approx(float(weights[first : first + 6, 1].sum()))
    assert len(attention_map(graph, weights[:, 0], 7).axes) == 1
    assert len(attention_map(graph, weights.bfloat16(), 7).axes) == weights.shape[1]
    with pytest.raises(ValueError, match="with E = "):
        attention_map(graph, weights[1:], 0)
