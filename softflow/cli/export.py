"""`softflow-export`: write a trained policy to a file that runs without this package."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from softflow.cli.command_line import parse_command_line, run_main
from softflow.policies.native_export import EXAMPLES
from softflow.runs.exporting import export_run

DESCRIPTION = """\
Export a trained policy to a file that runs without softflow. The file returns the greedy choice, which is the most
likely chunk of the policy. By default, softflow-eval runs another choice: the chunk with the highest value among
sampled candidates. Evaluate the choice that you deploy (softflow-eval --greedy). The inputs of the file are the
named parts of an observation, its actions are in the robot's units, and its metadata describes both. A policy that
was saved without a description of its task takes rows of numbers, and returns actions in [-1, 1]."""


@dataclass
class ExportConfig:
    """Settings of `softflow-export`."""

    run: Positional[str]
    """Run folder, whose best policy is exported, or the folder of one of its checkpoints."""
    format: Literal["onnx", "torchscript", "torch_export"]
    """Format of the file. `onnx` requires softflow[onnx]."""
    out: str
    """File to write. It must not exist."""


@run_main
def main(argv: Sequence[str]) -> None:
    config = parse_command_line(ExportConfig, argv, prog="softflow-export", description=DESCRIPTION)
    out = Path(config.out)
    deployed, difference = export_run(config.run, out, config.format)
    policy = deployed.policy
    inputs, numbers = f"observation (B, {policy.observation_dim})", policy.action_dim
    if deployed.task is not None:
        parts = deployed.task.observation
        inputs = ", ".join(f"{part.name} ({', '.join(['B', *map(str, part.shape)])})" for part in parts)
        numbers = len(deployed.task.low)
    chunk = f"(B, {policy.horizon}, {numbers})"
    print(f"{out}: {inputs} -> chunk {chunk}, of which {deployed.n_action_steps} actions are executed")
    print(f"largest difference from the policy on {EXAMPLES} observations: {difference:.1e}")


if __name__ == "__main__":
    sys.exit(main())
