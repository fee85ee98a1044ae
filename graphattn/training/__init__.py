"""Training: configuration, loop, checkpoints, evaluation and the published protocols."""
