"""Wrappers that report the success of third-party environments as `info["is_success"]`, and reward it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, SupportsFloat

import gymnasium

from softflow.boundary import as_flag
from softflow.errors import UserError

Step = tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]


class SuccessInfo(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Wrapper that copies `info["success"]`, which Adroit, gymnasium-robotics' mazes and OGBench set, to `is_success`.

    An existing `is_success` takes precedence. If the environment sets neither, no `is_success` is added, and none of
    its episodes counts as a success.

    Raises:
        MalformedStep: In `step`, the value is neither true nor false.
    """

    def step(self, action: Any) -> Step:
        observation, reward, terminated, truncated, info = self.env.step(action)
        said = next((name for name in ("is_success", "success") if name in info), None)
        if said is not None:
            info = {**info, "is_success": as_flag(said, info[said])}
        return observation, reward, terminated, truncated, info


class SuccessReward(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Wrapper that ends an episode at the first success, with rewards that depend on the success alone.

    By default the success has reward 1, and all steps before have 0. It is meant for tasks that continue after a
    success, or whose own rewards are negative or large. In place of rewards of -1 per step until the success, it only
    rescales values: with discount g, a value V becomes 1 + (1 - g) V.

    Args:
        env: The environment.
        at_success: The reward of the step that succeeds.
        otherwise: The reward of every other step.

    Raises:
        UserError: In `step`, the info has no `is_success`.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], at_success: float = 1.0, otherwise: float = 0.0) -> None:
        super().__init__(env)
        self._at_success, self._otherwise = at_success, otherwise

    def step(self, action: Any) -> Step:
        observation, _, terminated, truncated, info = self.env.step(action)
        if "is_success" not in info:
            raise UserError(
                f"{self.unwrapped} says neither 'is_success' nor 'success' in its info, from which its reward is "
                "computed: leave out the option sparse_success, and let --reward be dataset"
            )
        success = info["is_success"]
        reward = self._at_success if success else self._otherwise
        return observation, reward, terminated or success, truncated, info


def reward_success(make: Callable[[], gymnasium.Env[Any, Any]], at_success: float, otherwise: float) -> SuccessReward:
    """Make an environment with the rewards of `SuccessReward`. As a partial it can be sent to other processes."""
    return SuccessReward(make(), at_success, otherwise)
