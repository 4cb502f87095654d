"""The training loop, environments, rollouts, evaluation, checkpoints and logs."""
