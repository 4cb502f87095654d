"""Files of other projects whose actions are scaled to [-1, 1], for an environment with narrower bounds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium.spaces import Box

from softflow.data import Episode
from softflow.task import TaskSpec
from tests.cli.conftest import Command
from tests.formats.hdf5_datasets import write_minari, write_robomimic

Write = Callable[[Path, Sequence[Episode]], None]


class SlowCart(gymnasium.Env[np.ndarray, np.ndarray]):
    """A cart whose speed is the action, for 20 steps."""

    observation_space = Box(-np.inf, np.inf, (1,), np.float32)
    action_space = Box(-0.25, 0.5, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps, self.place = 0, self.np_random.uniform(-1, 1, 1)
        return self.place.astype(np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        self.steps += 1
        self.place = self.place + 0.1 * action
        return self.place.astype(np.float32), 0.0, False, self.steps == 20, {}


@pytest.fixture
def cart() -> Iterator[None]:
    gymnasium.register("SlowCart-v0", SlowCart)
    yield
    del gymnasium.registry["SlowCart-v0"]


def recorded() -> list[Episode]:
    """Six episodes of random actions, which are stored in [-1, 1]."""
    env, rng, episodes = SlowCart(), np.random.default_rng(0), []
    task = TaskSpec.from_env(env)
    for seed in range(50, 56):
        native = rng.uniform(-0.25, 0.5, (20, 1))
        seen = [env.reset(seed=seed)[0], *(env.step(action)[0] for action in native)]
        ending = {"terminated": False, "truncated": True, "is_success": False}
        episodes.append(Episode.from_native(task, np.stack(seen), native, np.zeros(20), **ending))
    return episodes


def natively(episode: Episode) -> Episode:
    assert episode.task is not None
    return replace(episode, action=episode.task.native_actions(episode.action))


FILES: list[Write] = [
    write_robomimic,
    lambda path, episodes: write_minari(path, episodes, limit=1.0),
    lambda path, episodes: write_minari(path, episodes, limit=np.inf),
]


@pytest.mark.parametrize("write", FILES, ids=["robomimic", "minari of a rescaled environment", "minari without bounds"])
def test_a_check_finds_that_actions_are_scaled(write: Write, cart: None, command: Command) -> None:
    write(Path("d"), recorded())
    result = command("softflow-data check d --env SlowCart-v0 --json")
    report = json.loads(result.out)
    assert result.status == 1
    bounds, actions = report["findings"]
    assert bounds["kind"] == "action" and "in -1 ... 1, expected -0.25 ... 0.5" in bounds["text"]
    assert actions["kind"] == "actions" and "low + (action + 1) / 2 * (high - low)" in actions["advice"]
    assert actions["text"].startswith(
        "the actions are scaled to [-1, 1], but are stored as if they were in the environment's units. Replayed so, "
        "they miss 0.00 of the recorded motion"
    )
    assert any("they do fit -1 and 1, with which they are read" in remark for remark in report["remarks"])


@pytest.mark.parametrize("write", FILES, ids=["robomimic", "minari of a rescaled environment", "minari without bounds"])
@pytest.mark.parametrize(
    "line",
    [
        "softflow-train --env SlowCart-v0 --demos d --run-dir run",
        "softflow-data info d --env SlowCart-v0",
        "softflow-data convert d d.npz --env SlowCart-v0",
    ],
)
def test_other_commands_refuse_them_and_say_what_to_do(line: str, write: Write, cart: None, command: Command) -> None:
    write(Path("d"), recorded())
    error = command(line).error()
    assert "-0.25 ... 0.5; the actions may be scaled to [-1, 1]: see what `softflow-data check` says" in error
    assert "low + (action + 1) / 2 * (high - low)" in error
    assert not Path("d.npz").exists() and not Path("run").exists()


def test_actions_in_the_units_of_the_environment_are_healthy(cart: None, command: Command) -> None:
    write_robomimic(Path("d"), [natively(episode) for episode in recorded()])
    result = command("softflow-data check d --env SlowCart-v0")
    assert result.status == 0 and "remark: the actions do not fit" not in result.out


def test_actions_beyond_both_bounds_are_refused_by_a_check(cart: None, command: Command) -> None:
    write_robomimic(Path("d"), recorded())
    with h5py.File("d", "r+") as file:
        file["data/demo_2/actions"][3] = 1.5
    error = command("softflow-data check d --env SlowCart-v0").error()
    assert "d: data/demo_0: action[0] = " in error and "is outside its bounds -0.25 ... 0.5" in error
