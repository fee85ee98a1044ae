"""What the options of GridGraph do, as two pictures: whom one pixel of an image attends to.

Run: python examples/05_grid_pictures.py [--out FOLDER]
"""

import argparse
from pathlib import Path

import graphattn as ga

SHAPE = (13, 13)
MIDDLE, CORNER = (6, 6), (1, 1)
WINDOWS = {
    "kernel_size=5": ga.GridGraph(SHAPE, 5),
    "kernel_size=5, dilation=2": ga.GridGraph(SHAPE, 5, dilation=2),
    "kernel_size=5, stride=3": ga.GridGraph(SHAPE, 5, stride=3),
    "is_causal=(True, False)": ga.GridGraph(SHAPE, 5, is_causal=(True, False)),
}
BORDERS = {
    'border="clamp"': ga.GridGraph(SHAPE, 5),
    'border="truncate"': ga.GridGraph(SHAPE, 5, border="truncate"),
    'border="wrap"': ga.GridGraph(SHAPE, 5, border="wrap"),
    "grid_blocks(shape, 5, shift=3)": ga.grid_blocks(SHAPE, 5, shift=3),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "pictures")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    for name, graphs, query in (
        ("grid_windows.png", WINDOWS, MIDDLE),
        ("grid_borders.png", BORDERS, CORNER),
    ):
        queries = [query] * len(graphs)
        figure = ga.plots.grid_window(list(graphs.values()), queries, list(graphs))
        figure.savefig(folder / name, dpi=160)
        print(f"wrote {folder / name}")


if __name__ == "__main__":
    main()
