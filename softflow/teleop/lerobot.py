"""LeRobot's teleoperators, such as leader arms, as devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from softflow.errors import UserError, did_you_mean
from softflow.named_classes import names_in
from softflow.task import TaskSpec
from softflow.teleop.device import Command, Device

if TYPE_CHECKING:
    from pygame.event import Event


class LeRobotTeleoperator(Device):
    """Acts as a `Teleoperator` of LeRobot says, in the units of the task. What leaves the bounds is clipped.

    Args:
        task: What is observed and done.
        teleoperator: Class of the teleoperator, such as `lerobot.teleoperators.so101_leader:SO101Leader`.
        order: What LeRobot calls the numbers of the action, in the order of the task, separated by commas. By default
            the names of the task.
        events: Whether the teleoperator's own buttons take over, give back and end the episode (`get_teleop_events`).
        config: Arguments of the teleoperator's `config_class`, such as `port` and `id`.

    Raises:
        UserError: There is no such class, or its numbers have other names.
    """

    def __init__(self, task: TaskSpec, teleoperator: str, order: str = "", events: bool = False, **config: Any) -> None:
        super().__init__(task)
        self._order = [name.strip() for name in order.split(",")] if order else task.action_names
        constructor = _class_of(teleoperator)
        self._teleoperator = constructor(constructor.config_class(**config))
        features = self._teleoperator.action_features
        _require_same_names(self._order, list(features.get("names", features)), len(task.low))
        self._has_events, self._intervenes = events, False
        self._teleoperator.connect()

    def act(self) -> NDArray[np.floating]:
        given = self._teleoperator.get_action()
        native = np.array([float(given[name]) for name in self._order])
        return self.task.unit_actions(native.clip(self.task.low, self.task.high))

    def listen(self, events: Sequence[Event]) -> list[Command]:
        if not self._has_events:
            return []
        given: Mapping[Any, Any] = self._teleoperator.get_teleop_events()
        said = {getattr(event, "value", event): bool(value) for event, value in given.items()}
        before, self._intervenes = self._intervenes, said.get("is_intervention", False)
        commands = [Command.TAKE_OVER if self._intervenes else Command.GIVE_BACK] * (self._intervenes != before)
        return [*commands, Command.KEEP] if said.get("terminate_episode") else commands


def _class_of(name: str) -> Any:
    """Return the class `module:Class`. It need not be LeRobot's, as long as it has the interface."""
    found, class_name = names_in("teleoperator", name), name.partition(":")[2]
    classes = [key for key, value in found.items() if hasattr(value, "config_class") and hasattr(value, "get_action")]
    if isinstance(found.get(class_name), type) and class_name not in classes:
        raise UserError(
            f"teleoperator {name!r}: the class {class_name!r} does not have the interface of LeRobot's teleoperators: "
            "it needs `config_class` and `get_action`"
        )
    if class_name not in classes:
        raise UserError(f"teleoperator {name!r}: {did_you_mean(class_name, classes)} Name it module:Class.")
    return found[class_name]


def _require_same_names(order: Sequence[str], given: Sequence[str], size: int) -> None:
    if sorted(order) != sorted(given) or len(order) != size:
        raise UserError(
            f"the action has the numbers {', '.join(order)}, the teleoperator gives {', '.join(given)}: name the "
            "teleoperator's in the order of the action by the option `order`, such as 'pan.pos, lift.pos'"
        )
