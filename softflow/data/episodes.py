"""Episodes of interaction, which are validated when they are made and read-only from then on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, NamedTuple, TypeVar, get_args

import numpy as np

from softflow.data.checks import actions, kind_of, numbers, packed
from softflow.data.native import actions_of, rows_of
from softflow.data.proposals import Proposals
from softflow.task import TaskSpec
from softflow.task.layout import ObservationLayout

ArrayT = TypeVar("ArrayT")
RewardKind = Literal["dataset", "sparse", "steps"]


class Decision(NamedTuple, Generic[ArrayT]):
    """Chunks to execute, with what a method needs later to learn from its own decisions."""

    chunk: ArrayT
    """The chunks to execute, (B, h, A) with at least `n_action_steps` actions h."""
    record: ArrayT | None = None
    """Data about the choice, (B, K). Only the method that made it reads it; `Episode.decision` stores it."""
    proposed: ArrayT | None = None
    """The whole chunks as the policy proposed them, before clipping, (B, H, A). `Episode.proposals` stores them."""


@dataclass(frozen=True, eq=False, repr=False)
class Episode:
    """An episode of T primitive environment steps.

    There is one more observation than actions: the last one is the true final observation, seen after the last action
    and before any reset. At a time limit, values are bootstrapped from it.

    Arrays are copied to float32 and made read-only. Packed observations stay uint8, and are not copied where they lie
    in the file of a dataset (`softflow.data.row_file`).

    Attributes:
        observation: (T + 1, O), finite.
        action: (T, A), in [-1, 1].
        reward: (T,), finite, per step.
        terminated: Whether the episode ended in a terminal state of the task, whose value is zero.
        truncated: Whether the episode was cut off (by a time limit or the end of a recording), so that its final
            observation still has a value. At least one of the two is True. If both are, `terminated` takes precedence.
        is_success: Whether the task was solved.
        solved_at: The number of steps after which the task was first solved, 1 ... T. None if the recording does not
            say at which steps it was.
        mode: The mode that the demonstrator chose, -1 if unknown.
        decision: (chunks, K), the record of each `Decision` in the episode. The last chunk may have been executed only
            in part. None if nothing was recorded.
        proposals: The chunks that the policy proposed. None for a demonstration, and if nothing was recorded.
        arm: The index of the behaviour that executed the episode, if a method has several of them (`Algorithm.assign`).
        seed: The seed with which the environment was reset. None if it is not known.
        reward_kind: The setting `reward` of the run that replaced the recorded rewards. `dataset` if none did.
        human: (T,) bool, the steps at which a person acted in place of a policy. None if one and the same acted in the
            whole episode, or if it was not recorded.
        outcome: Numbers that the environment measured at the episode's end, by name. They are only reported.
        layout: The layout of packed observations, whose rows are uint8. None if an observation is O numbers.
        task: The task of an episode of `from_native`. None if it is not known.

    Raises:
        ValueError: A field has the wrong shape or type, is not finite, or exceeds the action bounds.
    """

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    terminated: bool
    truncated: bool
    is_success: bool
    mode: int = -1
    decision: np.ndarray | None = None
    outcome: Mapping[str, float] = field(default_factory=dict)
    layout: ObservationLayout | None = None
    task: TaskSpec | None = None
    proposals: Proposals | None = None
    arm: int = 0
    seed: int | None = None
    reward_kind: RewardKind = "dataset"
    human: np.ndarray | None = None
    solved_at: int | None = None

    def __post_init__(self) -> None:
        action = actions("action", self.action, ("T", "A"))
        if self.layout is not None:
            observation = packed("observation", self.observation, self.layout)
        else:
            observation = numbers("observation", self.observation, ("T + 1", "O"))
        reward = numbers("reward", self.reward, ("T",))
        steps = len(action)
        if steps < 1:
            raise ValueError("action has no rows: an episode needs at least one step")
        if len(observation) != steps + 1:
            raise ValueError(
                f"observation has {len(observation)} rows for {steps} actions, expected {steps + 1}: "
                + (
                    "append the final observation, seen after the last action and before any reset"
                    if len(observation) == steps
                    else "there is one before each action, and one after the last"
                )
            )
        if len(reward) != steps:
            raise ValueError(f"reward has {len(reward)} values for {steps} actions: give one per step")
        self._set("observation", observation)
        self._set("action", action)
        self._set("reward", reward)

        for name in ("terminated", "truncated", "is_success"):
            flag = np.asarray(getattr(self, name))
            if flag.shape or flag.dtype.kind != "b":
                raise ValueError(f"{name} must be one bool for the episode, got {kind_of(flag)}")
            self._set(name, bool(flag))
        if not (self.terminated or self.truncated):
            raise ValueError("terminated and truncated are both False: set truncated=True where an episode was cut off")
        mode = np.asarray(self.mode)
        if mode.shape or mode.dtype.kind not in "iu" or mode < -1:
            raise ValueError(f"mode must be one integer, 0 or more, or -1 if unknown, got {self.mode!r}")
        self._set("mode", int(mode))
        if self.decision is not None:
            decision = numbers("decision", self.decision, ("chunks", "K"))
            if not 1 <= len(decision) <= steps:
                raise ValueError(f"decision has {len(decision)} rows for {steps} actions: give one per chunk")
            self._set("decision", decision)
        if self.proposals is not None:
            self.proposals.require_fit(steps, self.action_dim)
        if type(self.arm) is not int or self.arm < 0:
            raise ValueError(f"arm must be one integer, 0 or more, got {self.arm!r}")
        if self.seed is not None and (type(self.seed) is not int or not 0 <= self.seed < 2**63):
            raise ValueError(
                f"seed must be one integer in 0 ... 2^63 - 1, or None if it is not known, got {self.seed!r}"
            )
        if self.solved_at is not None and (type(self.solved_at) is not int or not 1 <= self.solved_at <= steps):
            raise ValueError(f"solved_at must be one integer in 1 ... {steps}, or None, got {self.solved_at!r}")
        if self.reward_kind not in get_args(RewardKind):
            raise ValueError(f"reward_kind must be one of {', '.join(get_args(RewardKind))}, got {self.reward_kind!r}")
        if self.human is not None:
            human = np.array(self.human)
            if human.shape != (steps,) or human.dtype.kind != "b":
                raise ValueError(f"human must be one bool for each of the {steps} steps, got {kind_of(human)}")
            human.flags.writeable = False
            self._set("human", human)
        self._set("outcome", {name: float(value) for name, value in self.outcome.items()})

    @classmethod
    def from_native(
        cls,
        task: TaskSpec,
        observations: Any,
        actions: Any,
        rewards: Any,
        *,
        terminated: bool,
        truncated: bool,
        is_success: bool,
        mode: int = -1,
        final_observation_missing: bool = False,
        solved: np.ndarray | None = None,
    ) -> Episode:
        """Make an episode from a recording in the native format of a robot or an environment.

        Args:
            task: The specification of observations and actions, which sets the order of parts and the action scale.
            observations: T + 1 observations, the last one seen after the last action. A sequence of mappings (nested
                or flat) from names to arrays, or one mapping from names to arrays (T + 1, ...). If the task observes a
                single array, arrays take the place of the mappings.
            actions: T actions in native units. A sequence of arrays, an array (T, ...), or the same as mappings from
                names to arrays.
            rewards: The reward of each action, (T,).
            terminated: Whether the episode ended in a terminal state of the task.
            truncated: Whether the episode was cut off.
            is_success: Whether the task was solved.
            mode: The mode that the demonstrator chose, -1 if unknown.
            final_observation_missing: Whether there are only T observations, of which the last one is repeated in place
                of the missing one. This is exact for a terminated episode, whose final observation is never evaluated.
                The value of a truncated one is then bootstrapped from an observation that is one step old.
            solved: Bools (T,), after which steps the task is solved. None if that is not known.

        Raises:
            ValueError: The recording does not fit the task, or the episode is not valid. The message names the step and
                the part.
        """
        observation, action = rows_of(task, observations), actions_of(task, actions)
        rows, steps = len(observation), len(action)
        if final_observation_missing and rows != steps:
            raise ValueError(
                f"final_observation_missing is set, but there are {rows} observations for {steps} actions, expected as "
                "many"
            )
        if rows == steps and not final_observation_missing:
            raise ValueError(
                f"there are {rows} observations for {steps} actions, so the one after the last action is missing: give "
                "it, or set final_observation_missing=True to use the last one twice"
            )
        if final_observation_missing:
            observation = np.concatenate([observation, observation[-1:]])
        ending = terminated, truncated, is_success, mode
        solved_at = int(np.argmax(solved)) + 1 if solved is not None and np.any(solved) else None
        return cls(observation, action, rewards, *ending, layout=task.layout, task=task, solved_at=solved_at)

    def until(self, steps: int) -> Episode:
        """Return the first `steps` steps, 1 ... T, as an episode whose final observation is the one after them."""
        return replace(
            self,
            observation=self.observation[: steps + 1],
            action=self.action[:steps],
            reward=self.reward[:steps],
            human=None if self.human is None else self.human[:steps],
            proposals=None if self.proposals is None else self.proposals.until(steps),
            solved_at=self.solved_at if self.solved_at is not None and self.solved_at <= steps else None,
        )

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        outcome = "success" if self.is_success else "failure"
        end = "terminated" if self.terminated else "truncated"
        return (
            f"Episode({len(self)} steps, observation of {self.observation_dim}, action of {self.action_dim}, "
            f"return {self.reward.sum():g}, {outcome}, {end})"
        )

    def __len__(self) -> int:
        """The number T of primitive steps."""
        return len(self.action)

    @property
    def observation_dim(self) -> int:
        """The size O of an observation, in bytes if it is packed."""
        return self.observation.shape[1]

    @property
    def action_dim(self) -> int:
        """The size A of an action."""
        return self.action.shape[1]


def outcome_of(info: Mapping[str, Any]) -> dict[str, float]:
    """Return all named scalars in the `info` of a step, except `is_success`.

    Numbers beyond the largest float become infinite. Arrays, strings and other values are left out.
    """
    return {
        _as_text(name): _as_float(value)
        for name, value in info.items()
        if isinstance(name, str) and name not in ("", "is_success") and isinstance(value, _NUMBERS)
    }


_NUMBERS = bool | int | float | np.bool_ | np.integer | np.floating


def _as_text(name: str) -> str:
    """Return a plain string, even for a subclass such as an Enum. Lone surrogates, which files reject, are escaped."""
    return str.encode(name, "utf-8", "backslashreplace").decode()


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer too large for a float
        return math.inf if value > 0 else -math.inf
