"""A robot and a policy whose behaviour tests write down, and a loop around them that runs fast."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from softflow.robot import Action, ControlLoop, LoopSettings, Robot
from softflow.task import ActionPart, ObservationPart, TaskSpec

TASK = TaskSpec(
    (ObservationPart("count", (1,)),),
    (ActionPart("arm", (-1000.0,), (1000.0,)), ActionPart("hand", (0.0,), (1.0,))),
    rate=200.0,
)


class ScriptedRobot(Robot):
    """Counts its commands, observes the count, and ends after `steps` of them.

    Attributes:
        log: What was done, in order: numbers of the arm, and the names of methods.
        blocks: A method that blocks until `released`, from the third command on.
        raises: A method that raises an error, from the third command on.
    """

    def __init__(self, steps: int = 10, blocks: str = "", raises: str = "") -> None:
        self.steps, self.blocks, self.raises = steps, blocks, raises
        self.log = list[Any]()
        self.released = threading.Event()
        self.stopped_at: float | None = None
        self.broken_at: float | None = None
        self.pressed_after: int | None = None

    def reset(self) -> None:
        self.count = 0
        self.log.append("reset")

    def observe(self) -> Mapping[str, Any]:
        self._misbehave("observe")
        return {"count": np.array([float(self.count)])}

    def command(self, action: Action) -> None:
        assert list(action) == ["arm", "hand"] and action["hand"].tolist() == [0.5]
        self._misbehave("command")
        self.count += 1
        self.log.append(float(action["arm"][0]))

    def stop(self) -> None:
        self.stopped_at = time.perf_counter()
        self.log.append("stop")

    def is_success(self) -> bool:
        return True

    def is_stopped(self) -> bool:
        return self.pressed_after is not None and self.count >= self.pressed_after

    def has_ended(self) -> bool:
        return self.count >= self.steps

    def _misbehave(self, method: str) -> None:
        if self.count < 3 or method not in (self.blocks, self.raises):
            return
        self.broken_at = self.broken_at or time.perf_counter()
        if method == self.raises:
            raise OSError("the cable is out")
        self.released.wait(20)

    @property
    def commands(self) -> list[float]:
        return [entry for entry in self.log if isinstance(entry, float)]


def choose(observation: Mapping[str, Any], previous: Any, horizon: int = 8) -> np.ndarray:
    """A chunk whose numbers of the arm are those of the steps for which they are meant."""
    steps = observation["count"][0] + np.arange(horizon)
    return np.stack([steps, np.full(horizon, 0.5)], 1)


def make_loop(
    robot: Robot,
    policy: Any = choose,
    limit: Any = None,
    recording: Any = None,
    takeover: Any = None,
    **changes: Any,
) -> ControlLoop:
    settings = {"rate": 200.0, "n_action_steps": 4, "lead": 3, "stall": 5.0, "patience": 5.0, **changes}
    return ControlLoop(robot, TASK, policy, LoopSettings(**settings), limit, recording, takeover)
