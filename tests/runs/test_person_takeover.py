"""What a person asks for between two episodes of a robot: only quitting counts."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pygame
import pytest
from pygame.event import Event

from softflow.errors import UserError
from softflow.runs.person_takeover import PersonTakeover
from softflow.task import ActionPart, ObservationPart, TaskSpec
from softflow.teleop import Command, Device

TASK = TaskSpec((ObservationPart("joints", (1,)),), (ActionPart("target", (-1.0,), (1.0,)),), rate=50.0)


class Buttons(Device):
    """A device whose buttons give the commands that it holds, once."""

    held: Sequence[Command] = ()

    def listen(self, events: Sequence[Any]) -> list[Command]:
        held, self.held = [*self.held], ()
        return held

    def act(self) -> np.ndarray:
        return np.zeros(1, np.float32)


def person(*events: Event, held: Sequence[Command] = ()) -> PersonTakeover:
    device = Buttons(TASK)
    device.held = held
    given: Any = SimpleNamespace(events=lambda: events)
    return PersonTakeover(TASK, device, given)


@pytest.mark.parametrize(
    "quitting",
    [
        person(Event(pygame.QUIT)),
        person(Event(pygame.KEYDOWN, key=pygame.K_ESCAPE)),
        person(held=[Command.QUIT]),
    ],
    ids=["window", "key", "button"],
)
def test_a_person_who_quits_between_episodes_is_heard(quitting: PersonTakeover) -> None:
    with pytest.raises(UserError, match="a person quit"):
        quitting.reset()


def test_other_commands_from_before_an_episode_have_no_effect() -> None:
    waiting = person(Event(pygame.KEYDOWN, key=pygame.K_SPACE), held=[Command.KEEP, Command.TAKE_OVER])
    waiting.reset()
    waiting._window = SimpleNamespace(events=lambda: [])  # type: ignore[assignment]
    assert waiting.act(None) is None and not waiting.has_ended()
