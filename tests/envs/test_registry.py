"""Names of environments, and the one form that everything made by name has."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation, FrameStackObservation, RescaleAction, TransformAction

from softflow.envs import TapeCutEnv, available_envs, describe_spaces, make_demonstrator, make_env, resolve_env_id
from softflow.errors import UserError
from softflow.task import TaskSpec


class Recorder(gymnasium.Env):
    """Returns zeros and remembers the last action."""

    def __init__(self, observation: spaces.Space, action: spaces.Space) -> None:
        self.observation_space, self.action_space = observation, action
        self.closed = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return spaces.unflatten(self.observation_space, np.zeros(spaces.flatdim(self.observation_space))), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.action = action
        return self.reset()[0], 0.0, False, False, {}

    def close(self) -> None:
        CLOSED.append(self)


CLOSED: list[Recorder] = []
VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float32)
UNIT = spaces.Box(-1, 1, (2,), np.float32)
THREE = spaces.Box(-1, 1, (3,), np.float32)


@pytest.fixture(autouse=True)
def recorder() -> Iterator[None]:
    gymnasium.register("tests/Recorder-v0", entry_point=Recorder)
    yield
    gymnasium.registry.pop("tests/Recorder-v0")


def test_short_names_and_ids_name_the_same_environment() -> None:
    assert "tape_cut" in available_envs()
    for name in ("tape_cut", "softflow/TapeCut-v0", "softflow.envs:softflow/TapeCut-v0"):
        assert resolve_env_id(name) == "softflow/TapeCut-v0"
        env = make_env(name, reward="staged")
        assert isinstance(env.unwrapped, TapeCutEnv) and env.unwrapped.reward == "staged"
        assert env.action_space == spaces.Box(-1, 1, (15,), np.float32)


def test_a_module_may_register_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import gymnasium\ngymnasium.register('Own-v3', entry_point='gymnasium.envs.classic_control:PendulumEnv')\n"
    (tmp_path / "own_environments.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert make_env("own_environments:Own-v3").observation_space.shape == (3,)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tapecut", "did you mean 'tape_cut'"),
        ("softflow/TapeCut-v1", "did you mean 'softflow/TapeCut-v0'"),
        ("Pendulum", "did you mean 'Pendulum-v1'"),
        ("qqqq", "valid: .*tape_cut"),
        ("no_such_module:Thing-v0", r"cannot import 'no_such_module' .*is it installed, or its folder in PYTHONPATH\?"),
        ("no_such_module.py:Thing-v0", r"name it 'no_such_module', without the \.py"),
        ("softflow.envs:softflow/TapeCut-v1", "'softflow.envs' registers no .*: did you mean 'softflow/TapeCut-v0'"),
        ("json:Thing-v0", r"'json' registers no 'Thing-v0': it has no such gymnasium\.register"),
    ],
)
def test_unknown_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_env(name)


@pytest.mark.parametrize("option", [{"rewrd": "staged"}, {"reward": "stagd"}])
def test_bad_options_are_refused(option: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(option.values() if "reward" in option else option))):
        make_env("tape_cut", **option)


@pytest.mark.parametrize(
    ("observation", "action", "message"),
    [
        (spaces.Tuple([VECTOR, VECTOR]), UNIT, r"'observation' is a Tuple: .*wrappers\.FlattenObservation"),
        (spaces.Dict(a=VECTOR, b=spaces.Text(3)), UNIT, r"'b' is a Text, .*wrappers\.TransformObservation"),
        (spaces.Dict(a=spaces.Dict(b=spaces.Sequence(VECTOR))), UNIT, r"'a/b' is a Sequence.*TransformObservation"),
        (spaces.Graph(VECTOR, None), UNIT, r"'observation' is a Graph, .*wrappers\.TransformObservation"),
        (spaces.Discrete(10_001), UNIT, r"'observation' is Discrete\(10001\), 10,001 numbers"),
        (spaces.Box(0, 1, (0,)), UNIT, "observes nothing"),
        (VECTOR, spaces.Discrete(3), r"actions must be a Box of real numbers.*wrappers\.TransformAction"),
        (VECTOR, spaces.MultiDiscrete([3, 2]), r"actions must be a Box of real numbers.*wrappers\.TransformAction"),
        (VECTOR, spaces.MultiBinary(3), r"actions must be a Box of real numbers.*wrappers\.TransformAction"),
        (VECTOR, spaces.Dict(a=UNIT), r"actions must be a Box of real numbers.*spaces\.unflatten"),
        (VECTOR, spaces.Tuple([UNIT, UNIT]), r"actions must be a Box of real numbers.*spaces\.unflatten"),
        (VECTOR, spaces.Box(0, 5, (2,), np.int64), "actions must be a Box of real numbers.*round them"),
        (VECTOR, spaces.Box(-np.inf, 1, (2,)), r"finite bounds.*give the real limits with gymnasium\.wrappers"),
        (VECTOR, spaces.Box(-3e38, 3e38, (2,)), "finite bounds"),
        (VECTOR, spaces.Box(-1e308, 1e308, (2,), np.float64), "finite bounds"),
        (VECTOR, spaces.Box(0, 1e10, (2,)), "finite bounds"),
        (VECTOR, spaces.Box(1, 1, (2,)), "no action of .* has more than one possible value"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # gymnasium's own, of the space
def test_spaces_that_do_not_fit_are_refused(observation: spaces.Space, action: spaces.Space, message: str) -> None:
    CLOSED.clear()
    with pytest.raises(UserError, match=message) as caught:
        make_env("tests/Recorder-v0", observation=observation, action=action)
    assert "'tests/Recorder-v0'" in str(caught.value)
    assert len(CLOSED) == 1


def test_dictionaries_and_grids_are_flattened() -> None:
    grid = spaces.Box(0, 255, (2, 4), np.uint8)
    nested = spaces.Dict(a=VECTOR, b=spaces.Dict(c=grid, d=spaces.Dict(e=spaces.Box(0, 1, (1,)))))
    for observation, size in ((VECTOR, 3), (grid, 8), (spaces.Dict(a=VECTOR, b=grid), 11), (nested, 12)):
        env = make_env("tests/Recorder-v0", observation=observation, action=UNIT)
        assert env.observation_space.shape == env.reset()[0].shape == (size,)
        assert env.observation_space.dtype == env.reset()[0].dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_actions_are_rescaled_to_the_unit_box(dtype: type) -> None:
    native = spaces.Box(np.array([[0.0, -3.0]], dtype), np.array([[0.1, 5.0]], dtype), dtype=dtype)
    env = make_env("tests/Recorder-v0", observation=VECTOR, action=native)
    assert env.action_space == UNIT
    env.reset()
    for action, expected in (
        ([-1, -1], [[0.0, -3.0]]),
        ([0, 0], [[0.05, 1.0]]),
        ([1, 0.5], [[0.1, 3.0]]),
        ([-2, 2], [[0.0, 5.0]]),
    ):
        env.step(np.array(action, np.float32))
        np.testing.assert_allclose(env.unwrapped.action, expected, rtol=1e-6)
        assert native.contains(env.unwrapped.action)


@pytest.mark.filterwarnings("ignore:.*maximum and minimum values are equal")
def test_a_locked_joint_gets_its_only_value_and_is_no_action() -> None:
    native = spaces.Box(np.float32([0, 0.25, -2]), np.float32([1, 0.25, 2]))
    env = make_env("tests/Recorder-v0", observation=VECTOR, action=native)
    assert env.action_space == UNIT
    assert describe_spaces(env).endswith(
        "action: 2 numbers, rescaled from native bounds to [-1, 1], without 1 of one possible value"
    )
    env.reset()
    for action, expected in (([-1, 0.5], [0, 0.25, 1]), ([3, -3], [1, 0.25, -2])):
        env.step(np.array(action, np.float32))
        np.testing.assert_array_equal(env.unwrapped.action, np.float32(expected))
        assert native.contains(env.unwrapped.action)


@pytest.mark.parametrize(
    ("native", "wrap"),
    [
        (spaces.Discrete(3), lambda env: TransformAction(env, lambda action: action.argmax(), THREE)),
        (
            spaces.Dict(a=UNIT, b=spaces.Box(0, 2, (1,))),
            lambda env: TransformAction(
                env, lambda action: spaces.unflatten(env.action_space, action), spaces.flatten_space(env.action_space)
            ),
        ),
        (spaces.Box(-3e38, 3e38, (3,)), lambda env: TransformAction(env, lambda action: action, THREE)),
    ],
)
def test_the_wrappers_that_errors_name_help(native: spaces.Space, wrap: Callable[[gymnasium.Env], Any]) -> None:
    pair = spaces.Tuple([VECTOR, VECTOR])
    for observation, outer in ((pair, FlattenObservation), (VECTOR, lambda env: env)):
        gymnasium.register("tests/Wrapped-v0", lambda: outer(wrap(Recorder(observation, native))))  # noqa: B023
        try:
            env = make_env("tests/Wrapped-v0")
        finally:
            gymnasium.registry.pop("tests/Wrapped-v0")
        assert env.observation_space.shape == (spaces.flatdim(observation),)
        env.reset()
        env.step(np.float32([1, 0, 1]))
        assert native.contains(env.unwrapped.action)


def test_unit_actions_arrive_untouched() -> None:
    env = make_env("tests/Recorder-v0", observation=VECTOR, action=UNIT)
    env.reset()
    action = np.array([0.25, -0.5], np.float32)
    env.step(action)
    assert env.unwrapped.action is action


def test_without_a_demonstrator_the_error_says_what_to_do() -> None:
    for env in (make_env("Pendulum-v1"), Recorder(VECTOR, UNIT)):
        with pytest.raises(ValueError, match=r"no demonstrator.*--demos FILE\.npz"):
            make_demonstrator(env, np.random.default_rng(0))


@pytest.fixture
def nested() -> Iterator[None]:
    """An environment of `make_env` below a wrapper that changes what its numbers mean."""
    native = spaces.Box(np.array([-2, 0], np.float32), np.array([1, 3], np.float32))
    inner = functools.partial(make_env, "tests/Recorder-v0", observation=VECTOR, action=native)
    small = np.float32(-0.1), np.float32(0.1)
    gymnasium.register("tests/Rescaled-v0", entry_point=lambda: RescaleAction(inner(), *small))
    gymnasium.register("tests/Stacked-v0", entry_point=lambda: FrameStackObservation(inner(), 4))
    yield
    for name in ("Rescaled", "Stacked"):
        gymnasium.registry.pop(f"tests/{name}-v0")


def test_a_wrapper_that_changes_units_is_described_anew(nested: None) -> None:
    env = make_env("tests/Rescaled-v0")
    env.reset(seed=0)
    for unit, native in ((-1, [-2, 0]), (0, [-0.5, 1.5]), (0.5, [0.25, 2.25]), (1, [1, 3])):
        env.step(np.full(2, unit, np.float32))
        np.testing.assert_allclose(env.unwrapped.action, native, atol=1e-6)
    assert TaskSpec.from_env(env).low.tolist() == pytest.approx([-0.1, -0.1])
    stacked = make_env("tests/Stacked-v0")
    assert stacked.reset(seed=0)[0].shape == (12,) and TaskSpec.from_env(stacked).observation[0].shape == (4, 3)
