"""Best-of-N action selection: execute the proposed chunk with the highest value."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from critics import ChunkCritic
from flows.plugins import Registry
from softflow.errors import UserError
from softflow.policies.base import ChunkPolicy
from softflow.policies.flow_policy import FlowPolicy
from softflow.policies.foreign_policy import ForeignPolicy
from softflow.policies.one_step import OneStepPolicy
from softflow.policies.steered import SteeredPolicy
from softflow.task import TaskSpec

KINDS: Registry[type[ChunkPolicy]] = Registry("kind of policy", "softflow.policies", base=ChunkPolicy)
"""The policy classes that a description may name."""

P = TypeVar("P", bound=type[ChunkPolicy])


def register_policy(policy: P) -> P:
    """Register a policy class, as a decorator, so that saved policies of this class can be loaded.

    Packages may instead define an entry point in the group `softflow.policies`, named after the `kind` of the class.

    Raises:
        ValueError: The `kind` is already registered.
    """
    KINDS.register(policy.kind, policy)
    return policy


for _policy in (FlowPolicy, ForeignPolicy, OneStepPolicy, SteeredPolicy):
    register_policy(_policy)


class BestOfN(nn.Module):
    """A policy, and the critic that chooses among its proposed chunks. This is the deployed policy.

    At temperature 0, the candidates of a mixture flow are decoded from the means of its components. The critic then
    chooses between modes without any noise on the executed actions.

    Args:
        policy: Proposes chunks.
        critic: Evaluates the first `critic.horizon` actions of each chunk. None for a method without a critic.
        n_action_steps: Number of actions of a chunk that are executed.
        candidates: Number of proposed chunks, N. With 1, the chunk is executed without evaluating the critic.
        temperature: Sampling temperature of the candidates. Higher values give more diverse candidates.
        task: The observations and actions of the robot, which are saved with the policy. None if unknown; observations
            and actions are then rows without names and units.

    Raises:
        ValueError: There are several candidates but no critic, a number is out of range, or the observations or actions
            of the task do not fit the policy.
    """

    def __init__(
        self,
        policy: ChunkPolicy,
        critic: ChunkCritic | None,
        n_action_steps: int,
        candidates: int,
        temperature: float,
        task: TaskSpec | None = None,
    ) -> None:
        if type(n_action_steps) is not int or not 1 <= n_action_steps <= policy.horizon:
            raise ValueError(f"n_action_steps must be in 1 ... horizon = {policy.horizon}, got {n_action_steps!r}")
        if type(temperature) not in (int, float) or not 0 <= temperature < math.inf:
            raise ValueError(f"temperature must be a number, at least 0, got {temperature!r}")
        super().__init__()
        self.policy, self.critic = policy, critic
        self.n_action_steps, self.candidates, self.temperature = n_action_steps, candidates, temperature
        self.task = task

    @property
    def candidates(self) -> int:
        """Number of proposed chunks. Setting a number that is out of range or needs a critic raises ValueError."""
        return self._candidates

    @candidates.setter
    def candidates(self, candidates: int) -> None:
        if type(candidates) is not int or candidates < 1:
            raise ValueError(f"candidates must be an integer, at least 1, got {candidates!r}")
        if self.critic is None and candidates != 1:
            raise ValueError(f"without a critic nothing chooses among {candidates} candidates: candidates must be 1")
        self._candidates = candidates

    @property
    def task(self) -> TaskSpec | None:
        """The observations and actions of the robot. Setting a task that does not fit the policy raises ValueError."""
        return self._task

    @task.setter
    def task(self, task: TaskSpec | None) -> None:
        if task is not None:
            self.policy.require_task(task)
        self._task = task

    @torch.inference_mode()
    def act(self, observation: Tensor) -> Tensor:
        """Choose the actions to execute: (B, O) -> (B, n_action_steps, A)."""
        length = self.n_action_steps if self.critic is None else max(self.n_action_steps, self.critic.horizon)
        return self.choose(observation, length)[:, : self.n_action_steps]

    @torch.inference_mode()
    def choose(self, observation: Tensor, length: int | None = None) -> Tensor:
        """Choose whole chunks, (B, O) -> (B, H, A), or only their first `length` actions."""
        return self._choose(observation, length).clamp(-1, 1)

    @torch.inference_mode()
    def decide(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Choose the actions to execute and the chunks that they belong to, with the random numbers of `act`.

        Returns:
            The actions, (B, n_action_steps, A), and the whole chunks as `policy.sample` drew them, (B, H, A).
        """
        chunk = self._choose(observation, None)
        return chunk[:, : self.n_action_steps].clamp(-1, 1), chunk

    def _choose(self, observation: Tensor, length: int | None) -> Tensor:
        """Draw the candidates and return those with the highest values, (B, H or length, A), before clipping."""
        observation = self.policy.encoded(observation)
        chunks = self.policy.sample(observation, self.candidates, self.temperature, length)
        if self.candidates == 1:
            return chunks[:, 0]
        assert self.critic is not None
        valued = chunks[:, :, : self.critic.horizon].clamp(-1, 1)
        value = self.critic(self.policy.features(observation), valued).mean(0)
        return chunks[torch.arange(len(chunks)), value.argmax(-1)]

    def require_restorable(self) -> None:
        """Raise `UserError` if the critic is of another class than the one that `build` makes of its description."""
        if self.critic is not None and type(self.critic) is not ChunkCritic:
            raise UserError(
                f"the critic of self.deployed is of the class {type(self.critic).__name__}, but checkpoints only "
                "restore a critics.ChunkCritic: a critic of another class can teach the policy, but not choose among "
                "its chunks, see docs/explanation/architecture.md"
            )

    def describe(self) -> dict[str, Any]:
        """Return plain values from which `build` rebuilds this object, without its weights.

        Raises:
            UserError: See `require_restorable`.
        """
        self.require_restorable()
        described = {
            "policy": {"kind": self.policy.kind, **self.policy.describe()},
            "critic": self.critic.describe() if self.critic is not None else None,
            "n_action_steps": self.n_action_steps,
            "candidates": self.candidates,
            "temperature": self.temperature,
        }
        return described if self.task is None else {**described, "task": self.task.describe()}

    @classmethod
    def build(
        cls, policy: dict[str, Any], critic: dict[str, Any] | None, task: dict[str, Any] | None = None, **settings: Any
    ) -> BestOfN:
        """Build from the result of `describe`.

        Files of earlier versions have no task, and `execute` instead of `n_action_steps`. A policy without a kind is a
        `FlowPolicy`.

        Raises:
            ValueError, TypeError: The description is invalid.
            ImportError: The policy's class comes from an installed package, and importing it fails.
        """
        if "execute" in settings:
            settings["n_action_steps"] = settings.pop("execute")
        kind = KINDS.find(policy.get("kind", FlowPolicy.kind))
        proposer = kind.build(**{name: value for name, value in policy.items() if name != "kind"})
        spec = TaskSpec.build(task) if task is not None else None
        return cls(proposer, ChunkCritic(**critic) if critic is not None else None, task=spec, **settings)
