"""One description of what a robot sees and does, carried from the data to the robot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softflow.errors import UserError, nearest
from softflow.task.actions import ActionScale
from softflow.task.comparison import difference, likely_renamed, parts_in_order
from softflow.task.layout import ObservationLayout, ObservationSize
from softflow.task.nested import arrays_by_name
from softflow.task.parts import UNNAMED, ActionPart, ObservationPart, duplicate, joined
from softflow.task.words import task_in_words


class TaskMismatch(UserError):
    """Two descriptions that should be of one task are not; the message names every difference.

    Attributes:
        renaming: Pairs such as `goal=target`, which say under what names missing parts may be there. None if all parts
            that are there are expected.
    """

    def __init__(self, message: str, renaming: str | None = None) -> None:
        super().__init__(message)
        self.renaming = renaming


@dataclass(frozen=True)
class TaskSpec:
    """What a robot sees and does.

    Inside softflow an observation is one row and an action lies in [-1, 1]. A `TaskSpec` is the only thing that knows
    how they come about: `rows` and `unit_actions` lead in, `native_actions` leads out.

    Attributes:
        observation: The parts of an observation, in the order in which a row holds them.
        action: The parts of an action, in the order in which an action vector holds them.
        rate: The control rate in hertz. None if it is not known.
        success: Which episodes count as successes: `last`, `any` or `return>=X`.
        name: What errors call the task, such as the id of an environment.

    Raises:
        ValueError: Two parts have one name, there is none, or nothing is left to be learnt.
    """

    observation: tuple[ObservationPart, ...]
    action: tuple[ActionPart, ...]
    rate: float | None = None
    success: str = "last"
    name: str = ""

    def __post_init__(self) -> None:
        for kind, parts in (("observation", self.observation), ("action", self.action)):
            if not parts:
                raise ValueError(f"a task needs at least one part of an {kind}")
            if (twice := duplicate(parts)) is not None:
                raise ValueError(f"two parts of the {kind} are called {twice!r}: rename one")
        if not (isinstance(self.success, str) and isinstance(self.name, str)):
            raise ValueError(f"success and name of a task are texts, got {self.success!r} and {self.name!r}")
        if self.rate is not None and not (isinstance(self.rate, int | float) and 0 < self.rate < math.inf):
            raise ValueError(f"the control rate must be a positive number of hertz, got {self.rate}")
        if not self.action_dim:
            raise ValueError("no number of the action has more than one possible value")

    def __str__(self) -> str:
        """Return the text that `softflow-data info` prints, with the bounds of actions: one part or number a line."""
        return task_in_words(self.describe(), self.action_names)

    # ------------------------------------------------------------------------------------------------- observations

    @cached_property
    def layout(self) -> ObservationLayout | None:
        """How a row holds images and numbers as bytes. None if an observation is numbers alone."""
        packed = tuple(part.packed for part in self.observation)
        return ObservationLayout(packed) if any(part.is_image for part in self.observation) else None

    @property
    def observation_size(self) -> ObservationSize:
        """O, or the layout of packed observations: what a policy is built with."""
        return self.layout or self.row_size

    @property
    def row_size(self) -> int:
        """O: how many numbers, or bytes where there are images, a row has."""
        return self.layout.size if self.layout is not None else sum(part.packed.size for part in self.observation)

    @property
    def columns(self) -> dict[str, NDArray[np.int64]]:
        """The columns of each part in a row, by its name: numbers, or bytes where there are images."""
        if self.layout is not None:
            return {name: np.arange(columns.start, columns.stop) for name, columns in self.layout.slices.items()}
        bounds = pairwise(accumulate((part.packed.size for part in self.observation), initial=0))
        return {part.name: np.arange(*one) for part, one in zip(self.observation, bounds, strict=True)}

    def rows(self, observation: Any) -> tuple[NDArray[Any], bool]:
        """Turn observations as a robot gives them into rows.

        Args:
            observation: A mapping from names to arrays, nested or flat, of one observation or of B. Other keys may be
                in it. A task whose observation is one array takes the array itself as well.

        Returns:
            Rows (B, O): float32, or uint8 where there are images. And whether a batch axis was given.

        Raises:
            ValueError: A part is missing, has another shape, or is not finite; the message names it.
        """
        arrays, batches = [], {}
        given = arrays_by_name(observation, [part.name for part in self.observation])
        for part in self.observation:
            if part.name not in given:
                near = nearest(part.name, given)
                hint = f"did you mean {near!r}? " if near else ""
                raise ValueError(f"the observation has no {part.name!r}: {hint}it has {', '.join(given)}")
            array, is_batch = part.batched(given[part.name])
            batches[part.name] = len(array) if is_batch else None
            arrays.append(array)
        if len(set(batches.values())) > 1:
            sizes = ", ".join(f"{name}: {'none' if size is None else size}" for name, size in batches.items())
            raise ValueError(f"the parts of the observation have different batch sizes ({sizes})")
        return self.join(arrays), next(iter(batches.values())) is not None

    def join(self, arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Make rows (B, O) of the parts of observations, (B, *shape) each, in the order of the parts.

        Raises:
            ValueError: A part is not finite as float32, or is none of its categories; the message names it.
        """
        columns = [
            part.pack(array).reshape(len(array), -1 if len(array) else part.packed.size)
            for part, array in zip(self.observation, arrays, strict=True)
        ]
        if self.layout is not None:
            columns = [np.ascontiguousarray(column).view(np.uint8) for column in columns]
        return np.concatenate(columns, 1)

    def split(self, rows: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return the parts of rows (B, O) by name, as `ObservationPart.pack` stores them: (B, *packed.shape)."""
        if self.layout is not None:
            return self.layout.unpack(rows)
        return {
            part.name: rows[:, self.columns[part.name]].reshape(len(rows), *part.packed.shape)
            for part in self.observation
        }

    def named(self, row: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Return the parts of one row (O,) by name, in native units: an observation from which `rows` makes the row."""
        parts = self.split(row[None])
        return {part.name: part.unpack(parts[part.name])[0] for part in self.observation}

    # ------------------------------------------------------------------------------------------------------ actions

    @cached_property
    def _scale(self) -> ActionScale:
        return ActionScale(self.action)

    @property
    def low(self) -> NDArray[np.float64]:
        """The lowest values of all numbers of an action, (N,), in native units."""
        return self._scale.low

    @property
    def high(self) -> NDArray[np.float64]:
        """The highest values, (N,)."""
        return self._scale.high

    @property
    def action_dim(self) -> int:
        """A: numbers of an action that are learnt; those with one possible value are not among them."""
        return self._scale.size

    @property
    def action_names(self) -> list[str]:
        """The name of each number of a native action, (N,), such as `arm[0]`, or `grip` for a part of one number."""
        return [
            part.name if part.size == 1 else f"{part.name}[{index}]"
            for part in self.action
            for index in range(part.size)
        ]

    def unit_actions(self, action: Any) -> NDArray[np.float32]:
        """Scale native actions to [-1, 1].

        Args:
            action: Actions (..., N) in native units, or a mapping from the names of the parts to (..., n).

        Returns:
            (..., A). Numbers that have one possible value are left out.

        Raises:
            ValueError: A part is missing, has another shape, is not finite, or leaves its bounds; the message names it.
        """
        return self._scale.to_unit(action)

    def native_actions(self, unit: Any, dtype: Any = np.float32) -> NDArray[Any]:
        """Scale actions in [-1, 1] to native units: (..., A) -> (..., N), in a dtype of floats.

        What lies beyond [-1, 1] is clipped, and no number leaves its bounds by rounding.

        Raises:
            ValueError: These are not A numbers along the last axis.
        """
        return self._scale.to_native(unit, dtype)

    # --------------------------------------------------------------------------------------------------- comparison

    def differences(self, other: TaskSpec) -> list[str]:
        """Everything in which `other` is another task, in words, with this one as what is expected.

        Names, shapes, dtypes of images, order, bounds of actions and the control rate count. The control rate does not
        where one of the two does not know it, and neither does what counts as a success. An environment whose actions
        are one array does not name them; only their bounds are then compared, in order.
        """
        found = []
        for kind in ("observation", "action"):
            expected, got = ({part.name: part for part in getattr(spec, kind)} for spec in (self, other))
            if kind == "action" and [UNNAMED] in (list(expected), list(got)):  # a Box has no names: its numbers count
                expected, got = ({UNNAMED: joined(spec.action)} for spec in (self, other))
            found += [f"{kind} {name!r} is missing" for name in expected if name not in got]
            found += [f"{kind} {name!r} is not expected" for name in got if name not in expected]
            for name in expected:
                if name in got and (what := difference(expected[name], got[name])):
                    found.append(f"{kind} {name!r} {what}")
            if expected.keys() == got.keys() and list(expected) != list(got):
                found.append(f"the {kind} has the order {', '.join(got)}, expected {', '.join(expected)}")
        if None not in (self.rate, other.rate) and not math.isclose(self.rate or 0, other.rate or 0, rel_tol=1e-3):
            found.append(f"the control rate is {other.rate:g} Hz, expected {self.rate:g} Hz")
        return found

    def ordered_as(self, other: TaskSpec) -> TaskSpec:
        """Return this task with its parts in the order of another one, where both have the same names."""
        observation = parts_in_order(other.observation, self.observation)
        return replace(self, observation=observation, action=parts_in_order(other.action, self.action))

    def require_same(self, other: TaskSpec, what: str) -> None:
        """Check that `other`, which belongs to `what`, describes the same task.

        Raises:
            TaskMismatch: It does not.
        """
        if found := self.differences(other):
            pairs = list[str]()
            if joined(self.action).size == joined(other.action).size:  # otherwise no names help
                pairs += likely_renamed(self.observation, other.observation)
                pairs += likely_renamed(self.action, other.action)
            raise TaskMismatch(f"{what}: {'; '.join(found)}", " ".join(pairs) or None)

    # ------------------------------------------------------------------------------------------------- environments

    @classmethod
    def from_env(cls, env: Any, observed_as: Mapping[str, str] | None = None) -> TaskSpec:
        """Read from an environment what it observes and how it acts.

        Args:
            env: An environment of `softflow.envs.make_env`, which brings its description, any other of gymnasium, or a
                vector environment of either.
            observed_as: What parts of the observation are taken for, by name: `"numbers"`, or the axes of an image by a
                letter each, such as `"CHW"`. It is needed where the spaces do not tell.

        Raises:
            UserError: The spaces have no fixed number of numbers, or leave open what is an image; or the actions are
                not a bounded Box.
        """
        single = "single_" if hasattr(env, "single_observation_space") else ""
        observation, action = getattr(env, f"{single}observation_space"), getattr(env, f"{single}action_space")
        known = env.metadata.get("task_spec")
        if isinstance(known, cls) and _are_described(env.metadata, observation, action, is_vector=bool(single)):
            if observed_as is not None:
                raise UserError("the environment is described already: give observed_as to make_env instead")
            return known
        from softflow.task.spaces import action_parts, control_rate, observation_parts  # robots need no gymnasium

        name = env.spec.id if getattr(env, "spec", None) is not None else type(env.unwrapped).__name__
        return cls(
            observation=observation_parts(observation, {} if observed_as is None else observed_as, repr(name)),
            action=action_parts(action, repr(name)),
            rate=control_rate(env, repr(name)),
            name=name,
        )

    # --------------------------------------------------------------------------------------------------------- JSON

    def describe(self) -> dict[str, Any]:
        """Return plain values that JSON has, from which `build` makes the same description."""
        return {
            "name": self.name,
            "observation": [part.describe() for part in self.observation],
            "action": [part.describe() for part in self.action],
            "rate": self.rate,
            "success": self.success,
        }

    @classmethod
    def build(cls, described: Mapping[str, Any]) -> TaskSpec:
        """Make the description that `describe` described.

        Raises:
            ValueError: These are not the values of a description.
        """
        try:
            return cls(
                observation=tuple(map(ObservationPart.build, described["observation"])),
                action=tuple(map(ActionPart.build, described["action"])),
                rate=described["rate"],
                success=described["success"],
                name=described["name"],
            )
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"not the description of a task ({type(error).__name__}: {error})") from error


def _are_described(metadata: Mapping[str, Any], observation: Any, action: Any, is_vector: bool) -> bool:
    """Whether the spaces are those that `make_env` left, or in a vector environment chunks of them.

    A wrapper around an environment of `make_env` may have made others of them, which its description is not of.
    """
    if "task_spaces" not in metadata:
        return False
    rows, unit = metadata["task_spaces"]
    if is_vector and len(action.shape or ()) == 2:
        return observation.shape[1:] == rows.shape and action.shape[1:] == unit.shape
    return observation == rows and action == unit
