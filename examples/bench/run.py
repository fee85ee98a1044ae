"""Benchmarks: ``python examples/bench/run.py --only attention --device cpu``.

Correctness is checked before timing, contestants take turns, and every figure stands beside its
peer and its byte bound. Results go to ``examples/bench/results``.
"""

import argparse

import accuracy
import attention
import encodings_at_scale
import graph_level
import graphs
import grid
import layers
import minesweeper
import options
import out_of_core
import report
import sampling
import sparsity

FAMILIES = {
    "attention": attention.run,
    "options": options.run,
    "graphs": graphs.run,
    "grid": grid.run,
    "layers": layers.run,
    "accuracy": accuracy.run,
    "graph-level": graph_level.run,
    "sparsity": sparsity.run,
    "minesweeper": minesweeper.run,
    "sampling": sampling.run,
    "out-of-core": out_of_core.run,
    "encodings": encodings_at_scale.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=FAMILIES, help="one family instead of all")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=7, help="timed rounds per workload")
    parser.add_argument("--eager", action="store_true", help="leave out the compiled peers")
    arguments = parser.parse_args()
    for family, run in FAMILIES.items():
        if arguments.only in (None, family):
            rows, notes = run(arguments.device, arguments.repeats, not arguments.eager)
            if rows:
                path = report.write(family, arguments.device, arguments.repeats, rows, notes)
                print(path.read_text())
            else:
                print(f"{family}: {'; '.join(notes)}")


if __name__ == "__main__":
    main()
