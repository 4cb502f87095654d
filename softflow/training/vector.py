"""Vector environments, in one process or several, that execute a chunk of actions per step."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from softflow.boundary import MalformedStep
from softflow.data import outcome_of
from softflow.errors import UserError
from softflow.training.checked_environment import ENVIRONMENT_ERRORS, CheckedEnvironment
from softflow.training.environment_state import load_environment, save_environment
from softflow.training.failures import Failure
from softflow.training.processes import ProcessVectorEnv
from softflow.training.success import SuccessRule

VectorizationMode = Literal["sync", "async"]


def vectorize(
    make: Sequence[Callable[[], gym.Env]],
    n_action_steps: int,
    mode: VectorizationMode = "sync",
    processes: int | None = None,
    time_limit: float | None = None,
    success: SuccessRule | None = None,
) -> VectorEnv[Any, Any, Any]:
    """Make a gymnasium vector environment whose steps are chunks of `n_action_steps` actions (see `ChunkExecution`).

    Autoreset is disabled. The caller resets environments, so that it sees the true final observation of an episode and
    no chunk crosses a reset.

    Args:
        make: One function per environment. Its spaces must be flat Boxes, with actions in [-1, 1].
        n_action_steps: The number of actions to execute per chunk.
        mode: "sync" runs all environments in this process, one after another. "async" distributes them over processes.
        processes: The number of processes for "async", including this one. By default, one per core.
        time_limit: The seconds that an environment may take for a reset or a chunk (see `ProcessVectorEnv`).
        success: The rule that decides which episodes are successes.

    Raises:
        UserError: The time limit cannot be enforced.
    """
    try:
        check_time_limit(time_limit, mode)
    except ValueError as error:
        raise UserError(str(error)) from error
    from softflow.training.global_state import environments_turn  # imported here, so that processes need not load torch

    chunked = [partial(ChunkExecution, make_one, n_action_steps, success) for make_one in make]
    with environments_turn():
        if mode == "sync":
            return SyncVectorEnv(chunked, autoreset_mode=AutoresetMode.DISABLED)
        return ProcessVectorEnv(chunked, processes or os.cpu_count() or 1, time_limit)


def check_time_limit(seconds: float | None, mode: VectorizationMode) -> None:
    """Raise `ValueError` if the time limit in seconds is not positive, or cannot be enforced in this mode."""
    if seconds is None:
        return
    if not 0 < seconds < float("inf"):
        raise ValueError(f"env_time_limit must be above 0, got {seconds:g}")
    if mode != "async":
        raise ValueError(
            "env_time_limit needs vectorization_mode async: an environment in this process cannot be interrupted"
        )


@contextmanager
def closing(environments: VectorEnv[Any, Any, Any]) -> Iterator[VectorEnv[Any, Any, Any]]:
    """Close environments at the end of the block. After an exception, kill their processes without waiting for them."""
    from softflow.training.global_state import environments_turn  # as in `vectorize`

    try:
        yield environments
    except BaseException:
        with environments_turn():
            environments.close(terminate=True)
        raise
    with environments_turn():
        environments.close()


class EpisodeEnd(NamedTuple):
    """What an environment reported in the last step of an episode."""

    is_success: bool
    outcome: Mapping[str, float]
    """The numbers that it measured (see `outcome_of`)."""


class ChunkExecution(gym.Wrapper[np.ndarray, np.ndarray, np.ndarray, np.ndarray]):
    """Executes a chunk of actions per step, and stops at the end of the episode.

    Actions are (n_action_steps, A). Observations are (n_action_steps, O), where row i was seen after action i. The last
    observation is repeated after the end of an episode, and fills all rows after a reset, so that the last row is
    always the latest observation. The reward is the sum over the chunk.

    The info contains:

    * ``chunk``: ``steps``, the number of actions executed, and ``rewards`` (n_action_steps,), zero for other actions.
    * ``end``: The `EpisodeEnd`, if the episode ended.
    * ``failure``: The `Failure` that ended the episode, if the environment raised an error or returned malformed
      values. If it was an error, the next reset makes a new environment.

    ``reset`` has two options. ``{"idle": True}`` makes the environment idle: its steps execute nothing until the next
    reset. ``{"state": state}`` continues from a state of ``get_state``, but returns the observation of the reset that
    precedes it. If the state cannot be restored, the episode restarts and the info contains ``begun_anew``.

    Args:
        make: A function that makes the environment, whose spaces must be flat Boxes.
        n_action_steps: The number of actions in a chunk.
        success: The rule that decides which episodes are successes.

    Raises:
        ValueError: The environment has other spaces.
    """

    def __init__(self, make: Callable[[], gym.Env], n_action_steps: int, success: SuccessRule | None = None) -> None:
        env = CheckedEnvironment(make(), success)
        super().__init__(env)
        self._make, self._success, self._broken = make, success, False
        actions, observations = env.action_space, env.observation_space
        assert isinstance(actions, Box) and isinstance(observations, Box)
        self.n_action_steps = n_action_steps
        self.action_space = Box(-1.0, 1.0, (n_action_steps, *actions.shape), np.float32)
        low, high = (
            np.broadcast_to(bound, (n_action_steps, *bound.shape)) for bound in (observations.low, observations.high)
        )
        self.observation_space = Box(low, high, dtype=observations.dtype.type)
        self._idle = True
        self._seen = np.zeros(self.observation_space.shape, observations.dtype)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        if options is not None and options.get("idle"):
            self._idle, self._seen[:] = True, self._seen[-1]
            return self._seen.copy(), {}
        state = None
        if options is not None:
            options, state = {k: v for k, v in options.items() if k != "state"}, options.get("state")
        info: dict[str, Any] = {}
        try:
            if self._broken:
                self._make_anew()
            observation, _ = self.env.reset(seed=seed, options=options or None)
            if state is not None and not load_environment(self.env, state):
                observation, _ = self.env.reset(seed=seed, options=options or None)
                info = {"begun_anew": True}
        except UserError:
            raise
        except ENVIRONMENT_ERRORS as error:
            return self._seen.copy(), {"failure": self._fail(error)}
        self._idle = False
        self._seen[:] = observation
        return self._seen.copy(), info

    def get_state(self) -> dict[str, Any] | None:
        """Return the state in the middle of an episode, None if it cannot be saved (see `save_environment`)."""
        return None if self._idle else save_environment(self.env)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        rewards, steps = np.zeros(self.n_action_steps), 0
        told: dict[str, Any] = {}
        terminated = truncated = False
        while steps < self.n_action_steps and not (self._idle or terminated or truncated):
            try:
                observation, reward, terminated, truncated, info = self.env.step(action[steps])
                self._seen[steps:], rewards[steps] = observation, reward
                if terminated or truncated:
                    told = {"end": EpisodeEnd(info["is_success"], outcome_of(info))}
            except UserError:
                raise
            except ENVIRONMENT_ERRORS as error:
                terminated, truncated, told = False, True, {"failure": self._fail(error)}
            steps += 1
        told["chunk"] = {"steps": steps, "rewards": rewards}
        return self._seen.copy(), float(rewards.sum()), terminated, truncated, told

    def _make_anew(self) -> None:
        self.env.close()
        env = CheckedEnvironment(self._make(), self._success)
        for name, space in (("observation", env.observation_space), ("action", env.action_space)):
            if space != getattr(self.env, f"{name}_space"):
                raise MalformedStep(f"made anew, the environment has another {name} space: {space}")
        self.env, self._broken = env, False

    def _fail(self, error: BaseException) -> Failure:
        failure = Failure.of(error)
        self._idle, self._broken = True, failure.is_error
        return failure
