"""Environments with images: one array of bytes, whatever is wrapped around it."""

from __future__ import annotations

from collections.abc import Iterator

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from softflow.envs import find_layout, make_env
from tests.pictures import LAYOUT, SIZE, Lamp


class WideLamp(Lamp):
    """Its actions are not those in [-1, 1], so that another wrapper comes around the packing."""

    action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)


class Eye(Lamp):
    """Nothing but the picture."""

    observation_space = Lamp.observation_space["camera"]

    def observation(self) -> np.ndarray:  # type: ignore[override]
        return super().observation()["camera"]


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    for env in (Lamp, WideLamp, Eye):
        gymnasium.register(f"tests/{env.__name__}-v0", entry_point=env)
    yield
    for env in (Lamp, WideLamp, Eye):
        gymnasium.registry.pop(f"tests/{env.__name__}-v0")


@pytest.mark.parametrize("name", ["tests/Lamp-v0", "tests/WideLamp-v0"])
def test_images_and_numbers_are_packed(name: str) -> None:
    env = make_env(name)
    assert find_layout(env) == LAYOUT
    assert env.observation_space == spaces.Box(0, 255, (LAYOUT.size,), np.uint8)
    packed, _ = env.reset(seed=3)
    env.step(np.array([0.25], np.float32))
    packed, *_ = env.step(np.array([0.25], np.float32))
    assert env.observation_space.contains(packed)
    seen = env.unwrapped.observation()
    for part, array in LAYOUT.unpack(packed).items():
        np.testing.assert_array_equal(array, seen[part])


def test_a_picture_alone_is_packed() -> None:
    env = make_env("tests/Eye-v0")
    layout = find_layout(env)
    assert layout is not None and layout.size == SIZE * SIZE * 3 and layout.number_count == 0
    packed, _ = env.reset(seed=0)
    np.testing.assert_array_equal(layout.unpack(packed)["observation"], env.unwrapped.observation())


def test_numbers_alone_are_not_packed() -> None:
    assert find_layout(make_env("tape_cut")) is None
