"""Wrappers that report the success of third-party environments as `info["is_success"]`."""

from __future__ import annotations

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


class SparseSuccess(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Wrapper that gives reward 1 at the first success, which ends the episode, and 0 before.

    It is meant for tasks that continue after a success, or whose own rewards are negative or large. For rewards of -1
    per step until the success it only rescales values: with discount g, a value V becomes 1 + (1 - g) V.

    Raises:
        UserError: In `step`, the info has no `is_success`.
    """

    def step(self, action: Any) -> Step:
        observation, _, terminated, truncated, info = self.env.step(action)
        if "is_success" not in info:
            raise UserError(
                f"sparse_success: {self.unwrapped} says neither 'is_success' nor 'success' in its info; leave the "
                "option out"
            )
        success = info["is_success"]
        return observation, float(success), terminated or success, truncated, info
