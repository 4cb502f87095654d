"""What a run says at its start about its observations and actions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from flows import NormalizedFlow
from softflow.algos import Algorithm
from softflow.algos.settings import PolicyConfig
from softflow.data import Episode, action_statistics, constant_dimensions
from softflow.envs import describe_spaces, name_actions, name_dimensions


def what_is_seen(environments: VectorEnv[Any, Any, Any], learned_from: Sequence[Episode]) -> str:
    """Describe how observations and actions are interpreted, and which dimensions are not scaled."""
    constant, described = constant_dimensions(learned_from), describe_spaces(environments)
    if constant.any():
        described += (
            f"\nconstant in the demonstrations: observation dimensions {name_dimensions(environments, constant)}; "
            "they are centred, not scaled"
        )
    return described


def normalizes_actions(algorithm: Algorithm) -> bool:
    """Return whether the policy that deploys normalises actions."""
    return any(isinstance(module, NormalizedFlow) for module in algorithm.deployed.modules())


def what_is_normalized(environments: VectorEnv[Any, Any, Any], learned_from: Sequence[Episode]) -> str:
    """Describe in one line the scales of the actions, and which dimensions are constant or take few values."""
    statistics = action_statistics(learned_from)
    described = f"actions are normalised by scales of {statistics.scale.min():.2g} to {statistics.scale.max():.2g}"
    for what, chosen in (("constant", statistics.constant), ("of few values", statistics.few_valued)):
        if chosen.any():
            described += f"; {what}: {name_actions(environments, chosen)}"
    largest = max(float(np.abs(np.cumsum(episode.reward[::-1])).max()) for episode in learned_from)
    if not largest:
        return f"{described}; there are no rewards"
    return f"{described}; rewards are divided by {largest:.3g}, the largest absolute return of a demonstration"


def how_much_is_imitated(method: Any, steps: int) -> str | None:
    """Say how often imitation draws each of the steps worth imitating. None if there is no imitation from scratch."""
    if not isinstance(method, PolicyConfig) or not steps or not method.imitation_updates:
        return None
    updates = method.imitation_updates
    times = updates * method.batch_size / steps
    return f"imitation makes {updates:,} updates, and draws each of these steps about {times:,.0f} times"


def how_much_is_acted(algorithm: Algorithm, demonstrations: Sequence[Episode]) -> str | None:
    """Say how many own episodes a run has if they are as long as demonstrations. None if the method does not act."""
    steps = sum(stage.environment_steps for stage in algorithm.schedule())
    if not steps:
        return None
    length = np.mean([len(episode) for episode in demonstrations])
    return f"{steps:,} steps are about {steps / length:,.0f} own episodes, if they last as long as the demonstrations"
