"""Benchmarks: ``python examples/bench/run.py --only attention --device cpu``.

Correctness is checked before timing, contestants take turns, and every figure stands beside its
peer and its byte bound. Results go to ``examples/bench/results``.
"""

import argparse
from importlib import import_module

import report

# Family: the file beside this one that has its ``run``, imported when its turn comes.
FAMILIES = {
    "attention": "attention",
    "kernels": "kernels",
    "options": "options",
    "graphs": "graphs",
    "grid": "grid",
    "volumes": "volumes",
    "layers": "layers",
    "accuracy": "accuracy",
    "large-gt": "large_gt",
    "codebook": "codebook",
    "graph-level": "graph_level",
    "node-level": "node_level",
    "sparsity": "sparsity",
    "minesweeper": "minesweeper",
    "sampling": "sampling",
    "out-of-core": "out_of_core",
    "products-tokens": "products_tokens",
    "arxiv-shaped": "arxiv_shaped",
    "encodings": "encodings_at_scale",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=FAMILIES, help="one family instead of all")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds per workload")
    parser.add_argument("--eager", action="store_true", help="leave out the compiled peers")
    arguments = parser.parse_args()
    for family, module in FAMILIES.items():
        if arguments.only in (None, family):
            run = import_module(module).run
            timed, compiled = (arguments.device, arguments.repeats), not arguments.eager
            rows, notes = run(*timed, compiled)
            if rows:
                path = report.write(family, *timed, rows, notes, compiled)
                print(path.read_text())
            else:
                print(f"{family}: {'; '.join(notes)}")


if __name__ == "__main__":
    main()
