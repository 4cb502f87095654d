"""One description of what a robot sees and does, carried from the data to the robot."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softflow.errors import UserError, did_you_mean
from softflow.task.layout import ObservationLayout, ObservationSize
from softflow.task.parts import ACTION_TOLERANCE, ActionPart, ObservationPart, duplicate

WHOLE = "observation"
"""The name of the one part of an observation that is an array and no mapping."""


class TaskMismatch(UserError):
    """Two descriptions that should be of one task are not; the message names every difference."""


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
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise ValueError(f"the control rate must be a positive number of hertz, got {self.rate}")
        if not self._free.any():
            raise ValueError("no number of the action has more than one possible value")

    # ------------------------------------------------------------------------------------------------- observations

    @cached_property
    def layout(self) -> ObservationLayout | None:
        """How a row holds images and numbers as bytes. None if an observation is numbers alone."""
        packed = tuple(part.packed for part in self.observation)
        return ObservationLayout(packed) if any(part.is_image for part in self.observation) else None

    @property
    def observation_size(self) -> ObservationSize:
        """O, or the layout of packed observations: what a policy is built with."""
        return self.layout or sum(part.packed.size for part in self.observation)

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
        for part in self.observation:
            array, is_batch = part.batched(self._find(observation, part.name))
            batches[part.name] = len(array) if is_batch else None
            arrays.append(part.pack(array).reshape(len(array), -1))
        if len(set(batches.values())) > 1:
            sizes = ", ".join(f"{name}: {'none' if size is None else size}" for name, size in batches.items())
            raise ValueError(f"the parts of the observation have different batch sizes ({sizes})")
        if self.layout is not None:
            arrays = [np.ascontiguousarray(array).view(np.uint8) for array in arrays]
        return np.concatenate(arrays, 1), next(iter(batches.values())) is not None

    def _find(self, observation: Any, name: str) -> Any:
        if not isinstance(observation, Mapping):
            if len(self.observation) == 1:
                return observation
            names = ", ".join(part.name for part in self.observation)
            raise ValueError(f"an observation must be a mapping with the keys {names}, got {type(observation)}")
        if name in observation:
            return observation[name]
        found: Any = observation
        for key in name.split("/"):
            if not isinstance(found, Mapping) or key not in found:
                raise ValueError(f"the observation has no {name!r}: {did_you_mean(name, map(str, observation))}")
            found = found[key]
        return found

    # ------------------------------------------------------------------------------------------------------ actions

    @property
    def action_dim(self) -> int:
        """A: numbers of an action that are learnt; those with one possible value are not among them."""
        return int(self._free.sum())

    @cached_property
    def low(self) -> NDArray[np.float64]:
        """The lowest values of all numbers of an action, (N,), in native units."""
        return np.concatenate([part.low for part in self.action])

    @cached_property
    def high(self) -> NDArray[np.float64]:
        """The highest values, (N,)."""
        return np.concatenate([part.high for part in self.action])

    @cached_property
    def _free(self) -> NDArray[np.bool_]:
        return self.low < self.high

    def unit_actions(self, action: Any) -> NDArray[np.float32]:
        """Scale native actions to [-1, 1].

        Args:
            action: Actions (..., N) in native units, or a mapping from the names of the parts to (..., n).

        Returns:
            (..., A). Numbers that have one possible value are left out.

        Raises:
            ValueError: A part is missing, has another shape, is not finite, or leaves its bounds; the message names it.
        """
        native = self._joined(action)
        low, high = self.low, self.high
        slack = ACTION_TOLERANCE * np.maximum(high - low, np.maximum(np.abs(low), np.abs(high)))
        outside = ~((native >= low - slack) & (native <= high + slack))  # NaN is outside, too
        if outside.any():
            *where, column = np.argwhere(outside)[0].tolist()
            at = f" of action {where[0] if len(where) == 1 else where}" if where else ""
            raise ValueError(
                f"{self._number(column)} = {native[(*where, column)]:g}{at} is outside its bounds "
                f"{low[column]:g} ... {high[column]:g}"
            )
        free_low, free_high = low[self._free], high[self._free]
        given = native[..., self._free]
        is_unit = (free_low == -1) & (free_high == 1)  # the scaling would round
        unit = np.where(is_unit, given, 2 * (given - free_low) / (free_high - free_low) - 1)
        return unit.clip(-1, 1).astype(np.float32)

    def native_actions(self, unit: NDArray[np.floating]) -> NDArray[np.float32]:
        """Scale actions in [-1, 1] to native units: (..., A) -> (..., N). No number leaves its bounds by rounding."""
        native = np.broadcast_to(self.low, (*unit.shape[:-1], len(self.low))).copy()
        low, high = self.low[self._free], self.high[self._free]
        native[..., self._free] += (np.asarray(unit, np.float64) + 1) / 2 * (high - low)
        return np.clip(native, self.low, self.high).astype(np.float32)

    def _joined(self, action: Any) -> NDArray[np.float64]:
        if isinstance(action, Mapping):
            known = [part.name for part in self.action]
            for name in action:
                if name not in known:
                    raise ValueError(f"the action has no part {name!r}: {did_you_mean(str(name), known)}")
            parts = []
            for part in self.action:
                if part.name not in action:
                    raise ValueError(f"action {part.name!r} is missing, got {', '.join(map(str, action)) or 'nothing'}")
                parts.append(_numbers(f"action {part.name!r}", action[part.name], part.size))
            return np.concatenate(parts, -1)
        names = ", ".join(f"{part.name} ({part.size})" for part in self.action)
        return _numbers(f"an action ({names})", action, len(self.low))

    def _number(self, column: int) -> str:
        for part in self.action:
            if column < part.size:
                return f"{part.name}[{column}]"
            column -= part.size
        raise IndexError(column)

    # --------------------------------------------------------------------------------------------------- comparison

    def differences(self, other: TaskSpec) -> list[str]:
        """Everything in which `other` is another task, in words, with this one as what is expected.

        Names, shapes, dtypes of images, order, bounds of actions and the control rate count. The control rate does not
        where one of the two does not know it, and neither does what counts as a success.
        """
        found = []
        for kind in ("observation", "action"):
            expected, got = ({part.name: part for part in getattr(spec, kind)} for spec in (self, other))
            found += [f"{kind} {name!r} is missing" for name in expected if name not in got]
            found += [f"{kind} {name!r} is not expected" for name in got if name not in expected]
            for name in expected:
                if name in got and (what := _difference(expected[name], got[name])):
                    found.append(f"{kind} {name!r} {what}")
            if not found and list(expected) != list(got):
                found.append(f"the {kind} has the order {', '.join(got)}, expected {', '.join(expected)}")
        if None not in (self.rate, other.rate) and not math.isclose(self.rate or 0, other.rate or 0, rel_tol=1e-3):
            found.append(f"the control rate is {other.rate:g} Hz, expected {self.rate:g} Hz")
        return found

    def require_same(self, other: TaskSpec, what: str) -> None:
        """Check that `other`, which belongs to `what`, describes the same task.

        Raises:
            TaskMismatch: It does not.
        """
        if found := self.differences(other):
            raise TaskMismatch(f"{what}: {'; '.join(found)}")

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
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not the description of a task ({type(error).__name__}: {error})") from error


def _numbers(what: str, value: Any, size: int) -> NDArray[np.float64]:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or array.ndim < 1 or array.shape[-1] != size:
        raise ValueError(f"{what} is {array.dtype} of shape {array.shape}, expected {size} numbers along the last axis")
    return array.astype(np.float64)


def _difference(expected: ObservationPart | ActionPart, got: ObservationPart | ActionPart) -> str:
    if isinstance(expected, ObservationPart) and isinstance(got, ObservationPart):
        if got.shape != expected.shape:
            return f"has shape {got.shape}, expected {expected.shape}"
        if got.axes != expected.axes:
            return f"is {_meaning(got)}, expected {_meaning(expected)}"
        if got.value_range != expected.value_range or got.categories != expected.categories:
            values, wanted = (part.value_range or part.categories for part in (got, expected))
            return f"has the values {values}, expected {wanted}"
        return ""
    assert isinstance(expected, ActionPart) and isinstance(got, ActionPart)
    if got.size != expected.size:
        return f"has {got.size} numbers, expected {expected.size}"
    for index, bounds in enumerate(zip(got.low, got.high, expected.low, expected.high, strict=True)):
        if not np.allclose(bounds[:2], bounds[2:], rtol=1e-5, atol=1e-8):
            return f"has [{index}] in {bounds[0]:g} ... {bounds[1]:g}, expected {bounds[2]:g} ... {bounds[3]:g}"
    return ""


def _meaning(part: ObservationPart) -> str:
    return f"an image with the axes {part.axes}" if part.is_image else "numbers"
