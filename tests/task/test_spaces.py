"""The description of an environment: read from its spaces, or from what `make_env` has read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import TransformAction, TransformObservation

from softflow.envs import make_env
from softflow.errors import UserError
from softflow.task import ActionPart, ObservationPart, TaskSpec
from softflow.training.vector import VectorizationMode, closing, vectorize


class Robot(gymnasium.Env[Any, np.ndarray]):
    """Observes samples of its space, and remembers them and its actions."""

    observation_space = spaces.Dict(
        wrist=spaces.Box(0, 255, (16, 20, 3), np.uint8),
        robot=spaces.Dict(
            joints=spaces.Box(-3, 3, (2, 2), np.float64),
            gear=spaces.Discrete(3, start=-1),
            nothing=spaces.Box(0, 1, (0,)),
        ),
        depth=spaces.Box(0, 1, (17, 16), np.float32),
        grid=spaces.MultiDiscrete([[2, 3]], start=[[0, 4]]),
        buttons=spaces.MultiBinary([1, 2]),
    )
    action_space = spaces.Box(np.array([[-1, 0.25, 0]]), np.array([[3, 0.25, 0.5]]), dtype=np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.seen = self.observation_space.sample()
        return self.seen, {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.action = action
        return self.reset()[0], 0.0, False, False, {}


EXPECTED = TaskSpec(
    observation=(
        ObservationPart("wrist", (16, 20, 3), "uint8", axes="HWC"),
        ObservationPart("robot/joints", (2, 2), "float64"),
        ObservationPart("robot/gear", (), "int64", categories=(3,), starts=(-1,)),
        ObservationPart("depth", (17, 16), "float32", axes="HW", value_range=(0.0, 1.0)),
        ObservationPart("grid", (1, 2), "int64", categories=(2, 3), starts=(0, 4)),
        ObservationPart("buttons", (1, 2), "int8"),
    ),
    action=(ActionPart("action", (-1.0, 0.25, 0.0), (3.0, 0.25, 0.5)),),
    name="Robot",
)
DEPTH = {"depth": "HW"}
pytestmark = pytest.mark.filterwarnings("ignore:.*maximum and minimum values are equal")


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    gymnasium.register("tests/Robot-v0", entry_point=Robot, disable_env_checker=True)
    yield
    gymnasium.registry.pop("tests/Robot-v0")


def made() -> gymnasium.Env:
    return make_env("tests/Robot-v0", observed_as=DEPTH)


def test_any_environment_is_described_by_its_spaces() -> None:
    assert TaskSpec.from_env(Robot(), DEPTH) == EXPECTED
    several = TaskSpec.from_env(SyncVectorEnv([Robot] * 2), DEPTH)
    assert (several.observation, several.action) == (EXPECTED.observation, EXPECTED.action)
    with pytest.raises(UserError, match=r"'Robot': its observation 'depth'.* may be an image or not"):
        TaskSpec.from_env(Robot())
    with pytest.raises(UserError, match="actions must be a Box of real numbers, 'CartPole-v1' has Discrete"):
        TaskSpec.from_env(gymnasium.make("CartPole-v1"))


def test_the_rows_of_an_environment_are_those_of_its_description() -> None:
    env = made()
    spec = TaskSpec.from_env(env)
    assert spec.name == "tests/Robot-v0" and spec.observation == EXPECTED.observation
    for seed in range(3):
        row, _ = env.reset(seed=seed)
        seen = env.unwrapped.seen
        np.testing.assert_array_equal([row], spec.rows(seen)[0])
        assert spec.layout is not None
        names = ("robot", "grid", "buttons")
        numbers = [spaces.flatten(Robot.observation_space[name], seen[name]) for name in names]
        np.testing.assert_array_equal(spec.layout.numbers(row), np.concatenate(numbers).astype(np.float32))


def test_the_native_actions_of_an_environment_are_those_of_its_description() -> None:
    env = made()
    env.reset(seed=0)
    env.step(np.array([0.5, -0.5], np.float32))
    executed = env.unwrapped.action
    assert executed.shape == (1, 3) and executed.dtype == np.float64
    np.testing.assert_array_equal(executed, [[2, 0.25, 0.125]])
    np.testing.assert_array_equal(TaskSpec.from_env(env).unit_actions(executed), [[0.5, -0.5]])


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_wrappers_and_vector_environments_hand_it_on(mode: VectorizationMode) -> None:
    spec = TaskSpec.from_env(made())
    assert TaskSpec.from_env(TransformObservation(made(), lambda row: row, made().observation_space)) == spec
    with closing(vectorize([made] * 2, n_action_steps=3, mode=mode)) as environments:
        assert TaskSpec.from_env(environments) == spec
    with pytest.raises(UserError, match="give observed_as to make_env"):
        TaskSpec.from_env(made(), DEPTH)


def test_a_wrapper_that_changes_the_sizes_is_described_by_its_spaces() -> None:
    wider = TransformAction(make_env("Pendulum-v1"), lambda action: action[:1], spaces.Box(-1, 1, (2,)))
    assert TaskSpec.from_env(wider).action == (ActionPart("action", (-1.0, -1.0), (1.0, 1.0)),)


def test_an_environment_of_make_env_may_be_registered_and_made_again() -> None:
    gymnasium.register("tests/Again-v0", entry_point=made)
    try:
        again = make_env("tests/Again-v0")
    finally:
        gymnasium.registry.pop("tests/Again-v0")
    assert TaskSpec.from_env(again) == TaskSpec.from_env(made())
    np.testing.assert_array_equal(again.reset(seed=3)[0], made().reset(seed=3)[0])


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ({}, None),
        ({"dt": 0.02}, 50.0),
        ({"dt": np.float64(0.5)}, 2.0),
        ({"dt": 0}, None),
        ({"dt": True}, None),
        ({"dt": "0.02"}, None),
        ({"dt": 0.02, "control_rate": 20}, 20.0),
    ],
)
def test_the_control_rate_is_what_the_environment_says(rates: dict[str, Any], expected: float | None) -> None:
    env = Robot()
    if "dt" in rates:
        env.dt = rates["dt"]
    env.metadata = {"control_rate": rates["control_rate"]} if "control_rate" in rates else {}
    assert TaskSpec.from_env(env, DEPTH).rate == expected


@pytest.mark.parametrize("rate", [0, -20, float("nan"), "20", True])
def test_an_impossible_control_rate_is_refused(rate: Any) -> None:
    env = Robot()
    env.metadata = {"control_rate": rate}
    with pytest.raises(UserError, match=f"'Robot' has a control_rate of {rate!r}"):
        TaskSpec.from_env(env, DEPTH)


@pytest.mark.parametrize(("name", "rate"), [("tape_cut", 20.0), ("cube_rotate", 20.0), ("two_routes", None)])
def test_our_own_tasks_say_their_control_rate(name: str, rate: float | None) -> None:
    env = make_env(name)
    assert TaskSpec.from_env(env).rate == rate
    scene = getattr(env.unwrapped, "_simulation", None)
    if scene is not None:
        from softflow.envs.simulation import SUBSTEPS

        assert rate is not None and rate * SUBSTEPS * scene.model.opt.timestep == pytest.approx(1)
