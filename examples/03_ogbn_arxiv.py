"""ogbn-arxiv by OGB's rules: official split and evaluator, test score at the best validation.

Run: python examples/03_ogbn_arxiv.py --root data [--epochs 500] [--model gt]
Downloads the set (80 MB) into ROOT/ogbn_arxiv when it is not there. The same from the shell:
graphattn protocol ogbn-arxiv --root data --model gt --seeds 10
"""

import argparse
from pathlib import Path

from graphattn.training.config_file import from_dict
from graphattn.training.run import train_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default="data", help="folder that holds ogbn_arxiv")
    parser.add_argument("--model", default="gt", choices=("gt", "gt-sep", "gcn", "sage", "gat"))
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--out", type=Path, default=Path("runs/ogbn-arxiv"))
    arguments = parser.parse_args()

    config = from_dict(
        {
            # The file lists each citation once, from the citing paper; everyone symmetrises it.
            "data": {"name": "ogbn-arxiv", "root": arguments.root, "undirected": True},
            "model": {
                "name": arguments.model,
                "layers": arguments.layers,
                "width": arguments.width,
                "dropout": 0.3,
            },
            "optim": {"lr": 2e-3, "schedule": "cosine", "warmup": arguments.epochs // 20},
            "loop": {"epochs": arguments.epochs},
        }
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    result = train_run(config, arguments.out)
    print(
        f"{result['data']} ({result['edge_note']}): {result['metric']} validation "
        f"{result['valid']:.4f}, test {result['test']:.4f}, {result['parameters']:,} parameters"
    )


if __name__ == "__main__":
    main()
