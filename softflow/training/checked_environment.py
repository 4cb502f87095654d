"""What an environment returns, checked where it is returned: shapes, finite numbers, and episodes that never end."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import TimeLimit

LONGEST_EPISODE = 10_000
"""Steps after which an episode without a time limit is taken to never end."""
_LARGEST = float(np.finfo(np.float32).max)


class MalformedStep(ValueError):
    """What an environment returned is not what it promised."""


class CheckedEnvironment(gym.Wrapper[np.ndarray, np.ndarray, np.ndarray, np.ndarray]):
    """Hands on what is in order.

    Attributes:
        steps: made in this episode, the last one counted even if it failed.

    Raises:
        MalformedStep: from `reset` or `step`: an observation of another shape than its space, a reward that is not one
            number, either of them not finite as float32; or the episode goes on after `LONGEST_EPISODE` steps and there
            is no `TimeLimit`.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.steps = 0
        self._never_ends = not _has_time_limit(env)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        self.steps = 0
        observation, info = self.env.reset(seed=seed, options=options)
        self._check_observation(observation)
        return observation, info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]:
        self.steps += 1
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._check_observation(observation)
        number = np.asarray(reward)
        if number.size != 1 or number.dtype.kind not in "biuf":
            raise MalformedStep(f"the reward is {_kind(number)}, not one number")
        if not abs(number.item()) <= _LARGEST:
            raise MalformedStep(f"the reward is {number.item():g}, not a finite float32")
        if self.steps >= LONGEST_EPISODE and self._never_ends and not (terminated or truncated):
            raise MalformedStep(
                f"the episode has not ended after {self.steps:,} steps: give the environment a time limit, such as "
                f"--env-options.max-episode-steps {LONGEST_EPISODE}"
            )
        return observation, number.item(), bool(terminated), bool(truncated), info

    def _check_observation(self, observation: Any) -> None:
        array = np.asarray(observation)
        if array.shape != self.observation_space.shape or array.dtype.kind not in "biuf":
            raise MalformedStep(
                f"the observation is {_kind(array)}, its space has shape {self.observation_space.shape}"
            )
        if array.dtype.kind == "f" and not (np.abs(array) <= _LARGEST).all():
            index = np.argwhere(~(np.abs(array) <= _LARGEST))[0].tolist()
            raise MalformedStep(
                f"observation[{', '.join(map(str, index))}] is {array[tuple(index)]:g}, not a finite float32"
            )


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype} of shape {array.shape}"


def _has_time_limit(env: gym.Env) -> bool:
    while isinstance(env, gym.Wrapper):
        if isinstance(env, TimeLimit):
            return True
        env = env.env
    return False
