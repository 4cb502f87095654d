"""The training loop and what it leaves behind: stages, checkpoints, logs, evaluation."""
