"""Fine-tune a small causal transformer: Sparse-GIN adapter, LoRA of its size, and nothing.

The transformer is pretrained here, on sentences of a small grammar, and then meets another grammar
of the same letters. Three seeds; a table of validation loss and generalisation gap, and a picture.
LoRA of the same size reaches the lower loss here, and the smaller gap.

Run: python examples/07_sparse_gin_adapter.py [--steps 400] [--out adapter.png]
"""

import argparse
import copy
import random
from collections.abc import Callable

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from graphattn.nn import SparseGINAdapter
from graphattn.nn.sparse_gin_adapter import depth_scales

LETTERS = " .abcdefghijklmnopqrstuvwxyz"
HEADS, LAYERS, LENGTH, BATCH = 4, 3, 48, 16
PAST = {
    "who": "the old baker|a young sailor|the quiet weaver|my neighbour|the tall gardener",
    "does": "carried|painted|lost|found|sold",
    "what": "a red boat|two loaves|the broken clock|some linen|a basket of pears",
    "where": "near the harbour|behind the mill|at the market|under the bridge",
}
FUTURE = {
    "who": "every node|a lazy router|this graph|the second head|our sampler",
    "does": "will visit|will forget|will weigh|will merge|will prune",
    "what": "its sources|the longest row|all edges|one message|a few keys",
    "where": "before noon|without noise|in order|after training",
}


class CausalAttention(nn.Module):
    """Pre-norm causal attention on the residual stream; returns its weights too."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.lin_qkv = nn.Linear(width, 3 * width)
        self.lin_out = nn.Linear(width, width)

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, D] -> [B, T, D], weights [B, H, T, T]."""
        length = hidden_states.shape[1]
        split = self.lin_qkv(self.norm(hidden_states)).unflatten(-1, (3, HEADS, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)
        logit = query @ key.mT / query.shape[-1] ** 0.5
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        weights = logit.masked_fill(future, -torch.inf).softmax(-1)
        return self.lin_out((weights @ value).transpose(1, 2).flatten(2)), weights


class Language(nn.Module):
    """A decoder-only transformer over letters."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.letters = nn.Embedding(len(LETTERS), width)
        self.places = nn.Embedding(LENGTH, width)
        self.attentions = nn.ModuleList(CausalAttention(width) for _ in range(LAYERS))
        self.feed_forwards = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(),
                nn.Linear(4 * width, width),
            )
            for _ in range(LAYERS)
        )  # fmt: skip
        self.lin_out = nn.Linear(width, len(LETTERS))

    def forward(self, text: Tensor) -> Tensor:
        """Letters [B, T] -> logits [B, T, letters]."""
        h = self.letters(text) + self.places.weight[: text.shape[1]]
        for attend, feed_forward in zip(self.attentions, self.feed_forwards, strict=True):
            h = h + attend(h)[0]
            h = h + feed_forward(h)
        return self.lin_out(h)


class LoRA(nn.Module):
    """A frozen linear map plus a product of two thin ones (Hu et al., 2021)."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.down = nn.Linear(linear.in_features, rank, bias=False)
        self.up = nn.Linear(rank, linear.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The same map until the thin one has learned something."""
        return self.linear(x) + self.up(self.down(x))


def sentences(grammar: dict[str, str], count: int, seed: int) -> Tensor:
    """Text of ``count`` letters as indices."""
    draw, text = random.Random(seed), ""
    while len(text) < count:
        text += " ".join(draw.choice(words.split("|")) for words in grammar.values()) + ". "
    return torch.tensor([LETTERS.index(letter) for letter in text[:count]])


def batch_of(text: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random pieces of the text and the letters that follow."""
    start = torch.randint(len(text) - LENGTH - 1, (BATCH, 1), generator=generator)
    piece = text[start + torch.arange(LENGTH + 1)]
    return piece[:, :-1], piece[:, 1:]


def loss_of(model: nn.Module, given: Tensor, wanted: Tensor) -> Tensor:
    """Cross entropy per letter."""
    return F.cross_entropy(model(given).flatten(0, 1), wanted.flatten())


def train(model: nn.Module, text: Tensor, steps: int, lr: float, seed: int, name: str) -> None:
    """AdamW on random pieces; the parameters that ask for a gradient."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    model.train()
    for _ in tqdm(range(steps), desc=name, leave=False):
        optimiser.zero_grad()
        loss_of(model, *batch_of(text, generator)).backward()
        optimiser.step()


@torch.no_grad()
def score(model: nn.Module, text: Tensor) -> float:
    """Mean loss over fixed pieces."""
    model.eval()
    generator = torch.Generator().manual_seed(99)
    return sum(float(loss_of(model, *batch_of(text, generator))) for _ in range(8)) / 8


def with_adapter(model: Language) -> Language:
    """Every attention layer with a Sparse-GIN beside it."""
    scales = depth_scales(LAYERS)
    width = model.lin_out.in_features
    for depth, scale in enumerate(scales):
        wrapped = SparseGINAdapter(model.attentions[depth], width, hidden=32, scale=scale)
        model.attentions[depth] = wrapped
    return model


def with_lora(model: Language, rank: int) -> Language:
    """Every attention projection with a LoRA beside it."""
    for attention in model.attentions:
        attention.lin_qkv = LoRA(attention.lin_qkv, rank)
        attention.lin_out = LoRA(attention.lin_out, rank)
    return model


def trainable(model: nn.Module) -> int:
    """Number of parameters that learn."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def draw(rows: list[list[str | float]], path: str) -> None:
    """Validation loss and gap as bars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    names = [str(row[0]) for row in rows]
    for axis, value, spread, title in ((axes[0], 2, 3, "validation loss"), (axes[1], 4, 5, "gap")):
        heights = [float(row[value]) for row in rows]
        axis.bar(names, heights, yerr=[float(row[spread]) for row in rows], capsize=4)
        axis.set_title(title)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400, help="of fine-tuning; pretraining twice")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", default="adapter.png", help="where the picture goes")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    base = Language()
    train(base, sentences(PAST, 60_000, 0), 2 * arguments.steps, 1e-3, 0, "pretraining")
    base.requires_grad_(False)
    rank = round(trainable(with_adapter(copy.deepcopy(base))) / (LAYERS * 6 * 64))
    contestants: dict[str, Callable[[Language], Language]] = {
        "nothing": lambda model: model,
        "LoRA": lambda model: with_lora(model, rank),
        "Sparse-GIN": with_adapter,
    }
    rows: list[list[str | float]] = []
    held_out = sentences(FUTURE, 8_000, 1000)
    for name, change in contestants.items():
        found = []
        for seed in range(arguments.seeds):
            torch.manual_seed(seed)
            model, text = change(copy.deepcopy(base)), sentences(FUTURE, 1_500, seed)
            if trainable(model):
                train(model, text, arguments.steps, 2e-3, seed, f"{name} {seed}")
            valid = score(model, held_out)
            found.append((valid, valid - score(model, text)))
        figures = torch.tensor(found, dtype=torch.float64)
        mean, spread = figures.mean(0), figures.std(0, correction=0)
        size = trainable(change(copy.deepcopy(base)))
        rows.append([name, size, *torch.stack([mean, spread], 1).flatten().tolist()])
    head = ["fine-tuning", "parameters", "validation loss", "+-", "gap", "+-"]
    print(tabulate(rows, headers=head, floatfmt=".3f"))
    draw(rows, arguments.out)


if __name__ == "__main__":
    main()
