"""What each process of test_distributed.py does: ``CONFIG.yaml OUT.pt [DIE|TERM]``."""

import itertools
import os
import signal
import sys
from typing import Any

import torch

from graphattn.training.build import prepare
from graphattn.training.config import TrainConfig
from graphattn.training.config_file import read_config
from graphattn.training.distributed import process_group, rank
from graphattn.training.loop import Trainer


def three_steps(
    config: TrainConfig, die: str = "", places: list[torch.Tensor] | None = None
) -> dict[str, Any]:
    """Weights, losses and outputs of all nodes after three steps in float64.

    ``places`` replaces the seeds of the steps.
    """
    run = prepare(config)
    if places is not None:
        run.inputs.places = lambda seeds, epoch: places
    run.model.double()
    run.inputs.x = run.inputs.x.double()
    if getattr(run.inputs, "hops", None) is not None:
        run.inputs.hops = [hop.double() for hop in run.inputs.hops]
    trainer = Trainer(run.model, run.inputs, run.supervision, config)
    trainer.model.train()
    run.inputs.start_epoch(trainer.model, 0)
    losses = []
    for step in itertools.islice(run.inputs.steps(run.supervision.train, 0), 3):
        if die and rank() == 1 and losses:
            os._exit(3) if die == "DIE" else os.kill(os.getpid(), signal.SIGTERM)
        losses.append(trainer._train_step(step)[0])
    outputs = run.inputs.outputs(run.model.eval(), run.model)
    return {"model": run.model.state_dict(), "losses": losses, "outputs": outputs.detach()}


def main() -> None:
    torch.set_num_threads(1)
    with process_group():
        state = three_steps(read_config(sys.argv[1]), *sys.argv[3:])
        if rank() == 0:
            torch.save(state, sys.argv[2])


if __name__ == "__main__":
    main()
