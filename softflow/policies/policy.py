"""The robot-facing interface of a trained policy: named observations in, actions in native units out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from softflow.errors import UserError
from softflow.policies.best_of_n import BestOfN
from softflow.policies.chunk_guard import ChunkGuard
from softflow.policies.guarded_policy import GuardedPolicy, Report
from softflow.task import TaskSpec

Actions = NDArray[Any] | Tensor


class Policy:
    """A trained policy, with or without a guard.

    An observation is a mapping from the names of the task's parts to numpy arrays or torch tensors, for one observation
    or a batch, in any real dtype. If the observation of a task is a single array, the array itself works as well.
    Actions are in the units of the robot. They are numpy arrays for numpy observations, and otherwise tensors on the
    device of the observation.

    Shapes: B batch, n `n_action_steps`, H horizon, N action dim, in the order of the task's parts.

    Args:
        deployed: The policy from a checkpoint.
        guard: Judges and limits the actions to execute. It is moved to the policy's device. None disables both.
        attempts: Number of chunks to draw as replacements of a flagged one. With 0, chunks are not replaced.

    Attributes:
        deployed: The policy below, and its critic. They take rows of observations, and actions in [-1, 1].
        task: The observations and actions of the robot: names, shapes, units and bounds. None if the policy was saved
            without a task; set it before use.

    Raises:
        TaskMismatch: The guard has another task; the message names every difference.
        UserError: The guard has another horizon or, if a task is unknown, other sizes.
        RuntimeError: The guard is not calibrated.
        ValueError: `attempts` is negative.
    """

    def __init__(self, deployed: BestOfN, guard: ChunkGuard | None = None, attempts: int = 8) -> None:
        self.deployed = deployed
        self._guarded: GuardedPolicy | None = None
        if guard is not None:
            guard.require_fit(deployed, "the guard")
            guard.to(self._device)
            self._guarded = GuardedPolicy(
                deployed.choose, guard, deployed.n_action_steps, attempts, deployed.temperature
            )

    @property
    def task(self) -> TaskSpec | None:
        """What is observed and done. None for a policy that was saved without it."""
        return self.deployed.task

    @task.setter
    def task(self, task: TaskSpec) -> None:
        self.deployed.task = task
        if self._guarded is not None:
            self._guarded.guard.require_fit(self.deployed, "the guard")

    @property
    def n_action_steps(self) -> int:
        """Number of actions of a chunk to execute before the next call."""
        return self.deployed.n_action_steps

    def act(self, observation: Any, previous: Any = None) -> Actions:
        """Choose the actions to execute next.

        Args:
            observation: The current observation.
            previous: The previously executed action, (N,) or (B, N), or a mapping by name. A guard limits the change
                relative to it. None at the start of an episode. Without a guard it is not used.

        Returns:
            The actions, (n, N) or (B, n, N).

        Raises:
            ValueError: A part of the observation is missing, has the wrong shape or is not finite, or `previous` is not
                a valid action; the message names the part.
            UserError: The policy has no task.
        """
        if self._guarded is not None:
            return self.act_and_report(observation, previous)[0]
        rows, is_batch = self._rows(observation)
        return self._native(self.deployed.act(rows), observation, is_batch)

    def act_and_report(self, observation: Any, previous: Any = None) -> tuple[Actions, Report]:
        """Choose the actions to execute next, like `act`, and report what the guard did.

        Returns:
            The actions, and a report with tensors of shape () or (B,).

        Raises:
            ValueError: See `act`.
            UserError: See `act`, or the policy has no guard.
        """
        if self._guarded is None:
            raise UserError("the policy has no guard that reports: load it with one, softflow.load(run, guard=folder)")
        rows, is_batch = self._rows(observation)
        before = None
        if previous is not None:
            before = torch.from_numpy(self._known_task.unit_actions(_as_numpy(previous))).to(rows.device)
            before = before if is_batch else before[None]
        actions, report = self._guarded.act(rows, before)
        if not is_batch:
            report = Report(*(of_rows[0] for of_rows in report))
        return self._native(actions, observation, is_batch), report

    def greedy(self, observation: Any) -> Actions:
        """Return the whole greedy chunk, (H, N) or (B, H, N), without a critic and without a guard.

        This is the function that `softflow-export` writes.
        """
        rows, is_batch = self._rows(observation)
        with torch.inference_mode():
            chunk = self.deployed.policy.greedy(rows)
        return self._native(chunk, observation, is_batch)

    @property
    def _known_task(self) -> TaskSpec:
        if self.task is None:
            raise UserError(
                "the policy was saved without a description of its task, so the names and units of its observations "
                "and actions are unknown: set policy.task = TaskSpec(...), or train the policy again"
            )
        return self.task

    @property
    def _device(self) -> torch.device:
        return self.deployed.policy.normalizer.mean.device

    def _rows(self, observation: Any) -> tuple[Tensor, bool]:
        rows, is_batch = self._known_task.rows(_as_numpy(observation))
        return torch.from_numpy(rows).to(self._device), is_batch

    def _native(self, actions: Tensor, observation: Any, is_batch: bool) -> Actions:
        native = self._known_task.native_actions(actions.numpy(force=True))
        native = native if is_batch else native[0]
        given = next(_tensors(observation), None)
        return native if given is None else torch.from_numpy(native).to(given.device)


def _as_numpy(given: Any) -> Any:
    """Convert tensors to arrays, also in mappings, and return anything else unchanged."""
    if isinstance(given, Mapping):
        return {name: _as_numpy(value) for name, value in given.items()}
    if not isinstance(given, Tensor):
        return given
    return (given.float() if given.dtype == torch.bfloat16 else given).numpy(force=True)  # numpy has no bfloat16


def _tensors(given: Any) -> Iterator[Tensor]:
    if isinstance(given, Mapping):
        for value in given.values():
            yield from _tensors(value)
    elif isinstance(given, Tensor):
        yield given
