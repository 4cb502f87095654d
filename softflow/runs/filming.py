"""Films of a policy in the environment of its run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from softflow.data import observation_tensor
from softflow.policies import BestOfN
from softflow.runs.assembly import make_environment, require_fit
from softflow.runs.video import Choice, Film, film_episode
from softflow.training.checked_environment import CheckedEnvironment
from softflow.training.config import RunConfig
from softflow.training.success import SuccessRule


def film_policy(
    policy: BestOfN,
    settings: RunConfig,
    run: str,
    seeds: Iterable[int],
    width: int,
    caption: str = "",
    greedy: bool = False,
) -> Iterator[Film]:
    """Film one episode for each seed, one after another. torch is seeded before each of them.

    Args:
        policy: The policy.
        settings: The settings of its run, which say what its environment is.
        run: The name of the run, for errors.
        seeds: The seeds of the episodes.
        width: The largest width of a picture in pixels.
        caption: What stands before the seed in the films.
        greedy: Whether to execute the most likely chunk instead of sampled candidates.

    Raises:
        UserError: The environment renders no pictures, or does not fit the policy.
        EnvironmentFailed: The environment raised an error.
    """
    environment = CheckedEnvironment(make_environment(settings, render_mode="rgb_array"), SuccessRule(settings.success))
    device = next(policy.parameters()).device

    @torch.inference_mode()
    def choose(observation: np.ndarray) -> Choice:
        seen = observation_tensor(observation, device)
        if greedy:
            chunk = policy.policy.greedy(seen)
            actions = chunk[:, : policy.n_action_steps]
        else:
            actions, chunk = policy.decide(seen)
        value = None
        if policy.critic is not None:
            valued = chunk[:, : policy.critic.horizon].clamp(-1, 1)
            value = float(policy.critic(policy.policy.features(seen), valued).mean())
        return Choice(actions[0].cpu().numpy(), value)

    with contextlib.closing(environment):
        require_fit(policy, environment, run)
        for seed in seeds:
            torch.manual_seed(seed)
            yield film_episode(environment, choose, seed, f"{caption}{', ' if caption else ''}seed {seed}", width)
