"""Two gloo processes against one: same parameters, same outputs, no hang when one dies."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from graphattn.graph.partition import partition
from graphattn.training.config import TrainConfig
from graphattn.training.config_file import write_config
from graphattn.training.inputs import graph_of, load_nodes
from graphattn.training.partition import to_store
from graphattn.training.shares import owners, part_places
from tests.training.rank_worker import three_steps

ROOT = Path(__file__).parents[2]


def launch(processes: int, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Under torchrun, as a user would."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={processes}", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)


@pytest.mark.parametrize("model", [pytest.param("gt-sep", marks=pytest.mark.slow), "large-gt"])
def test_two_processes_equal_one(config: TrainConfig, tmp_path: Path, model: str) -> None:
    config.model.name, config.model.dropout, config.model.norm = model, 0.0, "layer"
    config.optim.name, config.optim.lr = "sgd", 0.1
    config.sampling.batch_size = 19  # shards of 10 and 9
    # A drawn neighbourhood depends on the other seeds of its shard; a whole one does not.
    config.sampling.num_neighbors, config.sampling.tokens = [-1, -1], 4
    if model == "large-gt":
        config.model.layers = 1
        config.model.options = {"num_codes": 8, "block_dropout": 0.0, "global_dim": 8}
    write_config(config, tmp_path / "config.yaml")
    check_equal(two_processes(tmp_path), three_steps(config))


@pytest.mark.parametrize("stored", [pytest.param(False, marks=pytest.mark.slow), True])
def test_ranks_take_the_seeds_of_their_own_parts(
    config: TrainConfig, tmp_path: Path, stored: bool
) -> None:
    config.model.name, config.model.dropout, config.model.norm = "gt-sep", 0.0, "layer"
    config.optim.name, config.optim.lr = "sgd", 0.1
    config.sampling.batch_size, config.sampling.num_neighbors = 19, [-1, -1]
    config.sampling.parts = 5
    dataset = load_nodes(config.data)
    part = partition(graph_of(dataset), 5)
    if stored:
        to_store(dataset, tmp_path / "store", dtype="fp32", parts=5)
        config.data.root, config.data.name = str(tmp_path), "store"
    write_config(config, tmp_path / "config.yaml")
    train = dataset.splits[0]["train"]
    steps = part_places(owners(part, train, 2), 2, 19, config.loop.seed, 0)
    taken = [set(part[train[torch.cat(pieces)]].tolist()) for pieces in zip(*steps, strict=True)]
    assert not taken[0] & taken[1] and len({len(pieces[0]) for pieces in steps}) <= 2
    places = [torch.cat(pieces) for pieces in steps]
    check_equal(two_processes(tmp_path), three_steps(config, places=places))


def two_processes(folder: Path) -> dict[str, Any]:
    """What rank 0 of two has after three steps of ``config.yaml`` in ``folder``."""
    worker = ROOT / "tests/training/rank_worker.py"
    done = launch(2, worker, folder / "config.yaml", folder / "two.pt")
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = torch.load(folder / "two.pt", weights_only=True)
    return found


def check_equal(two: dict[str, Any], one: dict[str, Any]) -> None:
    for key, value in one["model"].items():
        torch.testing.assert_close(two["model"][key], value, rtol=1e-6, atol=1e-8, msg=key)
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-6)
    torch.testing.assert_close(two["outputs"], one["outputs"], rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_a_dead_rank_ends_the_run(config: TrainConfig, tmp_path: Path) -> None:
    config.sampling.batch_size, config.sampling.num_neighbors = 19, [3, 2]
    write_config(config, tmp_path / "config.yaml")
    worker = ROOT / "tests/training/rank_worker.py"
    done = launch(2, worker, tmp_path / "config.yaml", tmp_path / "out.pt", "DIE")
    assert done.returncode != 0
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.slow
def test_a_terminated_rank_ends_the_other(config: TrainConfig, tmp_path: Path) -> None:
    """Without torchrun, which would end it: the next sum finds the connection closed."""
    config.sampling.batch_size, config.sampling.num_neighbors = 19, [3, 2]
    write_config(config, tmp_path / "config.yaml")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    worker = ROOT / "tests/training/rank_worker.py"
    command = [sys.executable, worker, tmp_path / "config.yaml", tmp_path / "out.pt", "TERM"]
    ranks = [
        subprocess.Popen(
            command, env=environment | {"RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE
        )
        for rank in "01"
    ]
    try:
        assert ranks[1].wait(120) == -signal.SIGTERM
        _, error = ranks[0].communicate(timeout=30)
    finally:
        for process in ranks:
            process.kill()
            process.communicate()
    assert ranks[0].returncode == 1 and b"RuntimeError" in error
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.slow
def test_the_command_line_runs_in_two_processes(tmp_path: Path) -> None:
    example = ROOT / "examples/06_torchrun.py"
    arguments = ["--epochs", "1", "--width", "16", "--out", tmp_path / "run"]
    done = launch(2, example, *arguments)
    assert done.returncode == 0, done.stderr
    assert "test 0." in done.stdout
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) >= ["best.safetensors"]
    full = launch(2, "-m", "graphattn.cli", "train", "--out", tmp_path / "full")
    assert "would all repeat the same full-graph step" in full.stderr
