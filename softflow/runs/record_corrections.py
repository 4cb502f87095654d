"""Recording of corrections: a policy acts, and an environment's supervisor takes over when it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from softflow.data import Corrections, chunks_from, observation_tensor
from softflow.envs import Supervisor, make_supervisor
from softflow.envs.registry import Env
from softflow.errors import UserError
from softflow.policies import BestOfN
from softflow.task import TaskSpec
from softflow.training.checked_environment import ENVIRONMENT_ERRORS, CheckedEnvironment
from softflow.training.failures import EnvironmentErrors, Lost
from softflow.training.global_state import environments_turn
from softflow.training.progress import StageProgress
from softflow.training.success import SuccessRule

CORRECTION_SEEDS, SEEDS_PER_RUN = 5_000_000, 10_000
"""First environment seed reserved for corrections, between the held-out and the training seeds, and their number for
each `seed`."""


class _Correction(NamedTuple):
    observation: np.ndarray
    """Observation before each of the human's actions, (T, O)."""
    action: np.ndarray
    """(T, A)."""
    is_success: bool


def record_corrections(
    make: Callable[[], Env],
    policy: BestOfN,
    episodes: int,
    seed: int,
    options: Mapping[str, Any] | None = None,
    errors: EnvironmentErrors | None = None,
    success: SuccessRule | None = None,
) -> Corrections:
    """Let `policy` act until the supervisor has taken over in `episodes` episodes, and record the corrections.

    Every step of the supervisor is recorded as a decision, because the policy may ask for its next chunk at any step.

    Args:
        make: Makes the environment, once and again after each of its errors.
        policy: The policy to correct.
        episodes: The number of episodes with an intervention.
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
    rng, corrections = np.random.default_rng(seed), list[_Correction]()
    with StageProgress("corrections", episodes) as bar:
        for attempt in range(SEEDS_PER_RUN):
            if len(corrections) == episodes:
                judged_by = success or SuccessRule()
                task = replace(TaskSpec.from_env(environment), success=judged_by.text)
                return _assemble(corrections, policy, task)
            episode_seed = CORRECTION_SEEDS + SEEDS_PER_RUN * seed + attempt
            correction = _watch(environment, policy, rng, episode_seed, options)
            if isinstance(correction, Lost):
                correction.report(errors)
                if correction.failure.is_error:
                    with environments_turn():
                        environment = CheckedEnvironment(make(), success)
                continue
            errors.episode_ended()
            if correction is not None:
                corrections.append(correction)
                bar.update(1, success=float(np.mean([one.is_success for one in corrections])))
    raise UserError(f"the policy failed in only {len(corrections)} of {SEEDS_PER_RUN} episodes: ask for fewer")


def _watch(
    environment: CheckedEnvironment, policy: BestOfN, rng: np.random.Generator, seed: int, options: dict[str, Any]
) -> _Correction | Lost | None:
    """Run one episode. Return None if the supervisor did not take over."""
    try:
        with environments_turn():
            observation, _ = environment.reset(seed=seed)
            supervisor = make_supervisor(environment, rng, **options)
        while True:
            chunk = policy.act(observation_tensor(observation[None]))[0].numpy()
            with environments_turn():
                for action in chunk:
                    observation, _, terminated, truncated, _ = environment.step(action)
                    if terminated or truncated:
                        return None
                    if supervisor.watch():
                        supervisor.take_over()
                        return _go_on(environment, supervisor, observation)
    except UserError:
        raise
    except ENVIRONMENT_ERRORS as error:
        return Lost.of(error, f"step {environment.steps} of the episode with seed {seed}")


def _go_on(environment: CheckedEnvironment, supervisor: Supervisor, observation: np.ndarray) -> _Correction:
    observations, actions = [], []
    while True:
        observations.append(observation)
        actions.append(np.array(supervisor.act()))
        observation, _, terminated, truncated, info = environment.step(actions[-1])
        if terminated or truncated:
            return _Correction(np.stack(observations), np.stack(actions), info["is_success"])


def _assemble(corrections: list[_Correction], policy: BestOfN, task: TaskSpec) -> Corrections:
    return Corrections(
        observation=np.concatenate([one.observation for one in corrections]),
        base_chunk=np.concatenate([policy.choose(observation_tensor(one.observation)).numpy() for one in corrections]),
        human_chunk=np.concatenate([chunks_from(one.action, policy.policy.horizon) for one in corrections]),
        episode=np.repeat(np.arange(len(corrections)), [len(one.action) for one in corrections]),
        is_success=np.array([one.is_success for one in corrections]),
        task=task,
    )
