"""Images in folders named by class, from a directory or a zip archive, as tensors.

CIFAR-10 as JPEG files (``train.zip``, ``test.zip`` with ``<split>/<class>/<number>.jpg``) is the
case at hand; JPEG is lossy, so its pixels are not those of the original CIFAR-10.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

_ENDINGS = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Images:
    """Pixels [N, 3, H, W] uint8, labels [N] int64, and the names that the labels stand for."""

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]


def load_images(path: str | Path, limit: int | None = None, seed: int = 0) -> Images:
    """Decode images of one size, in the order of their names.

    Args:
        path: Folder or zip archive with files ``.../<class>/<file>``.
        limit: Take this many, drawn with ``seed``, instead of all.
        seed: Of the draw.

    Raises:
        ValueError: no image is found, sizes differ, a file is damaged or ``limit`` is below 1.
        FileNotFoundError: there is no such folder or archive.
        ImportError: Pillow is not installed (extra ``vision``).
    """
    names, source = _source(Path(path))
    if not names:
        raise ValueError(f"{path} holds no image {' or '.join(_ENDINGS)} in a folder per class")
    classes = sorted({PurePosixPath(name).parent.name for name in names})
    if limit is not None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1 or None, got {limit}")
        order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
        names = [names[i] for i in order[:limit].sort().values.tolist()]
    labels = torch.tensor([classes.index(PurePosixPath(name).parent.name) for name in names])
    return Images(_decoded(names, source), labels, tuple(classes))


def _source(path: Path) -> tuple[list[str], Path | zipfile.ZipFile]:
    """Names of the images, and where they are."""
    if path.is_dir():
        files = (str(p.relative_to(path).as_posix()) for p in path.rglob("*"))
        return sorted(f for f in files if f.lower().endswith(_ENDINGS)), path
    if not path.exists():
        raise FileNotFoundError(f"no folder or archive {path}")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a zip archive; fetch it again")
    archive = zipfile.ZipFile(path)
    return sorted(n for n in archive.namelist() if n.lower().endswith(_ENDINGS)), archive


def _decoded(names: list[str], source: Path | zipfile.ZipFile) -> Tensor:
    import numpy as np
    from PIL import Image, UnidentifiedImageError
    from tqdm import tqdm

    pixels: Tensor | None = None
    for n, raw in enumerate(tqdm(_bytes(names, source), "images", len(names), leave=False)):
        try:
            image = torch.from_numpy(np.array(Image.open(io.BytesIO(raw)).convert("RGB")))
        except (UnidentifiedImageError, OSError) as damage:
            raise ValueError(f"{names[n]} is damaged: {damage}") from damage
        if pixels is None:
            pixels = torch.empty(len(names), *image.shape, dtype=torch.uint8)
        if image.shape != pixels.shape[1:]:
            raise ValueError(
                f"images must have one size, {names[0]} is {tuple(pixels.shape[1:3])} and "
                f"{names[n]} is {tuple(image.shape[:2])}; resize them first"
            )
        pixels[n] = image
    assert pixels is not None
    return pixels.permute(0, 3, 1, 2).contiguous()


def _bytes(names: list[str], source: object) -> Iterator[bytes]:
    for name in names:
        yield (
            source.read(name)
            if isinstance(source, zipfile.ZipFile)
            else (Path(str(source)) / name).read_bytes()
        )
