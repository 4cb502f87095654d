"""Environments as robots."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from softflow.envs import make_env
from softflow.errors import UserError
from softflow.robot import GymnasiumRobot

TORQUE = {"action": np.array([1.0])}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_units_are_those_of_the_environment() -> None:
    native, robot = gymnasium.make("Pendulum-v1"), GymnasiumRobot(make_env("Pendulum-v1"), seed=3)
    expected, _ = native.reset(seed=3)
    robot.reset()
    np.testing.assert_array_equal(robot.observe()["observation"], expected)
    robot.command(TORQUE)
    np.testing.assert_allclose(robot.observe()["observation"], native.step(np.array([1.0]))[0], rtol=1e-6)
    robot.reset()
    np.testing.assert_array_equal(robot.observe()["observation"], native.reset(seed=4)[0])


@pytest.mark.parametrize(("waited", "steps"), [(0.05, 2), (0.07, 2), (0.11, 3), (0.25, 6)])
def test_the_world_goes_on_without_a_command(waited: float, steps: int) -> None:
    clock = Clock()
    robot, other = (GymnasiumRobot(make_env("Pendulum-v1"), rate, clock=clock) for rate in (20.0, None))
    for one in (robot, other):
        one.reset()
        one.command(TORQUE)
    clock.now = waited
    robot.command({"action": np.array([-1.0])})
    for step in range(1, steps):
        other.command(TORQUE if step < steps - 1 else {"action": np.array([-1.0])})
    np.testing.assert_array_equal(robot.observe()["observation"], other.observe()["observation"])


def test_an_episode_ends_with_that_of_the_environment() -> None:
    robot = GymnasiumRobot(make_env("Pendulum-v1", max_episode_steps=2))
    robot.reset()
    robot.command(TORQUE)
    assert not robot.has_ended()
    robot.command(TORQUE)
    assert robot.has_ended() and not robot.is_success()
    robot.command(TORQUE)  # the world stands still


def test_an_environment_without_a_description_is_refused() -> None:
    with pytest.raises(UserError, match=r"make it with softflow\.envs\.make_env"):
        GymnasiumRobot(gymnasium.make("Pendulum-v1"))
