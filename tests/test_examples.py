"""Every example script and README snippet runs as a user would run it."""

import os
import re
import runpy
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.datasets.ogb_layout import write_arxiv
from tests.datasets.test_images import write_images

ROOT = Path(__file__).parents[1]


def run_example(name: str, *arguments: str | Path, cwd: Path) -> str:
    command = [sys.executable, ROOT / "examples" / name, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_first_layer(tmp_path: Path) -> None:
    printed = run_example("01_first_layer.py", cwd=tmp_path)
    assert "largest difference to PyG" in printed
    assert "slope has a gradient: True" in printed


@pytest.mark.shared_data
def test_cora(tmp_path: Path, data_root: Path) -> None:
    arguments = ("--root", data_root / "planetoid", "--epochs", "60")
    printed = run_example("02_cora.py", *arguments, cwd=tmp_path)
    score = re.search(r"test accuracy (0\.\d+)", printed)
    assert score is not None, printed
    assert float(score[1]) > 0.7


@pytest.mark.filterwarnings("ignore:.*training:UserWarning")
def test_ogbn_arxiv_on_a_small_folder_in_its_layout(tmp_path: Path) -> None:
    write_arxiv(tmp_path / "data")
    arguments = ("--root", tmp_path / "data", "--epochs", "3", "--width", "16", "--layers", "1")
    printed = run_example("03_ogbn_arxiv.py", *arguments, cwd=tmp_path)
    assert re.search(r"ogbn-arxiv .*acc validation 0\.\d+, test \d\.\d+", printed), printed
    assert (tmp_path / "runs/ogbn-arxiv/best.safetensors").exists()


def test_grid_vision_on_a_few_images(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_images(tmp_path / "images" / split, count=2, size=(32, 32))
    options = ("--epochs", "1", "--batch", "4", "--width", "8", "--impl", "reference")
    picture = ("--picture", "map.png")
    printed = run_example(
        "05_grid_vision.py", "--root", tmp_path / "images", *options, *picture, cwd=tmp_path
    )
    for attention in ("neighborhood", "windows", "dense"):
        score = re.search(rf"{attention}: test accuracy (\d\.\d+)", printed)
        assert score is not None, printed
    assert (tmp_path / "map.png").stat().st_size > 1000


def test_grid_vision_takes_torchvisions_cifar10(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in that has its attributes; without torchvision the message says what to do."""
    example = runpy.run_path(str(ROOT / "examples" / "05_grid_vision.py"))

    class CIFAR10:
        classes = ["cat", "dog"]

        def __init__(self, root: Path, train: bool, download: bool) -> None:
            assert download and root == tmp_path
            self.data = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
            self.targets = [0, 1, 0, 1, 1, int(train)]

    vision = types.ModuleType("torchvision")
    vision.datasets = types.ModuleType("torchvision.datasets")  # type: ignore[attr-defined]
    vision.datasets.CIFAR10 = CIFAR10  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", vision)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", vision.datasets)
    found = example["load"](tmp_path, "train", 4)
    assert found.pixels.shape == (4, 3, 32, 32) and found.classes == ("cat", "dog")
    whole = CIFAR10(tmp_path, True, True)
    for pixels, label in zip(found.pixels, found.labels, strict=True):
        place = next(
            n for n in range(6) if (whole.data[n] == pixels.permute(1, 2, 0).numpy()).all()
        )
        assert whole.targets[place] == label
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(SystemExit, match="found neither; .*pip install torchvision"):
        example["load"](tmp_path, "test", 4)


def test_grid_pictures_are_those_of_the_readme(tmp_path: Path) -> None:
    """Drawn anew they have the size of the pictures that are kept, which are small files."""
    run_example("05_grid_pictures.py", "--out", tmp_path, cwd=tmp_path)
    kept = ROOT / "examples" / "pictures"
    for name in ("grid_windows.png", "grid_borders.png"):
        sizes = [(folder / name).read_bytes()[16:24] for folder in (tmp_path, kept)]
        assert sizes[0] == sizes[1] and (kept / name).stat().st_size < 150_000


def check_minesweeper(printed: str, name: str) -> None:
    assert f"has the 88804 edges of {name}: True" in printed
    gap = re.search(r"difference of a logit: (\S+)", printed)
    assert gap is not None and float(gap[1]) < 1e-4


def test_grid_minesweeper(tmp_path: Path) -> None:
    name = "minesweeper-generated"
    arguments = ("--data", name, "--epochs", "1")
    check_minesweeper(run_example("05_grid_minesweeper.py", *arguments, cwd=tmp_path), name)


@pytest.mark.slow
@pytest.mark.shared_data
def test_grid_minesweeper_on_the_published_board(tmp_path: Path, data_root: Path) -> None:
    arguments = ("--root", data_root / "heterophilous", "--epochs", "5")
    printed = run_example("05_grid_minesweeper.py", *arguments, cwd=tmp_path)
    check_minesweeper(printed, "minesweeper")


def test_sparse_gin_adapter(tmp_path: Path) -> None:
    printed = run_example("07_sparse_gin_adapter.py", "--steps", "2", "--seeds", "1", cwd=tmp_path)
    assert re.search(r"LoRA +19584 +\d\.\d+", printed) and re.search(r"Sparse-GIN +19116", printed)
    assert (tmp_path / "adapter.png").exists()


def test_readme_snippets() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 3
    scope = {
        "x": torch.randn(30, 64),
        "edge_index": torch.randint(0, 30, (2, 90)),
        "edge_attr": torch.randn(90, 8),
    }
    exec(blocks[0] + blocks[1], scope)  # the third one needs ogbn-arxiv
    layer = scope["DistanceAttention"](64, 4)  # type: ignore[operator]
    assert layer(scope["x"], scope["edge_index"], torch.rand(90)).shape == (30, 64)
    assert scope["out"].shape == (30, 64)
