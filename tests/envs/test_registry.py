"""Names of environments, and the one form that everything made by name has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from softflow.envs import TapeCutEnv, available_envs, make_demonstrator, make_env, resolve_env_id


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
        ("no_such_module:Thing-v0", "cannot import 'no_such_module'"),
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
        (spaces.Discrete(3), UNIT, "observations must be a Box"),
        (spaces.Dict(a=VECTOR, b=spaces.Discrete(3)), UNIT, "observations must be a Box"),
        (VECTOR, spaces.Discrete(3), "actions must be a Box"),
        (VECTOR, spaces.Box(0, 5, (2,), np.int64), "actions must be a Box of real numbers"),
        (VECTOR, spaces.Box(-np.inf, 1, (2,)), "finite bounds"),
        (VECTOR, spaces.Box(np.float32([0, 1]), np.float32([1, 1])), "low below high"),
    ],
)
def test_spaces_that_do_not_fit_are_refused(observation: spaces.Space, action: spaces.Space, message: str) -> None:
    CLOSED.clear()
    with pytest.raises(ValueError, match=rf"{message}.*tests/Recorder-v0"):
        make_env("tests/Recorder-v0", observation=observation, action=action)
    assert len(CLOSED) == 1


def test_dictionaries_and_grids_are_flattened() -> None:
    grid = spaces.Box(0, 255, (2, 4), np.uint8)
    for observation, size in ((VECTOR, 3), (grid, 8), (spaces.Dict(a=VECTOR, b=grid), 11)):
        env = make_env("tests/Recorder-v0", observation=observation, action=UNIT)
        assert env.observation_space.shape == env.reset()[0].shape == (size,)


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
