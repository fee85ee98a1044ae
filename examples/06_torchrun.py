"""One script for one process and for several: LargeGT or a graph transformer in mini-batches.

Run: python examples/06_torchrun.py --out runs/one
     torchrun --nproc-per-node 2 examples/06_torchrun.py --out runs/two
Every process takes its part of each global batch, gradients are those of the whole batch, and
evaluation is exact; only the first process writes. The same from the shell:
torchrun --nproc-per-node 2 -m graphattn.cli train --model large-gt --out runs/two
"""

import argparse
import os
from pathlib import Path

from graphattn.training.config_file import from_dict
from graphattn.training.run import train_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="minesweeper-generated", help="data set or store folder")
    parser.add_argument("--root", default="data")
    parser.add_argument("--model", default="gt-sep", choices=("gt", "gt-sep", "large-gt"))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=1024, help="seeds per step, of all processes")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("runs/torchrun"))
    arguments = parser.parse_args()
    large = arguments.model == "large-gt"
    config = from_dict(
        {
            "data": {"name": arguments.data, "root": arguments.root},
            "model": {
                "name": arguments.model,
                "layers": 1 if large else 2,
                "width": arguments.width,
                "heads": 2,
                "norm": "layer",
            },
            "encoding": {"kind": "laplacian" if large else "none", "k": 8, "tol": 1e-2},
            "sampling": {
                "batch_size": arguments.batch,
                "num_neighbors": [10, 10],
                "tokens": 10,
            },
            "optim": {"lr": 3e-3},
            "loop": {"epochs": arguments.epochs},
        }
    )
    result = train_run(config, arguments.out)
    if os.environ.get("RANK", "0") == "0":
        print(
            f"{result['data']}: {result['metric']} validation {result['valid']:.4f}, "
            f"test {result['test']:.4f}, {result['seconds_per_epoch']:.2f} s per epoch"
        )


if __name__ == "__main__":
    main()
