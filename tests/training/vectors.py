"""Vector environments of given environments."""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium
from gymnasium.vector import VectorEnv

from softflow.training.vector import vectorize


def side_by_side(environments: Sequence[gymnasium.Env], n_action_steps: int) -> VectorEnv:
    """These very environments, in this process."""
    return vectorize([lambda environment=environment: environment for environment in environments], n_action_steps)
