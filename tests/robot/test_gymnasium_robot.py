"""Environments as robots."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest

from softflow.envs import make_env
from softflow.errors import UserError
from softflow.robot import GymnasiumRobot
from softflow.task import ActionPart

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


def test_a_policy_may_name_the_numbers_of_the_action() -> None:
    robot, other = (GymnasiumRobot(make_env("Pendulum-v1")) for _ in range(2))
    robot.require_task(replace(robot.task, action=(ActionPart("torque", (-2.0,), (2.0,)),)))
    for one, name in ((robot, "torque"), (other, "action")):
        one.reset()
        one.command({name: np.array([1.0])})
    np.testing.assert_array_equal(robot.observe()["observation"], other.observe()["observation"])
    with pytest.raises(UserError, match=r"action 'action' has \[0\] in -2 \.\.\. 2, expected -3 \.\.\. 3"):
        robot.require_task(replace(robot.task, action=(ActionPart("torque", (-3.0,), (3.0,)),)))


def test_only_other_bounds_are_said_to_come_from_demonstrations() -> None:
    robot = GymnasiumRobot(make_env("Pendulum-v1"))
    with pytest.raises(UserError) as refused:
        robot.require_task(replace(robot.task, rate=7.0))
    assert "expected 7 Hz" in str(refused.value) and "demonstrations" not in str(refused.value)
    wider = replace(robot.task, action=(ActionPart("action", (-3.0,), (2.0,)),))
    with pytest.raises(UserError, match=r"the bounds of its demonstrations.*docs/start/your-data\.md"):
        robot.require_task(wider)


def test_the_environment_may_have_the_parts_of_the_action_in_another_order() -> None:
    env = make_env("two_routes")
    across, along = ActionPart("across", (-1.0,), (1.0,)), ActionPart("along", (-1.0,), (1.0,))
    described = replace(env.metadata["task_spec"], action=(across, along))
    env.metadata = {**env.metadata, "task_spec": described}
    robot, other = GymnasiumRobot(env), GymnasiumRobot(make_env("two_routes"))
    robot.require_task(replace(described, action=(along, across)))
    for one in (robot, other):
        one.reset()
    robot.command({"along": np.array([0.5]), "across": np.array([-1.0])})
    other.command({"action": np.array([-1.0, 0.5])})
    np.testing.assert_array_equal(robot.observe()["observation"], other.observe()["observation"])


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


class Threads(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Notes the threads that use an environment, as if it drew pictures there."""

    used: ClassVar = set[int]()

    def reset(self, **given: Any) -> Any:
        self.used.add(threading.get_ident())
        return super().reset(**given)

    def step(self, action: Any) -> Any:
        self.used.add(threading.get_ident())
        return super().step(action)

    def close(self) -> None:
        self.used.add(threading.get_ident())
        super().close()


def test_one_thread_uses_the_environment() -> None:
    """An OpenGL context works in the thread that made it, and the control loop commands from others."""
    robot = GymnasiumRobot(Threads(make_env("Pendulum-v1")))
    robot.reset()
    for _ in range(2):
        control = threading.Thread(target=robot.command, args=(TORQUE,))
        control.start()
        control.join()
    robot.close()
    assert len(Threads.used) == 1 and threading.get_ident() not in Threads.used


def test_an_error_reaches_whoever_commands() -> None:
    class Broken(gymnasium.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> Any:
            raise SystemExit("no power")

    robot = GymnasiumRobot(Broken(make_env("Pendulum-v1")))
    robot.reset()
    with pytest.raises(SystemExit, match="no power"):
        robot.command(TORQUE)
