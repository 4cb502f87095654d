"""The chunk that is executed: the one that a critic values most among several that a policy proposes."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from critics import ChunkCritic
from flows.plugins import Registry
from softflow.policies.base import ChunkPolicy
from softflow.policies.flow_policy import FlowPolicy
from softflow.policies.one_step import OneStepPolicy
from softflow.policies.steered import SteeredPolicy
from softflow.task import TaskSpec

KINDS: Registry[type[ChunkPolicy]] = Registry("kind of policy", "softflow.policies", base=ChunkPolicy)
"""The policies that a description may build, by the name that it calls them."""

P = TypeVar("P", bound=type[ChunkPolicy])


def register_policy(policy: P) -> P:
    """Class decorator by which a saved policy of this class can be loaded. Packages may bring theirs by an entry point
    of the group `softflow.policies` instead, called as its `kind`.

    Raises:
        ValueError: another class has this `kind`.
    """
    KINDS.register(policy.kind, policy)
    return policy


for _policy in (FlowPolicy, OneStepPolicy, SteeredPolicy):
    register_policy(_policy)


class BestOfN(nn.Module):
    """A policy, and the critic that chooses among its chunks. This is what deploys.

    At temperature 0 the candidates of a mixture flow are the centres of its modes: the critic chooses between ways to
    go on, and each is executed as precisely as the policy knows it.

    Args:
        policy: Proposes chunks.
        critic: Values the first `critic.horizon` actions of each chunk. None for a method without a critic.
        n_action_steps: How many actions of a chunk are executed.
        candidates: How many chunks are proposed, N. A single one is executed without asking the critic.
        temperature: Temperature at which the candidates are drawn; higher ones vary more.
        task: What the robot sees and does; it is saved with the policy. None if it is not known: observations and
            actions are then rows without names and units.

    Raises:
        ValueError: There are several candidates but no critic to choose among them, a number is out of range, or the
            task has other observations or actions than the policy.
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
        if type(candidates) is not int or candidates < 1:
            raise ValueError(f"candidates must be an integer, at least 1, got {candidates!r}")
        if type(temperature) not in (int, float) or not 0 <= temperature < math.inf:
            raise ValueError(f"temperature must be a number, at least 0, got {temperature!r}")
        if critic is None and candidates != 1:
            raise ValueError(f"without a critic nothing chooses among {candidates} candidates: candidates must be 1")
        super().__init__()
        self.policy, self.critic = policy, critic
        self.n_action_steps, self.candidates, self.temperature = n_action_steps, candidates, temperature
        self.task = task

    @property
    def task(self) -> TaskSpec | None:
        """What the robot sees and does. Setting it raises ValueError unless it fits the policy."""
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
        """Choose whole chunks, (B, O) -> (B, H, A), or their first `length` actions."""
        chunks = self.policy.propose(observation, self.candidates, self.temperature, length)
        if self.candidates == 1:
            return chunks[:, 0]
        assert self.critic is not None
        value = self.critic(self.policy.features(observation), chunks[:, :, : self.critic.horizon]).mean(0)
        return chunks[torch.arange(len(chunks)), value.argmax(-1)]

    def describe(self) -> dict[str, Any]:
        """Return plain values from which `build` makes the same again, without its weights."""
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
        """Build what `describe` described.

        Files of earlier versions have no task and say `execute` for `n_action_steps`. Their policy may have no kind; it
        is a `FlowPolicy` then.

        Raises:
            ValueError, TypeError: The description is not one of this version.
            ImportError: The policy is of a kind that an installed package brings, and importing it fails.
        """
        if "execute" in settings:
            settings["n_action_steps"] = settings.pop("execute")
        kind = KINDS.find(policy.get("kind", FlowPolicy.kind))
        proposer = kind.build(**{name: value for name, value in policy.items() if name != "kind"})
        spec = TaskSpec.build(task) if task is not None else None
        return cls(proposer, ChunkCritic(**critic) if critic is not None else None, task=spec, **settings)
