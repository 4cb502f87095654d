"""What other people's environments say of success, in the words that everything here reads: `info["is_success"]`."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium

from softflow.boundary import as_flag
from softflow.errors import UserError

Step = tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]


class SuccessInfo(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Says `is_success` where the environment says `success`, as gymnasium-robotics' Adroit and mazes and OGBench do.

    An environment that says `is_success` keeps its word, and one that says neither stays silent: none of its episodes
    counts as a success.

    Raises:
        MalformedStep: from `step`, if what is said is neither true nor false.
    """

    def step(self, action: Any) -> Step:
        observation, reward, terminated, truncated, info = self.env.step(action)
        said = next((name for name in ("is_success", "success") if name in info), None)
        if said is not None:
            info = {**info, "is_success": as_flag(said, info[said])}
        return observation, reward, terminated, truncated, info


class SparseSuccess(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Reward 1 on the first step that is a success, which ends the episode; 0 on all before.

    For tasks that go on after their success, or whose own rewards are negative or large. Where those are -1 a step
    until the success, nothing but the scale changes: with a discount g, a value V becomes 1 + (1 - g) V.

    Raises:
        UserError: on a step whose info has no `is_success`.
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
