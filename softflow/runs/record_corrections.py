"""Recording of corrections: a policy acts, and an environment's supervisor takes over when it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from softflow.data import Dataset, Episode, Proposals, human_steps, observation_tensor
from softflow.envs import Supervisor, make_supervisor
from softflow.envs.registry import Env
from softflow.errors import UserError
from softflow.policies import BestOfN
from softflow.runs.recorder import Take, task_of
from softflow.training.checked_environment import ENVIRONMENT_ERRORS, CheckedEnvironment
from softflow.training.failures import EnvironmentErrors, Lost
from softflow.training.global_state import environments_turn
from softflow.training.progress import StageProgress
from softflow.training.success import SuccessRule

CORRECTION_SEEDS, SEEDS_PER_RUN = 5_000_000, 10_000
"""First environment seed reserved for corrections, between the held-out and the training seeds, and their number for
each `seed`."""


def record_corrections(
    make: Callable[[], Env],
    policy: BestOfN,
    episodes: int,
    seed: int,
    options: Mapping[str, Any] | None = None,
    errors: EnvironmentErrors | None = None,
    success: SuccessRule | None = None,
) -> Dataset:
    """Let `policy` act until the supervisor has taken over in `episodes` episodes, and record all that were watched.

    The episodes say in `human` at which steps the supervisor acted, and in `proposals` what the policy proposed. A
    chunk that a takeover cut short is not the policy's own.

    Args:
        make: Makes the environment, once and again after each of its errors.
        policy: The policy to correct.
        episodes: The number of episodes with a takeover.
        seed: The seed of the supervisor, the policy and the episodes.
        options: Arguments of the supervisor.
        errors: Counts the errors of the environment, and decides whether recording continues after them.
        success: The rule by which episodes count as successes.

    Raises:
        UserError: The environment has no supervisor, the supervisor has no such option, or the policy fails too rarely.
        EnvironmentFailed: The environment or the supervisor raised an error, and `errors` stops the recording.
    """
    options, errors = dict(options or {}), errors or EnvironmentErrors()
    with environments_turn():
        environment = CheckedEnvironment(make(), success)
        environment.reset(seed=CORRECTION_SEEDS)
        # raises UserError early if there is no supervisor
        make_supervisor(environment, np.random.default_rng(seed), **options)
    torch.manual_seed(seed)
    rng, watched, taken_over = np.random.default_rng(seed), list[Episode](), list[Episode]()
    with StageProgress("corrections", episodes) as bar:
        for attempt in range(SEEDS_PER_RUN):
            if len(taken_over) == episodes:
                return Dataset(watched, task_of(environment, success))
            episode_seed = CORRECTION_SEEDS + SEEDS_PER_RUN * seed + attempt
            episode = _watch(environment, policy, rng, episode_seed, options)
            if isinstance(episode, Lost):
                episode.report(errors)
                if episode.failure.is_error:
                    with environments_turn():
                        environment = CheckedEnvironment(make(), success)
                continue
            errors.episode_ended()
            watched.append(episode)
            if human_steps(episode).any():
                taken_over.append(episode)
                bar.update(1, success=float(np.mean([one.is_success for one in taken_over])))
    raise UserError(f"the policy failed in only {len(taken_over)} of {SEEDS_PER_RUN} episodes: ask for fewer")


def _watch(
    environment: CheckedEnvironment, policy: BestOfN, rng: np.random.Generator, seed: int, options: dict[str, Any]
) -> Episode | Lost:
    """Run one episode."""
    steps, chunks, own = list[int](), list[np.ndarray](), list[bool]()
    try:
        with environments_turn():
            take = Take(environment, seed)
            supervisor = make_supervisor(environment, rng, **options)
        has_failed = False
        while not (take.has_ended or has_failed):
            actions, proposed = policy.decide(observation_tensor(take.observation[None]))
            steps.append(len(take))
            chunks.append(proposed[0].numpy())
            with environments_turn():
                has_failed = _execute(take, actions[0].numpy(), supervisor)
            own.append(len(take) - steps[-1] == policy.n_action_steps or not has_failed)
        with environments_turn():
            if has_failed:
                supervisor.take_over()
            by_policy = len(take)
            while not take.has_ended:
                take.step(np.array(supervisor.act()))
        episode = take.finish(take.is_success)
    except UserError:
        raise
    except ENVIRONMENT_ERRORS as error:
        return Lost.of(error, f"step {environment.steps} of the episode with seed {seed}")
    human = np.arange(len(episode)) >= by_policy
    return replace(episode, human=human, proposals=Proposals(np.array(steps), np.stack(chunks), np.array(own)))


def _execute(take: Take, actions: np.ndarray, supervisor: Supervisor) -> bool:
    """Execute actions (h, A) of the policy until the episode ends or the policy has failed. Return whether it has."""
    for action in actions:
        take.step(action)
        if take.has_ended:
            return False
        if supervisor.watch():
            return True
    return False
