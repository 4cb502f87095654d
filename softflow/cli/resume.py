"""The settings of a resumed run: those that it was started with, but for a few that do not change its past."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from softflow.cli.command_line import parse_command_line
from softflow.errors import UserError
from softflow.runs.assembly import read_config
from softflow.settings.fields import dotted_values, to_dict
from softflow.settings.typed import Layer
from softflow.training.run_folder import RunFolder

LENGTH = "online.steps"
"""May grow. What is scheduled over the stage then goes on as if it had been as long from the start."""
CHANGEABLE = (
    "device", "threads", "vectorization_mode", "env_time_limit", "on_env_error", "eval_episodes", "log_every",
    "save_minutes", LENGTH,
)  # fmt: skip


def resumed_config(folder: RunFolder, argv: Sequence[str], **command: str) -> Any:
    """The configuration of a run that goes on in `folder`, with what the flags in `argv` change of it.

    Raises:
        UserError: a flag changes what a resumed run must keep.
    """
    saved = replace(read_config(str(folder.config_path)), resume=folder.given)
    layers = [Layer(to_dict(saved), str(folder.config_path))]
    config = parse_command_line(type(saved), argv, **command, layers_for=lambda _: layers)
    before, after = dotted_values(saved), dotted_values(config)
    if changed := [key for key in before if key not in CHANGEABLE and after[key] != before[key]]:
        may_change = ", ".join(key for key in CHANGEABLE if key in before)
        raise UserError(
            f"a resumed run keeps its settings: {', '.join(changed)} cannot be changed; start a new run, or change "
            f"nothing but {may_change}"
        )
    if LENGTH in before and after[LENGTH] < before[LENGTH]:
        raise UserError(f"{LENGTH} of a resumed run may only grow: it is {before[LENGTH]}, got {after[LENGTH]}")
    return config
