"""What counts as a success, and what a success is worth and ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from softflow.envs import make_env
from softflow.errors import UserError


class Script(gymnasium.Env):
    """Tells the infos it was given, one a step; each step is worth -3, and nothing ends it."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, infos: list[dict[str, Any]]) -> None:
        self.infos = infos

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return np.zeros(1, np.float32), -3.0, False, False, {**self.infos[self.steps - 1]}


@pytest.fixture(autouse=True)
def script() -> Iterator[None]:
    gymnasium.register("tests/Script-v0", entry_point=Script, max_episode_steps=3)
    yield
    gymnasium.registry.pop("tests/Script-v0")


def steps_of(infos: list[dict[str, Any]], **options: Any) -> list[tuple[float, bool, bool, dict[str, Any]]]:
    """Reward, ends and info of each step of the episode."""
    env, told = make_env("tests/Script-v0", infos=infos, **options), []
    env.reset(seed=0)
    while not told or not (told[-1][1] or told[-1][2]):
        told.append(env.step(np.zeros(1, np.float32))[1:])
    return told


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ({"success": True}, {"success": True, "is_success": True}),
        ({"success": np.bool_(False)}, {"success": False, "is_success": False}),
        ({"success": 1.0}, {"success": 1.0, "is_success": True}),
        ({"success": True, "is_success": False}, {"success": True, "is_success": False}),
        ({"is_success": True}, {"is_success": True}),
        ({"other": 1}, {"other": 1}),
    ],
)
def test_success_is_heard_in_one_word(said: dict[str, Any], heard: dict[str, Any]) -> None:
    told = steps_of([said] * 3)
    assert told == [(-3, False, False, heard)] * 2 + [(-3, False, True, heard)]
    assert type(told[0][3].get("is_success", True)) is bool


def test_the_first_success_ends_the_episode_and_is_all_that_counts() -> None:
    told = steps_of([{"success": False}, {"success": True}, {"success": True}], sparse_success=True)
    assert [step[:3] for step in told] == [(0.0, False, False), (1.0, True, False)]
    assert told[-1][3]["is_success"] is True


def test_a_time_limit_without_success_is_worth_nothing() -> None:
    told = steps_of([{"is_success": False}] * 3, sparse_success=True)
    assert [step[:3] for step in told] == [(0.0, False, False), (0.0, False, False), (0.0, False, True)]


def test_its_values_are_an_affine_image_of_a_cost_per_step() -> None:
    """-1 a step until the success, whose own step costs nothing: V = -(1 - g^2) / (1 - g) after two, here g^2."""
    discount = 0.9
    told = steps_of([{"success": False}, {"success": False}, {"success": True}], sparse_success=True)
    value = sum(discount**i * reward for i, (reward, *_) in enumerate(told))
    cost = -1 - discount
    assert value == pytest.approx(discount**2) == pytest.approx(1 + (1 - discount) * cost)


def test_without_a_word_of_success_the_option_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"says neither 'is_success' nor 'success' .*leave out the option sparse_success"
    ):
        steps_of([{}], sparse_success=True)


def test_the_option_is_a_bool() -> None:
    with pytest.raises(UserError, match="sparse_success must be true or false, got 'yes'"):
        make_env("tests/Script-v0", infos=[], sparse_success="yes")


def test_environments_of_our_own_are_as_they_were() -> None:
    env = make_env("tape_cut")
    env.reset(seed=0)
    assert env.step(np.zeros(15, np.float32))[4]["is_success"] is False
