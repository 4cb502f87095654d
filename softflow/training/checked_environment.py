"""The wrapper through which training, recording, corrections and evaluation use an environment."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.wrappers import TimeLimit

from softflow.boundary import MalformedStep, as_array, as_flag, as_reward
from softflow.errors import one_line
from softflow.training.success import EpisodeSuccess, SuccessRule

ENVIRONMENT_ERRORS = (Exception, SystemExit)
"""What an environment may raise by mistake. `sys.exit` in an environment must not end a run as if it were done."""
LONGEST_EPISODE = 1_000_000
"""Number of steps after which an episode without a `TimeLimit` is assumed never to end."""


class CheckedEnvironment(gym.Wrapper[np.ndarray, np.ndarray, np.ndarray, np.ndarray]):
    """Copies and checks every action, observation and reward, and decides whether the episode is a success.

    The spaces are copied when the environment is wrapped; later changes to them have no effect. The `info` of every
    step has a bool `is_success`, which tells whether the episode would be a success if it ended there. An error in
    `close` becomes a warning, so that the results of a run are not lost.

    Args:
        env: An environment whose observation and action spaces are flat Boxes.
        success: The rule that decides which episodes are successes.

    Attributes:
        steps: The number of steps in this episode, including one that failed.

    Raises:
        ValueError: The environment has other spaces.
        MalformedStep: In `reset` or `step`, an action or observation does not fit its space, the reward is not one
            finite number, or a flag is neither true nor false. Or the episode continues after `LONGEST_EPISODE` steps
            without a `TimeLimit`.
    """

    def __init__(self, env: gym.Env, success: SuccessRule | None = None) -> None:
        super().__init__(env)
        self.observation_space, self.action_space = _flat_box(env.observation_space), _flat_box(env.action_space)
        self.steps = 0
        self._success = EpisodeSuccess(success or SuccessRule())
        self._never_ends = not _has_time_limit(env)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        self.steps = 0
        self._success.begin()
        observation, info = self.env.reset(seed=seed, options=options)
        return as_array("observation", observation, self.observation_space), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        given = as_array("action", action, self.action_space)
        observation, reward, terminated, truncated, info = self.env.step(given)
        ending = as_flag("terminated", terminated), as_flag("truncated", truncated)
        if self.steps >= LONGEST_EPISODE and self._never_ends and not any(ending):
            raise MalformedStep(
                f"the episode has not ended after {self.steps:,} steps: give the environment a time limit, such as "
                "--env-options.max-episode-steps 1000"
            )
        earned = as_reward(reward)
        success = self._success.add(info, earned)
        if any(ending) and self._success.is_overlooked:
            warnings.warn("an episode said success, but not at its last step: --success any counts it", stacklevel=2)
        said = {**info, "is_success": success}
        return as_array("observation", observation, self.observation_space), earned, *ending, said

    @property
    def judges_success(self) -> bool:
        """Whether the environment, or the rule, has told so far whether the episode is a success."""
        return self._success.is_judged

    def close(self) -> None:
        try:
            self.env.close()
        except ENVIRONMENT_ERRORS as error:
            warnings.warn(f"closing an environment failed: {type(error).__name__}: {one_line(error)}", stacklevel=2)

    def progress(self) -> dict[str, float]:
        """Return the number of steps in the episode so far, and the state that decides its success."""
        return {"steps": self.steps, **self._success.state_dict()}

    def set_progress(self, progress: Mapping[str, Any]) -> None:
        """Restore what `progress` returned."""
        self.steps = int(progress["steps"])
        self._success.load_state_dict(progress)


def _flat_box(space: gym.Space) -> Box:
    if not isinstance(space, Box) or len(space.shape) != 1:
        raise ValueError(f"observations and actions must be flat Boxes, got {space}: softflow.envs.make_env flattens")
    return deepcopy(space)


def _has_time_limit(env: gym.Env) -> bool:
    while isinstance(env, gym.Wrapper):
        if isinstance(env, TimeLimit):
            return True
        env = env.env
    return False
