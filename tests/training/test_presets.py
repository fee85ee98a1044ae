import pytest

from graphattn.training.config_file import known_keys
from graphattn.training.presets import _TUNED, preset


def test_every_preset_sets_known_settings_only() -> None:
    pairs = [*_TUNED, ("minesweeper-generated", "gt"), ("Cora", "gt-sep"), ("tolokers", "gt")]
    for data, model in pairs:
        assert set(preset(data, model)) <= set(known_keys())


@pytest.mark.parametrize(
    ("data", "model", "layers", "width", "lr", "epochs"),
    [
        ("minesweeper", "gcn", 12, 64, 1e-2, 2000),
        ("minesweeper-generated", "gcn", 12, 64, 1e-2, 2000),
        ("minesweeper-generated", "gt", 6, 64, 3e-3, 150),
        ("Roman_Empire", "gt-sep", 3, 512, 3e-5, 1000),
        ("chameleon_filtered", "sage", 4, 256, 1e-2, 200),
        ("Cora", "gat", 3, 512, 1e-3, 500),
    ],
)
def test_published_lines(
    data: str, model: str, layers: int, width: int, lr: float, epochs: int
) -> None:
    found = preset(data, model)
    assert (found["model.layers"], found["model.width"]) == (layers, width)
    assert (found["optim.lr"], found["loop.epochs"]) == (lr, epochs)


def test_unknown_data_keeps_the_defaults() -> None:
    assert preset("my-folder", "gt") == {}
    assert preset("my-folder", "gat") == {"model.heads": 1}
    assert preset("arxiv", "gt") == {"data.undirected": True}
