"""`softflow-train`: from demonstrations to a policy, in the stages of an algorithm."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from flows import available_flows
from softflow.cli.command_line import parse_command_line, read_selection, run_main
from softflow.cli.resume import resumed_config
from softflow.runs.assembly import (
    config_class,
    training_layers,
)
from softflow.runs.training import train_run
from softflow.training.config import RunConfig
from softflow.training.run_folder import RunFolder


@partial(run_main, prints_result=False)  # what it prints is of less worth than the run
def main(argv: Sequence[str]) -> None:
    selection = read_selection(RunConfig, argv)
    if selection.resume is None:
        settings = config_class(selection)
        config = parse_command_line(settings, argv, **_command(), layers_for=lambda _: training_layers(selection))
        algo = Path(config.algo).stem
        with RunFolder.create(config.runs, config.env, algo, config.seed, config.run_dir) as folder:
            train_run(config, folder)
    else:
        with RunFolder.resume(selection.resume) as folder:
            train_run(resumed_config(folder, argv, **_command()), folder)


def _command() -> dict[str, str]:
    """What `--help` says above the flags; a package may have brought a flow."""
    flows = ", ".join(available_flows())
    return {
        "prog": "softflow-train",
        "description": "Train a policy over action chunks: imitation, then reinforcement learning.\n"
        f"--flow takes one of: {flows}.",
    }


if __name__ == "__main__":
    sys.exit(main())
