"""Devices that move numbers up and down: where they rest, how far and how fast they move, and what they press."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pygame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pygame.event import Event

from softflow.task import ActionPart, ObservationPart, TaskSpec
from softflow.teleop import Command, gamepad
from softflow.teleop.gamepad import FULL, Gamepad
from softflow.teleop.keyboard import KEYS, PAIRS, Keyboard
from softflow.teleop.manual import Manual


def task_of(low: Any, high: Any, rate: float = 10.0) -> TaskSpec:
    return TaskSpec((ObservationPart("place", (2,)),), (ActionPart("motion", low, high),), rate)


def task_of_size(size: int) -> TaskSpec:
    return task_of((-1.0,) * size, (1.0,) * size)


class Deflected(Manual):
    CONTROLS = "a", "b", "c"
    given = (0.0, 0.0, 0.0)

    def deflections(self) -> np.ndarray:
        return np.array(self.given)


def moved(device: Deflected, *deflections: float) -> list[float]:
    device.given = deflections  # type: ignore[assignment]
    return device.act().tolist()


BOUNDS = st.lists(st.floats(-10, 10), min_size=2, max_size=2, unique=True).map(sorted)


@given(st.lists(BOUNDS, min_size=3, max_size=3), st.lists(st.floats(-1, 1), min_size=3, max_size=3), st.booleans())
def test_actions_stay_in_bounds_and_rest_at_zero(bounds: list[list[float]], deflections: Any, hold: bool) -> None:
    low, high = zip(*bounds, strict=True)
    device = Deflected(task := task_of(low, high), speed=1.0, hold=hold)
    rest = task.native_actions(moved(device, 0, 0, 0), np.float64)
    # float32 keeps a share of the larger bound
    np.testing.assert_allclose(rest, np.clip(0, low, high), atol=2e-5)
    for _ in range(30):
        assert np.abs(moved(device, *deflections)).max() <= 1


def test_actions_spring_back() -> None:
    device = Deflected(task_of((-1, -0.5, 0), (1, 1.5, 2)), speed=0.5)
    assert moved(device, 0, 0, 0) == [0, -0.5, -1]
    assert moved(device, 1, 1, 1) == [0.5, 0.25, 0]
    assert moved(device, -0.5, -1, -1) == [-0.25, -0.75, -1]
    assert moved(device, 0, 0, 0) == [0, -0.5, -1]


def test_actions_are_held_until_the_episode_ends() -> None:
    device = Deflected(task_of((-1, -0.5, 0), (1, 1.5, 2), rate=8), speed=0.5, hold=True)  # an eighth of 1 per step
    assert moved(device, 1, 0, -1) == [0.125, -0.5, -1]
    assert moved(device, 1, 1, 0) == [0.25, -0.375, -1]
    assert moved(device, 0, 0, 0) == [0.25, -0.375, -1]
    device.reset()
    assert moved(device, 0, 0, 0) == [0, -0.5, -1]


def test_a_takeover_goes_on_from_the_last_action() -> None:
    """Held and toggled numbers stay where they are; others spring back to rest."""
    held = Deflected(task_of_size(3), speed=0.5, hold=True, toggle=2)  # 0.1 per step
    held.take_over(np.float32([0.5, -0.25, 0.75]))
    assert moved(held, 0, 0, 0) == [0.5, -0.25, 1]
    assert moved(held, 1, 0, -1) == pytest.approx([0.6, -0.25, -1])
    springing = Deflected(task_of_size(3), toggle="2")
    springing.take_over(np.float32([0.5, -0.25, 0.75]))
    assert moved(springing, 0, 0, 0) == [0, 0, 1]


@pytest.mark.parametrize("toggle", [1, "1", " 1 ,"])
def test_a_toggled_number_has_two_values(toggle: int | str) -> None:
    device = Deflected(task_of_size(3), toggle=toggle)
    values = [moved(device, 0, deflection, 0)[1] for deflection in (0, 0.4, 0.6, 0, 1, -0.4, -1, 0)]
    assert values == [-1, -1, 1, 1, 1, 1, -1, -1]


def test_a_page_of_numbers_is_moved_at_a_time() -> None:
    device = Deflected(task_of_size(5), speed=1.0)
    assert device.labels() == ["a", "b", "c", "", ""] and moved(device, 1, 1, 1) == [1, 1, 1, 0, 0]
    device.turn_page()
    assert device.labels() == ["", "", "", "a", "b"] and moved(device, 1, 1, 1) == [0, 0, 0, 1, 1]
    device.turn_page()
    assert device.labels() == ["a", "b", "c", "", ""]


def test_the_speed_stays_in_its_limits() -> None:
    device = Deflected(task_of_size(3), speed=0.8)
    assert device.settings() == "speed 0.8, springing back"
    for steps, speed in ((1, 0.9), (1, 1.0), (1, 1.0), (-20, 0.1)):
        device.accelerate(steps)
        assert moved(device, 1, 0, -1) == pytest.approx([speed, 0, -speed])


# ------------------------------------------------------------------------------------------------------- keyboard


def key(code: int, kind: int = pygame.KEYDOWN) -> Event:
    return Event(kind, key=code)


def test_every_key_moves_one_number() -> None:
    device = Keyboard(task_of_size(len(PAIRS)), speed=1.0)
    letters = {code: meaning for code, meaning in KEYS.items() if code < 128}
    assert len(letters) == 2 * len(PAIRS) == 40
    for code, (number, sign) in KEYS.items():
        device.listen([key(code)])
        assert device.act().tolist() == (sign * np.eye(len(PAIRS))[number]).tolist()
        device.listen([key(code, pygame.KEYUP)])
        assert not device.act().any()


def test_both_keys_of_a_number_cancel() -> None:
    device = Keyboard(task_of_size(2))
    device.listen([key(pygame.K_q), key(pygame.K_a), key(pygame.K_w)])
    assert device.act().tolist() == [0, 0.5]


def test_thirty_numbers_are_reached_by_turning_the_page() -> None:
    device = Keyboard(task_of_size(30), speed=1.0)
    device.listen([key(pygame.K_PAGEDOWN), key(pygame.K_q)])
    assert np.flatnonzero(device.act()).tolist() == [20]
    assert device.labels()[19:21] == ["", "A Q"]


# -------------------------------------------------------------------------------------------------------- gamepad


@pytest.fixture
def pad(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Gamepad]:
    monkeypatch.setattr(gamepad, "open_gamepad", lambda: None)
    return lambda size: Gamepad(task_of_size(size), speed=1.0)


def axis(number: int, value: int) -> Event:
    return Event(pygame.CONTROLLERAXISMOTION, axis=number, value=value)


def button(number: int, kind: int = pygame.CONTROLLERBUTTONDOWN) -> Event:
    return Event(kind, button=number)


@pytest.mark.parametrize(
    ("event", "action"),
    [
        (axis(pygame.CONTROLLER_AXIS_LEFTX, FULL), [1, 0, 0, 0, 0, 0, 0, 0]),
        (axis(pygame.CONTROLLER_AXIS_LEFTY, -FULL), [0, 1, 0, 0, 0, 0, 0, 0]),
        (axis(pygame.CONTROLLER_AXIS_RIGHTY, FULL), [0, 0, -1, 0, 0, 0, 0, 0]),
        (axis(pygame.CONTROLLER_AXIS_RIGHTX, -FULL - 1), [0, 0, 0, -1, 0, 0, 0, 0]),
        (axis(pygame.CONTROLLER_AXIS_TRIGGERLEFT, FULL), [0, 0, 0, 0, -1, 0, 0, 0]),
        (axis(pygame.CONTROLLER_AXIS_TRIGGERRIGHT, FULL), [0, 0, 0, 0, 1, 0, 0, 0]),
        (button(pygame.CONTROLLER_BUTTON_LEFTSHOULDER), [0, 0, 0, 0, 0, -1, 0, 0]),
        (button(pygame.CONTROLLER_BUTTON_DPAD_UP), [0, 0, 0, 0, 0, 0, 1, 0]),
        (button(pygame.CONTROLLER_BUTTON_DPAD_RIGHT), [0, 0, 0, 0, 0, 0, 0, 1]),
        (axis(pygame.CONTROLLER_AXIS_LEFTX, FULL // 20), [0] * 8),  # a stick does not rest exactly at zero
    ],
)
def test_sticks_and_buttons_move_numbers(pad: Any, event: Event, action: list[float]) -> None:
    device = pad(8)
    assert device.listen([event]) == []
    assert device.act().tolist() == action
    device.listen([])
    assert device.act().tolist() == action  # until it is released


def test_buttons_are_released(pad: Any) -> None:
    device = pad(8)
    device.listen([button(pygame.CONTROLLER_BUTTON_DPAD_UP)])
    device.listen([button(pygame.CONTROLLER_BUTTON_DPAD_UP, pygame.CONTROLLERBUTTONUP)])
    assert not device.act().any()


def test_buttons_give_commands(pad: Any) -> None:
    buttons = (getattr(pygame, f"CONTROLLER_BUTTON_{name}") for name in ("START", "A", "LEFTSTICK", "B", "Y"))
    device = pad(2)
    commands = device.listen([*map(button, buttons)])
    assert commands == [Command.PAUSE, Command.KEEP, Command.DISCARD, Command.SUCCESS]
    assert device.settings().startswith("speed 0.9")


def test_a_gamepad_that_was_disconnected_ends_the_recording(pad: Any) -> None:
    with pytest.raises(ValueError, match="the gamepad was disconnected"):
        pad(2).listen([Event(pygame.CONTROLLERDEVICEREMOVED)])
