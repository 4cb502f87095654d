"""The environment of runs that have none: it says what is observed and done, and cannot be stepped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import gymnasium
import numpy as np
from gymnasium import spaces

from softflow.envs.tasks import register_task
from softflow.errors import UserError
from softflow.task import TaskSpec

NO_ENVIRONMENT = "none"
"""The short name."""
register_task("softflow/Absent-v0", short_name=NO_ENVIRONMENT)


class AbsentEnv(gymnasium.Env[Any, Any]):
    """Has the observations and actions of a task, whose demonstrations were recorded elsewhere.

    Args:
        task: The task, as `TaskSpec.describe` describes it. softflow-train gives that of the demonstrations.

    Raises:
        UserError: There is no `task`, or it is not such a description.
    """

    def __init__(self, task: Mapping[str, Any] | None = None) -> None:
        if task is None:
            raise UserError(
                f"{NO_ENVIRONMENT!r} is no environment: softflow-train --env {NO_ENVIRONMENT} learns from a dataset "
                "alone, and other commands need an environment, or none of this flag"
            )
        try:
            spec = TaskSpec.build(task)
        except ValueError as error:
            raise UserError(f"the option task of environment {NO_ENVIRONMENT!r}: {error}") from error
        if spec.layout is not None:
            self.observation_space = spaces.Box(0, 255, (spec.row_size,), np.uint8)
        else:
            self.observation_space = spaces.Box(-np.inf, np.inf, (spec.row_size,), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (spec.action_dim,), np.float32)
        described = {"task_spec": spec, "task_spaces": (self.observation_space, self.action_space)}
        self.metadata = {**self.metadata, **described}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> NoReturn:
        raise UserError(
            "this run has no environment (env is none): its policy acts on a robot, softflow-robot run RUN --robot ..."
        )

    def step(self, action: Any) -> NoReturn:
        self.reset()
