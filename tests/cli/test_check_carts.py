"""softflow-data check in environments that drift, fail or never say whether an episode is a success."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict

from softflow.data import Episode, load_dataset, save_demonstrations
from softflow.task import TaskSpec
from tests.cli.conftest import Command


class Cart(gymnasium.Env[np.ndarray, np.ndarray]):
    """A cart whose speed is the action, for 20 steps."""

    observation_space = Box(-np.inf, np.inf, (1,), np.float32)
    action_space = Box(-2.0, 4.0, (1,), np.float32)
    noise = 0.0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps, self.place = 0, self.np_random.uniform(-1, 1, 1)
        return self.place.astype(np.float32), {}

    def step(self, action: np.ndarray) -> Any:
        self.steps += 1
        self.place = self.place + 0.1 * action + self.noise * np.random.normal(size=1)
        return self.place.astype(np.float32), 0.0, False, self.steps == 20, {}


class Drifting(Cart):
    noise = 0.02


class Seedless(Cart):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place = np.random.uniform(-1, 1, 1)
        return self.place.astype(np.float32), {}


class Seeing(Cart):
    """A cart that observes a dark picture as well as its place."""

    observation_space = Dict(camera=Box(0, 255, (16, 16, 3), np.uint8), place=Cart.observation_space)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self._seen(super().reset(seed=seed)[0]), {}

    def step(self, action: np.ndarray) -> Any:
        place, *rest = super().step(action)
        return self._seen(place), *rest

    def _seen(self, place: np.ndarray) -> dict[str, np.ndarray]:
        return {"camera": np.zeros((16, 16, 3), np.uint8), "place": place}


class Aiming(Cart):
    """A cart that observes a goal, which is another one in each episode, as well as its place."""

    observation_space = Dict(goal=Cart.observation_space, place=Cart.observation_space)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        place = super().reset(seed=seed)[0]
        self.goal = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return {"goal": self.goal.copy(), "place": place}, {}

    def step(self, action: np.ndarray) -> Any:
        place, *rest = super().step(action)
        return {"goal": self.goal.copy(), "place": place}, *rest


class Gripping(Cart):
    """A cart with a gripper that opens by its own number of the action."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float32)
    action_space = Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-1, 1, 2)
        return self.place.astype(np.float32), {}


class Settled(Cart):
    """A cart that begins at 0, but for a little noise."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place *= 1e-3
        return self.place.astype(np.float32), {}


class Broken(Cart):
    def step(self, action: np.ndarray) -> Any:
        raise RuntimeError("the motor is off")


CARTS = {f"{cart.__name__}-v0": cart for cart in (Cart, Drifting, Seedless, Seeing, Aiming, Gripping, Settled, Broken)}


@pytest.fixture
def carts() -> Iterator[None]:
    for name, cart in CARTS.items():
        gymnasium.register(name, cart)
    yield
    for name in CARTS:
        del gymnasium.registry[name]


def record_cart(stored: Callable[[np.ndarray], np.ndarray], env: Cart, is_success: bool = False) -> None:
    """Write `d.npz`, six episodes of random actions, as `stored` stores those in [-1, 1] as native ones."""
    rng, episodes = np.random.default_rng(0), []
    task = TaskSpec.from_env(env)
    for seed in range(6):
        seen, actions = [env.reset(seed=seed)[0]], rng.uniform(-1, 1, (20, 1))
        for action in actions:
            seen.append(env.step(3 * action + 1)[0])  # the bounds are -2 and 4
        ending = {"terminated": False, "truncated": True, "is_success": is_success}
        episode = Episode.from_native(task, np.stack(seen), stored(actions), np.zeros(20), **ending)
        episodes.append(replace(episode, seed=seed))
    save_demonstrations("d.npz", episodes)


@pytest.mark.parametrize(
    ("stored", "kinds", "text"),
    [
        (lambda action: 3 * action + 1, [], ""),
        (lambda action: action, ["actions"], "scaled to [-1, 1], but are stored as if they were in the"),
        (lambda action: (3 * action + 1) / 4, ["actions"], "or left in the environment's units"),
    ],
)
@pytest.mark.parametrize("env", ["Cart-v0", "Drifting-v0"])
def test_native_numbers_that_are_none(
    env: str, stored: Callable[[np.ndarray], np.ndarray], kinds: list[str], text: str, carts: None, command: Command
) -> None:
    np.random.seed(0)
    record_cart(stored, CARTS[env]())
    result = command(f"softflow-data check d.npz --env {env} --json")
    report = json.loads(result.out)
    assert result.status == len(kinds) and [finding["kind"] for finding in report["findings"]] == kinds
    assert all(text in finding["text"] for finding in report["findings"])
    assert report["replays"][0]["repeats"] == (env == "Cart-v0")
    assert any("does not repeat" in remark for remark in report["remarks"]) == (env == "Drifting-v0")


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_starts_beside_a_picture(offset: float, carts: None, command: Command) -> None:
    """The places of fresh resets spread over -1 ... 1, of which no average of their bytes tells."""
    env, episodes = Seeing(), []
    task, rng = TaskSpec.from_env(env), np.random.default_rng(0)
    for seed in range(50, 56):
        actions = rng.uniform(-2, 4, (20, 1))
        seen = [env.reset(seed=seed)[0], *(env.step(action)[0] for action in actions)]
        moved = [one | {"place": one["place"] + np.float32(offset)} for one in seen]
        ending = {"terminated": False, "truncated": True, "is_success": False}
        episodes.append(Episode.from_native(task, moved, actions, np.zeros(20), **ending))
    save_demonstrations("d.npz", episodes)
    report = json.loads(command("softflow-data check d.npz --env Seeing-v0 --json").out)
    assert [finding["kind"] for finding in report["findings"]] == (["start"] if offset else [])
    assert all("'place' is off by" in finding["text"] for finding in report["findings"])


@pytest.mark.parametrize(("names", "said"), [(("goal", "place"), None), (("place", "goal"), "goal")])
def test_a_number_at_rest_in_the_recording_is_not_judged_by_its_motion(
    names: tuple[str, str], said: str | None, carts: None, command: Command
) -> None:
    env, episodes, rng = Aiming(), [], np.random.default_rng(0)
    task = TaskSpec.from_env(env)
    for seed in range(50, 56):
        actions = rng.uniform(-2, 4, (20, 1))
        seen = [env.reset(seed=seed)[0], *(env.step(action)[0] for action in actions)]
        renamed = [dict(zip(names, (one["goal"], one["place"]), strict=True)) for one in seen]
        ending = {"terminated": False, "truncated": True, "is_success": False}
        episodes.append(Episode.from_native(task, renamed, actions, np.zeros(20), **ending))
    save_demonstrations("d.npz", episodes)
    report = json.loads(command("softflow-data check d.npz --env Aiming-v0 --json").out)
    remarks = [remark for remark in report["remarks"] if "may be exchanged" in remark]
    motion = f"the replays do not move as the recordings do in {said}: these numbers may be exchanged with others"
    assert report["findings"] == [] and remarks == ([motion] if said else [])


@pytest.mark.parametrize(
    ("name", "centre", "width", "kinds"),
    [("Cart-v0", 0.7, 0.08, []), ("Cart-v0", 0.0, 0.08, ["unit"]), ("Settled-v0", 0.0, 0.5, [])],
)
def test_starts_in_a_part_of_the_resets_and_the_noise_of_resets_say_nothing_of_units(
    name: str, centre: float, width: float, kinds: list[str], carts: None, command: Command
) -> None:
    env, episodes, rng = CARTS[name](), [], np.random.default_rng(0)
    task = TaskSpec.from_env(env)
    for _ in range(8):
        env.reset(seed=0)
        env.place = rng.uniform(centre - width, centre + width, 1)
        actions = rng.uniform(-1, 1, (20, 1))
        seen = [env.place.astype(np.float32), *(env.step(action)[0] for action in actions)]
        ending = {"terminated": False, "truncated": True, "is_success": False}
        episodes.append(Episode.from_native(task, np.stack(seen), actions, np.zeros(20), **ending))
    save_demonstrations("d.npz", episodes)
    findings = json.loads(command(f"softflow-data check d.npz --env {name} --json").out)["findings"]
    assert [finding["kind"] for finding in findings] == kinds


@pytest.mark.parametrize(("blocked", "kinds"), [([1], []), ([0, 1], ["actions"])])
def test_a_gripper_that_an_object_stops_does_not_make_the_actions_wrong(
    blocked: list[int], kinds: list[str], carts: None, command: Command
) -> None:
    """The blocked numbers move a tenth as much in the recordings as the actions say."""
    env, episodes, rng = Gripping(), [], np.random.default_rng(0)
    task = TaskSpec.from_env(env)
    for seed in range(50, 58):
        actions = rng.uniform(-1, 1, (20, 2))
        seen = np.stack([env.reset(seed=seed)[0], *(env.step(action)[0] for action in actions)])
        seen[:, blocked] = seen[:1, blocked] + 0.1 * (seen - seen[:1])[:, blocked]
        ending = {"terminated": False, "truncated": True, "is_success": False}
        episodes.append(Episode.from_native(task, seen, actions, np.zeros(20), **ending))
    save_demonstrations("d.npz", episodes)
    report = json.loads(command("softflow-data check d.npz --env Gripping-v0 --json").out)
    assert report["replays"][0]["readings"][0]["misfit"] > 0.5
    assert [finding["kind"] for finding in report["findings"]] == kinds


def test_actions_without_an_effect_are_a_remark(carts: None, command: Command) -> None:
    np.random.seed(0)
    record_cart(lambda action: 0 * action, Drifting())
    result = command("softflow-data check d.npz --env Drifting-v0")
    assert "remark: the motion does not tell the place and the sign of the numbers action[0] of" in result.out


def test_successes_are_not_compared_where_the_environment_says_none(carts: None, command: Command) -> None:
    record_cart(lambda action: 3 * action + 1, Cart(), is_success=True)
    result = command("softflow-data check d.npz --env Cart-v0")
    assert result.status == 0 and "the recordings are successes in 6 of 6" in result.out
    assert "\nremark: the environment does not say which episodes are successes (`is_success`), so" in result.out
    result = command("softflow-data check d.npz --env Cart-v0 --success return>=1")
    assert result.status == 1 and "\nsuccess: 6 of 6 replays" in result.out


@pytest.mark.parametrize("is_success", [True, False])
def test_the_last_line_says_that_no_success_was_seen(is_success: bool, carts: None, command: Command) -> None:
    record_cart(lambda action: 3 * action + 1, Cart(), is_success)
    result = command("softflow-data check d.npz --env Cart-v0")
    assert result.status == 0 and result.out.splitlines()[-1] == (
        "nothing was found. The environment reported no info['is_success'] in these replays. If it never does, no "
        "episode of a policy counts as a success: see docs/how-to/troubleshooting.md#my-success-is-never-seen"
    )
    if not is_success:
        judged = command("softflow-data check d.npz --env Cart-v0 --success return>=1")
        assert judged.out.splitlines()[-1] == "nothing is wrong"


@pytest.mark.parametrize(
    ("env", "what"),
    [
        ("Seedless-v0", "ignores its seed"),
        ("Drifting-v0", "does not repeat an episode with the same seed and actions"),
    ],
)
def test_the_last_line_says_that_seeds_do_not_repeat(env: str, what: str, carts: None, command: Command) -> None:
    np.random.seed(0)
    record_cart(lambda action: 3 * action + 1, CARTS[env]())
    result = command(f"softflow-data check d.npz --env {env} --success return>=1")
    assert result.status == 0 and result.out.splitlines()[-1] == (
        f"nothing was found. The environment {what}, so replays cannot follow their recordings: draw its random "
        "numbers from self.np_random (docs/start/your-environment.md)"
    )


@pytest.mark.parametrize("is_success", [True, False])
def test_successes_that_a_dataset_does_not_record_are_a_remark(is_success: bool, carts: None, command: Command) -> None:
    record_cart(lambda action: 3 * action + 1, Cart(), is_success)
    unseeded = [replace(episode, seed=None) for episode in load_dataset("d.npz").episodes]
    save_demonstrations("unseeded.npz", unseeded)
    result = command("softflow-data check unseeded.npz --env Cart-v0 --success return>=0")
    assert result.status == 0
    assert ("\nremark: no recording is a success, but 6 of 6 replays are: " in result.out) != is_success


def test_an_environment_that_fails_is_one_line(carts: None, command: Command) -> None:
    record_cart(lambda action: 3 * action + 1, Cart())
    error = command("softflow-data check d.npz --env Broken-v0").error()
    assert error.startswith(
        "error: step 1 of the replay with seed 0: RuntimeError: the motor is off (test_check_carts.py:"
    )
