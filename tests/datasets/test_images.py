"""Images by folder or archive: order, limits, damaged and mixed files."""

import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from graphattn.datasets.images import load_images


def write_images(root: Path, count: int = 3, size: tuple[int, int] = (4, 4)) -> Path:
    """PNG files of one shade each, in folders of two classes."""
    for label, name in enumerate(("bird", "cat")):
        (root / name).mkdir(parents=True)
        for n in range(count):
            shade = 100 * label + 10 * n
            Image.new("RGB", size, (shade, 0, 255)).save(root / name / f"{n:04}.png")
    return root


def test_folder_and_archive_give_the_same(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "train")
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as archive:
        for path in folder.rglob("*.png"):
            archive.write(path, path.relative_to(tmp_path))
    for source in (folder, tmp_path / "train.zip"):
        found = load_images(source)
        assert found.classes == ("bird", "cat")
        assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert found.pixels.shape == (6, 3, 4, 4) and found.pixels.dtype == torch.uint8
        assert found.pixels[:, 0, 0, 0].tolist() == [0, 10, 20, 100, 110, 120]
        assert bool((found.pixels[:, 2] == 255).all())


def test_limit_draws_by_the_seed(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "train", count=20)
    first = load_images(folder, limit=7, seed=1)
    assert len(first.labels) == 7 and first.classes == ("bird", "cat")
    assert torch.equal(first.pixels, load_images(folder, limit=7, seed=1).pixels)
    assert not torch.equal(first.pixels, load_images(folder, limit=7, seed=2).pixels)
    assert len(load_images(folder, limit=99).labels) == 40


def test_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        load_images(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no image"):
        load_images(tmp_path / "empty")
    (tmp_path / "broken.zip").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="fetch it again"):
        load_images(tmp_path / "broken.zip")
    folder = write_images(tmp_path / "mixed")
    with pytest.raises(ValueError, match="limit must be at least 1"):
        load_images(folder, limit=0)
    Image.new("RGB", (5, 4)).save(folder / "cat" / "0009.png")
    with pytest.raises(ValueError, match=r"is \(4, 4\) and cat/0009.png is \(4, 5\)"):
        load_images(folder)
    (folder / "cat" / "0009.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="cat/0009.png is damaged"):
        load_images(folder)
