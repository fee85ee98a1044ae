"""CIFAR-10: one small network with neighbourhood attention, Swin's windows and dense attention.

Only the graph differs. Run: python examples/05_grid_vision.py --root data/images/cifar10_jpg
The folder holds train and test (or train.zip and test.zip) with a folder of images per class;
where it holds neither, torchvision's CIFAR10 is read from there, and downloaded to there.

Test accuracy on all 10,000 test images after --train 10000 --test 10000 --epochs 6, seed 0:
neighborhood 0.454, dense 0.404, windows 0.379. One seed and a small budget: a ranking takes more
seeds and --train 50000 --epochs 30, which are hours on a CPU.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

import graphattn as ga
from graphattn.datasets.images import Images, load_images


def load(root: Path, split: str, limit: int) -> Images:
    for path in (root / split, (root / split).with_suffix(".zip")):
        if path.exists():
            return load_images(path, limit)
    try:
        from torchvision.datasets import CIFAR10
    except ImportError as error:
        raise SystemExit(
            f"expected {split} or {split}.zip in {root}, found neither; put images there, or "
            "pip install torchvision, whose CIFAR10 is then downloaded"
        ) from error
    whole = CIFAR10(root, train=split == "train", download=True)
    chosen = torch.randperm(len(whole.data), generator=torch.Generator().manual_seed(0))[:limit]
    pixels = torch.from_numpy(whole.data)[chosen].permute(0, 3, 1, 2).contiguous()
    return Images(pixels, torch.tensor(whole.targets)[chosen], tuple(whole.classes))


def prepare(pixels: Tensor, training: bool) -> Tensor:
    """Normalised images; in training mirrored and shifted at random."""
    images = (pixels.float() - 120.0) / 64.0
    if not training:
        return images
    images = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(3), images)
    dy, dx = torch.randint(-3, 4, (2,)).tolist()
    return images.roll((dy, dx), (2, 3))


def make_model(attention: str, classes: int, width: int, impl: str) -> torch.nn.Module:
    """Grids of 16 x 16 and 8 x 8 with windows of 5; 31 x 31 and 15 x 15 see everything."""
    return ga.models.NeighborhoodTransformer(
        classes, embed_dim=width, depths=(2, 2), num_heads=(2, 4), kernel_size=5, img_size=32,
        stem_strides=(1, 2), attention=attention, dilations=[(1, 2), (1, 1)], impl=impl,
    )  # fmt: skip


@torch.no_grad()
def accuracy(model: torch.nn.Module, data: Images, batch: int) -> float:
    model.eval()
    hits = 0
    for pixels, labels in zip(data.pixels.split(batch), data.labels.split(batch), strict=True):
        hits += int((model(prepare(pixels, False)).argmax(1) == labels).sum())
    return hits / len(data.labels)


def train(attention: str, train_set: Images, options: argparse.Namespace) -> torch.nn.Module:
    torch.manual_seed(options.seed)
    model = make_model(attention, len(train_set.classes), options.width, options.impl)
    batches = -(-len(train_set.labels) // options.batch)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.lr, total_steps=options.epochs * batches, pct_start=0.2
    )
    with tqdm(total=options.epochs * batches, desc=attention) as progress:
        for _ in range(options.epochs):
            model.train()
            for part in torch.randperm(len(train_set.labels)).split(options.batch):
                optimizer.zero_grad()
                logits = model(prepare(train_set.pixels[part], True))
                loss = F.cross_entropy(logits, train_set.labels[part], label_smoothing=0.1)
                loss.backward()
                # Without it windows fall back to chance at the largest learning rates.
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                progress.update()
                progress.set_postfix(loss=f"{loss.item():.2f}")
    return model


def draw(model: torch.nn.Module, data: Images, path: Path) -> None:
    """Where the first layer looks from the middle of an image."""
    layer = model.levels[0].blocks[0]
    with torch.no_grad():
        x = layer.norm1(model.patch_embed(prepare(data.pixels[:1], False).permute(0, 2, 3, 1)))
        query, key, _ = layer.attn.qkv(x).view(x.shape[1] * x.shape[2], 3, 2, -1).unbind(1)
        graph = layer.attn.graph(tuple(x.shape[1:3]), x.device)
        bias = ga.TableBias(layer.attn.rpb.flatten(1))
        weights = ga.attention_weights(query, key, graph, bias=bias)
    image = data.pixels[0].permute(1, 2, 0) / 255.0
    ga.plots.attention_map(graph, weights, (8, 8), image).savefig(path)
    print(f"attention of the middle pixel: {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("data/cifar10"))
    parser.add_argument("--attention", nargs="+", default=["neighborhood", "windows", "dense"])
    parser.add_argument("--train", type=int, default=10_000, help="training images")
    parser.add_argument("--test", type=int, default=5_000, help="test images")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--impl", default="auto", help="implementation of the attention")
    parser.add_argument("--picture", type=Path, help="write an attention map there")
    options = parser.parse_args()
    train_set = load(options.root, "train", options.train)
    test_set = load(options.root, "test", options.test)
    print(f"{len(train_set.labels)} training images, {options.epochs} epochs, {options.width} wide")
    for attention in options.attention:
        start = time.perf_counter()
        model = train(attention, train_set, options)
        seconds = time.perf_counter() - start
        score = accuracy(model, test_set, 500)
        print(f"{attention}: test accuracy {score:.3f}, trained in {seconds:.0f} s")
        if options.picture is not None and attention == "neighborhood":
            draw(model, test_set, options.picture)


if __name__ == "__main__":
    main()
