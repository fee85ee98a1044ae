import os
import subprocess
import sys

import pytest
import torch

from graphattn.training.build import prepare
from graphattn.training.config import TrainConfig
from graphattn.training.inputs import load_nodes
from graphattn.training.memory import training_bytes


def saved_bytes(config: TrainConfig) -> int:
    """Bytes of all distinct tensors that one forward pass keeps for backward, parameters aside."""
    run = prepare(config)
    own = {p.untyped_storage().data_ptr() for p in run.model.parameters()}
    seen: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.layout == torch.strided and tensor.is_floating_point():
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    run.model.train()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run.model(run.inputs.x, run.inputs.graph, run.inputs.pe).sum()
    return sum(size for pointer, size in seen.items() if pointer not in own)


@pytest.mark.parametrize("model", ["gt", "gt-sep", "gcn", "sage", "gat"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_activations_are_what_backward_keeps(
    config: TrainConfig, model: str, dropout: float
) -> None:
    config.model.name, config.model.options = model, {}
    config.model.layers, config.model.width, config.model.dropout = 6, 64, dropout
    estimate = training_bytes(config, load_nodes(config.data))["activations"]
    assert estimate / 1.4 < saved_bytes(config) < estimate * 1.4


def test_parameters_are_counted_without_allocating(config: TrainConfig) -> None:
    config.model.width = 4096
    need = training_bytes(config, load_nodes(config.data))
    assert need["parameters"] > 2**30
    config.loop.precision = "bf16"
    halved = training_bytes(config, load_nodes(config.data))
    assert halved["activations"] * 2 == need["activations"]


_CHILD = """
import sys
import torch
from graphattn.datasets.generated import minesweeper
from graphattn.training.build import prepare
from graphattn.training.config_file import from_dict
from graphattn.training.hardware import peak_memory
from graphattn.training.loop import Trainer
from graphattn.training.memory import training_bytes

def config(size, name, width, layers):
    model = {"name": name, "width": width, "layers": layers, "heads": 4, "dropout": 0.2}
    return from_dict({"model": model, "loop": {"device": "cpu"}})

def epochs(own, dataset):
    run = prepare(own, dataset)
    trainer = Trainer(run.model, run.inputs, run.supervision, own)
    trainer.run_epoch()
    trainer.run_epoch()

name = sys.argv[1]
epochs(config(20, name, 16, 1), minesweeper(0, 20, 20, 80))  # libraries and compiled kernels
before = peak_memory(torch.device("cpu"))
dataset = minesweeper(0, 180, 170, 6000)
own = config(170, name, 64, 4)
epochs(own, dataset)
print(peak_memory(torch.device("cpu")) - before, sum(training_bytes(own, dataset).values()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("model", ["gt", "gcn", "gat"])
def test_peak_within_a_factor_of_two(model: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, model],
        env=os.environ | {"MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    measured, estimate = map(int, done.stdout.split())
    assert estimate / 2 < measured < estimate * 2, (measured / 2**20, estimate / 2**20)
