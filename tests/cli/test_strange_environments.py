"""Environments that say strange things, or leave in strange ways, by the commands on them."""

from __future__ import annotations

import csv
import json
import os
import random
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from softflow.algos.softflow import SoftFlow
from softflow.data import load_demonstrations
from softflow.envs import tasks
from softflow.training.evaluation import OTHER_SEEDS
from tests.cli.conftest import pendulum_demonstrations
from tests.cli.training_runs import interrupted


class Strange(gymnasium.Env[np.ndarray, np.ndarray]):
    """An environment of eight steps with the spaces of Pendulum-v1. It observes the seed's last digit, the step and the
    last action, and writes into the action that it is given and the observation that it has returned."""

    observation_space = Box(-np.inf, np.inf, (3,), np.float32)
    action_space = Box(-1.0, 1.0, (1,), np.float32)
    info: ClassVar[dict[Any, Any]] = {}
    """What is said of the fourth step, and of the last."""
    last_info: ClassVar[dict[Any, Any]] = {}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        assert seed is not None
        self.seen = np.array([seed % 10, 0, 0], np.float32)
        return self.seen, {}

    def step(self, action: np.ndarray) -> Any:
        self.seen[1:] = self.seen[1] + 1, action[0]
        action *= 0.5
        info = self.info if self.seen[1] == 4 else self.last_info if self.seen[1] == 8 else {}
        return self.seen, 1.0, False, bool(self.seen[1] == 8), info


class Shown:
    """Demonstrates, and supervises a policy that it never trusts for longer than two steps."""

    mode = -1

    def __init__(self, env: Any, rng: np.random.Generator) -> None:
        self.action, self.watched = np.zeros(1), 0

    def act(self) -> np.ndarray:
        self.action[:] = 0.75
        return self.action

    def watch(self) -> bool:
        self.watched += 1
        return self.watched == 2

    def take_over(self) -> None:
        pass


@pytest.fixture(autouse=True)
def strange(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    gymnasium.register("Strange-v0", entry_point=Strange, disable_env_checker=True)
    monkeypatch.setitem(tasks._tasks, "Strange-v0", tasks.Task("Strange-v0", demonstrator=Shown, supervisor=Shown))
    yield
    gymnasium.registry.pop("Strange-v0")


TRAIN = "softflow-train --env Strange-v0 --demos pendulum.npz --config small.yaml --run-dir run"


def scalars(run: str) -> dict[str, list[float]]:
    with open(f"{run}/metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return {row["name"]: [float(one["value"]) for one in rows if one["name"] == row["name"]] for row in rows}


def test_demonstrations_are_of_what_was_seen_and_done(command: Any) -> None:
    assert command("softflow-demo --env Strange-v0 --episodes 2 --out d.npz").status == 0
    for number, episode in enumerate(load_demonstrations("d.npz")):
        actions = [0.0, *[0.75] * 8]
        np.testing.assert_array_equal(episode.observation, [[number, step, actions[step]] for step in range(9)])
        np.testing.assert_array_equal(episode.action, np.full((8, 1), 0.75))


def test_so_are_corrections(command: Any, demonstrations: Path) -> None:
    assert command(TRAIN).status == 0
    assert command("softflow-demo --corrections run --episodes 1 --out c.npz").status == 0
    [episode] = load_demonstrations("c.npz")
    assert episode.human.tolist() == [False] * 2 + [True] * 6
    assert episode.observation[:, 1].tolist() == list(range(9))
    assert episode.observation[3:, 2].tolist() == [0.75] * 6
    assert (episode.action[2:] == 0.75).all() and (episode.action[:2] != 0.75).all()


def test_one_that_cannot_begin_stops_a_training_before_it_begins(
    command: Any, demonstrations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a machine without a display would say so after imitation."""

    def reset(self: Strange, **_: Any) -> Any:
        raise RuntimeError("no pictures here")

    monkeypatch.setattr(Strange, "reset", reset)
    result = command(TRAIN)
    assert "RuntimeError: no pictures here" in result.error() and "imitation" not in result.out, result
    assert not Path("run/config.yaml").exists()


NUMBERS = {
    "success_rate": 0.25, "success": 3, "return": -1, "length": 9, "guard/flagged": 7, "_hidden": 2,
    "nan": float("nan"), "huge": 2**2000, 3: 1.0, "": 1.0, "list": [1], "is_success": np.bool_(True),
}  # fmt: skip
REPORTED = ["success_rate", "success", "return", "length", "guard/flagged", "_hidden", "nan", "huge"]


class Key(StrEnum):
    DISTANCE = "distance"


def test_names_that_are_more_than_texts_can_be_saved(
    command: Any, demonstrations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Strange, "last_info", {Key.DISTANCE: 1.0, np.str_("speed"): 2.0, "half\ud800": 3.0})
    with interrupted(SoftFlow, 8 + 16 + 2):
        assert command(f"{TRAIN} --collect-steps 2 --online.steps 40 --online.updates-per-step 1").status == 130
    assert command("softflow-train --resume run").status == 0
    names = {name.removeprefix("eval/outcome/") for name in scalars("run") if name.startswith("eval/outcome/")}
    assert names == {"distance", "speed", "half\\ud800"}


def test_what_an_environment_says_has_a_prefix_of_its_own(
    command: Any, demonstrations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Strange, "last_info", NUMBERS)
    assert command(TRAIN).status == 0
    logged = scalars("run")
    assert set(logged["eval/success_rate"]) == {1.0} and set(logged["eval/outcome/success_rate"]) == {0.25}
    assert {name.removeprefix("eval/outcome/") for name in logged if "eval/outcome/" in name} == {*REPORTED}
    result = command("softflow-eval run --episodes 2 --csv episodes.csv --json")
    with open("episodes.csv", newline="") as file:
        header, row, _ = csv.reader(file)
    assert header == ["seed", "success", "return", "length", "terminated", *(f"outcome/{name}" for name in REPORTED)]
    assert row[:4] == [str(OTHER_SEEDS), "1", "8.0", "8"]

    def strict(constant: str) -> float:
        raise AssertionError(f"{constant} is no JSON")

    told = json.loads(result.out, parse_constant=strict)
    assert told["success_rate"] == 1 and told["outcome"]["success_rate"] == 0.25
    assert told["outcome"]["nan"] is told["outcome"]["huge"] is None
    demo = command("softflow-demo --env Strange-v0 --episodes 2 --out d.npz --json")
    assert json.loads(demo.out, parse_constant=strict)["outcome"] == told["outcome"]


@pytest.mark.parametrize("value", [0.25, float("nan"), -1, "False", None])
def test_a_success_that_is_neither_true_nor_false_ends_the_run(
    value: Any, command: Any, demonstrations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Strange, "info", {"success": value})
    for line in (TRAIN, "softflow-demo --env Strange-v0 --episodes 1 --out d.npz"):
        result = command(line)
        assert result.status == 2 and f"success is {value!r}, expected true or false" in result.err, result
        assert "step 4 of the " in result.err and "Traceback" not in result.err


def test_success_may_be_said_at_any_step_or_by_the_return(
    command: Any, demonstrations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Strange, "info", {"is_success": True})
    expected = {"last": 0, "any": 1, "return>=8": 1, "return>=8.5": 0}
    for number, (rule, rate) in enumerate(expected.items()):
        told = command(f"softflow-demo --env Strange-v0 --episodes 2 --success {rule} --json --out {number}.npz")
        assert json.loads(told.out)["success_rate"] == rate, rule
    assert command(f"{TRAIN} --success any").status == 0
    assert set(scalars("run")["eval/success_rate"]) == set(scalars("run")["rollout/success_rate"]) == {1.0}
    rated = {rule: command(f"softflow-eval run --episodes 2 --json --success {rule}").out for rule in expected}
    assert {rule: json.loads(out)["success_rate"] for rule, out in rated.items()} == expected
    assert json.loads(command("softflow-eval run --episodes 2 --json").out)["success_rate"] == 1
    assert command("softflow-demo --corrections run --episodes 1 --out c.npz").status == 0
    assert [episode.is_success for episode in load_demonstrations("c.npz")] == [True]


@pytest.mark.parametrize("line", [f"{TRAIN.replace('-dir run', '-dir new')}", "softflow-eval run", "softflow-demo"])
def test_an_unknown_rule_is_refused(line: str, command: Any, small_run: Path, demonstrations: Path) -> None:
    assert "success is 'lst': did you mean 'last'?" in command(f"{line} --success lst").error()


def test_outputs_are_where_the_command_was_started(
    command: Any, demonstrations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(TRAIN).status == 0
    (tmp_path / "elsewhere").mkdir()
    reset = Strange.reset

    def moving(self: Any, **arguments: Any) -> Any:
        os.chdir(tmp_path / "elsewhere")
        return reset(self, **arguments)

    monkeypatch.setattr(Strange, "reset", moving)
    for name, line in {
        "episodes.csv": "softflow-eval run --episodes 2 --csv",
        "d.npz": "softflow-demo --env Strange-v0 --episodes 1 --out",
        "c.npz": "softflow-demo --corrections run --episodes 1 --out",
    }.items():
        os.chdir(tmp_path)
        assert command(f"{line} {name}").status == 0
        assert (tmp_path / name).is_file()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_what_an_environment_prints_is_no_result(
    mode: str, command: Any, demonstrations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Strange.step

    def talking(self: Any, action: np.ndarray) -> Any:
        print("motor 3 is warm")
        return step(self, action)

    assert command(TRAIN).status == 0
    monkeypatch.setattr(Strange, "step", talking)
    assert (
        json.loads(command(f"softflow-eval run --episodes 2 --vectorization-mode {mode} --json").out)["episodes"] == 2
    )
    demo = command(f"softflow-demo --env Strange-v0 --episodes 2 --vectorization-mode {mode} --json --out d.npz")
    assert json.loads(demo.out)["episodes"] == 2


def test_demonstrations_that_are_not_worth_imitating_leave_no_folder(command: Any, tmp_path: Path) -> None:
    pendulum_demonstrations(tmp_path / "pendulum.npz", reward=0.0)
    assert "nothing is worth imitating" in command(f"{TRAIN} --imitate reward_to_come").error()
    assert not Path("run").exists()


def leave(self: Any, *arguments: Any) -> Any:
    sys.exit(0)


def test_exit_in_a_step_is_an_error(command: Any, demonstrations: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(TRAIN).status == 0
    monkeypatch.setattr(Strange, "step", leave)
    for line in (TRAIN.replace("-dir run", "-dir new"), "softflow-eval run", "softflow-demo --env Strange-v0"):
        result = command(line)
        assert result.status == 2 and "SystemExit: 0 (test_strange_environments.py:" in result.err, result


def test_exit_anywhere_else_is_an_error_too(command: Any, demonstrations: Path) -> None:
    with interrupted(SoftFlow, 3, by=SystemExit(0)):
        result = command(TRAIN)
    assert result.status == 2 and "error: unfinished: training_runs.py:" in result.err
    assert "called sys.exit(0)" in result.err


@pytest.mark.filterwarnings("ignore:closing an environment failed")
@pytest.mark.parametrize("close", [leave, lambda self: 1 / 0])
def test_close_that_fails_loses_no_result(
    close: Any, command: Any, demonstrations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Strange, "close", close)
    result = command(TRAIN)
    assert result.status == 0 and "after online" in result.out
    result = command("softflow-eval run --episodes 2 --csv episodes.csv")
    assert result.status == 0 and "on 2 held-out episodes" in result.out and Path("episodes.csv").exists()
    assert command("softflow-demo --corrections run --episodes 1 --out c.npz").status == 0
    monkeypatch.setattr(Strange, "info", {"is_success": "False"})
    result = command("softflow-eval run --episodes 2")
    assert result.status == 2 and "error: environment 0, step 4" in result.err


@pytest.mark.parametrize(
    "methods",
    [
        {"get_state": lambda self, indices: {}, "set_state": lambda self, state: None},
        {"get_state": lambda self: {"seen": self.seen}, "set_state": lambda self, qpos, qvel: None},
        {"get_state": lambda self: {"seen": self.seen}, "set_state": lambda self, state: None},
    ],
)
def test_states_that_mean_something_else_are_no_states(
    methods: dict[str, Any], command: Any, demonstrations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, method in methods.items():
        monkeypatch.setattr(Strange, name, method, raising=False)
    with interrupted(SoftFlow, 8 + 16 + 2):  # when two episodes have ended and two have begun
        assert command(f"{TRAIN} --collect-steps 2 --online.steps 40 --online.updates-per-step 1").status == 130
    result = command("softflow-train --resume run")
    why = "2 unfinished episodes are restarted, because their environment's state cannot"
    assert result.status == 0 and why in result.out


def careless(step: Any) -> Any:
    def upset(self: Any, action: np.ndarray) -> Any:
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        np.seterr(all="raise")
        return step(self, action)

    return upset


def test_what_an_environment_does_to_the_process_does_not_alter_training(
    command: Any, demonstrations: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(TRAIN).status == 0
    with monkeypatch.context() as patch:
        patch.setattr(Strange, "step", careless(Strange.step))
        assert command(TRAIN.replace("-dir run", "-dir other")).status == 0
        evaluation = command("softflow-eval other --episodes 2 --json").out
        assert command("softflow-demo --corrections run --episodes 2 --out other.npz").status == 0
    assert Path("run/metrics.csv").read_bytes() == Path("other/metrics.csv").read_bytes()
    assert command("softflow-eval run --episodes 2 --json").out == evaluation
    assert command("softflow-demo --corrections run --episodes 2 --out c.npz").status == 0
    assert Path("c.npz").read_bytes() == Path("other.npz").read_bytes()
    assert torch.get_default_dtype() is torch.float32 and torch.is_grad_enabled()
