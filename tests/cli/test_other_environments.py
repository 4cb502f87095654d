"""Other people's environments by the command: their presets, what is missing, and short runs where it is not."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import yaml

from softflow.cli.command_line import parse_command_line
from softflow.data import Episode, EpisodeBuilder, save_demonstrations
from softflow.envs import available_envs, find_layout, make_env, time_limit
from softflow.envs.tasks import known_tasks
from softflow.runs.config import config_class
from softflow.settings.presets import Selection, available_presets
from tests.test_packaging import SETUP

TRAIN = "softflow-train --config small.yaml --run-dir run"


def test_every_short_name_has_its_preset() -> None:
    assert available_presets("envs") == available_envs()


@pytest.mark.parametrize("env", available_envs())
@pytest.mark.parametrize("algo", ["softflow", "imitation", "sac_prior_data"])
def test_the_presets_fit_the_algorithms(env: str, algo: str) -> None:
    config = config_class(Selection(algo=algo, env=env))
    assert parse_command_line(config, ["--algo", algo, "--env", env], prog="train", description="").run.env == env


@pytest.mark.parametrize("module", ["gymnasium_robotics", "ogbench"])
def test_a_missing_package_is_named(module: str, command: Any, snapshot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    before = snapshot()
    tasks = [task for task in known_tasks() if task.module == module and task.short_name]
    assert tasks
    for task in tasks:
        assert task.install.removeprefix("softflow[").removesuffix("]") in SETUP["options.extras_require"]
        for line in (f"softflow-train --env {task.short_name}", f"softflow-demo --env {task.short_name}"):
            assert f"cannot import '{module}'" in (error := command(line).error())
            assert f"pip install '{task.install}'" in error
    assert snapshot() == before


def test_a_maze_is_learnt(command: Any) -> None:
    pytest.importorskip("gymnasium_robotics")
    result = command(f"{TRAIN} --env point_maze --num-demos 3")
    assert result.status == 0, result
    assert "3 demonstrations, success 1.00" in result.out
    assert command("softflow-eval run --episodes 2").status == 0


def test_an_environment_by_its_id_is_learnt_from_a_file(command: Any) -> None:
    pytest.importorskip("gymnasium_robotics")
    rng = np.random.default_rng(0)
    episode = Episode(rng.normal(size=(9, 39)), rng.uniform(-1, 1, (8, 28)), np.eye(8)[7], True, False, True)
    save_demonstrations("door.npz", [episode])
    door = "--env gymnasium_robotics:AdroitHandDoor-v1 --env-options.sparse-success true"
    result = command(f"{TRAIN} {door} --demos door.npz --eval-episodes 1")
    assert result.status == 0, result
    assert "AdroitHandDoor-v1" in gymnasium.registry
    assert "no demonstrator is known for 'AdroitHandDoor-v1'" in command("softflow-train --env adroit_door").error()


TASK = """\
import gymnasium
import numpy as np
from gymnasium import spaces

MADE = []


class MyTask(gymnasium.Env):
    '''Ends after `steps` steps; its action is right if it is where the first joint is.'''

    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, maze_map=None, controller=None, unit=1.0, steps=8, picture=False, limit=0):
        MADE.append((maze_map, controller, limit))
        if maze_map:
            maze_map[0][0] = "changed"
        self.unit, self.picture, self.steps_left, self.steps = unit, picture, steps, steps
        low = np.full(3, -np.inf, np.float32)
        joints = spaces.Dict(joints=spaces.Box(low, -low), gear=spaces.Discrete(2))
        camera = spaces.Box(0, 255, (4, 16, 20), np.uint8)
        self.observation_space = spaces.Dict(robot=joints, camera=camera) if picture else joints

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.steps_left, self.right = self.np_random.uniform(-1, 1), self.steps, 0
        return self.observation(), {}

    def step(self, action):
        self.steps_left -= 1
        self.right += abs(float(action[0]) - self.at) < 0.25
        self.at = self.np_random.uniform(-1, 1)
        ended = self.steps_left == 0
        success = ended and self.right > 0.75 * self.steps
        return self.observation(), float(success), ended, False, {"is_success": success}

    def observation(self):
        joints = np.array([self.unit * self.at, 0.5, 7 * self.unit], np.float32)
        robot = {"joints": joints, "gear": 1}
        return {"robot": robot, "camera": np.zeros((4, 16, 20), np.uint8)} if self.picture else robot


gymnasium.register("MyTask-v0", entry_point=MyTask)
gymnasium.register("MyLimitedTask-v0", entry_point=MyTask, max_episode_steps=8)
"""
MY_TASK = f"{TRAIN} --env my_task:MyTask-v0 --demos mine.npz"


@pytest.fixture
def my_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module `my_task.py` in the current folder, on Python's path."""
    (tmp_path / "my_task.py").write_text(TASK)
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda: importlib.import_module("my_task")
    sys.modules.pop("my_task", None)
    for name in ("MyTask-v0", "MyLimitedTask-v0"):
        gymnasium.registry.pop(name, None)


def demonstrate(episodes: int = 4, seed: int = 0, **options: Any) -> None:
    """Write `mine.npz`, successes at `MyTask`."""
    env, recorded = make_env("my_task:MyTask-v0", **options), []
    rng = np.random.default_rng(seed)
    for index in range(episodes):
        builder, (observation, _) = EpisodeBuilder(find_layout(env)), env.reset(seed=seed + index)
        ended = False
        while not ended:
            action = np.clip([env.unwrapped.at + 0.05 * rng.normal()], -1, 1)
            following, reward, ended, _, info = env.step(action)
            builder.append(observation, action, float(reward))
            observation = following
        recorded.append(builder.finish(observation, True, False, bool(info["is_success"])))
    save_demonstrations("mine.npz", recorded)


def test_a_module_in_the_current_folder_is_not_found_and_the_error_says_what_to_do(
    command: Any, tmp_path: Path, snapshot: Any
) -> None:
    (tmp_path / "my_task.py").write_text(TASK)
    (tmp_path / "my_broken.py").write_text("import no_such_package\n")
    before = snapshot()
    for line in ("softflow-train --env my_task:MyTask-v0", "softflow-demo --env my_task:MyTask-v0"):
        assert "cannot import 'my_task'" in (error := command(line).error())
        assert error.endswith("in the current folder, which Python does not search: set PYTHONPATH=.\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        error = command("softflow-train --env my_broken:MyTask-v0").error()
        assert error.endswith("No module named 'no_such_package'\")): is 'no_such_package' installed?\n")
    assert "my_task" not in sys.modules and snapshot() == before


def test_an_id_that_a_module_does_not_register(command: Any, my_task: Any) -> None:
    for _ in range(2):  # the second time nothing is registered any more
        error = command("softflow-train --env my_task:MyTask-v1").error()
        assert "'my_task' registers no 'MyTask-v1': did you mean 'MyTask-v0'?" in error


def test_options_may_be_lists_mappings_and_null(command: Any, my_task: Any, tmp_path: Path) -> None:
    demonstrate()
    maze, controller = [[1, "r"], [0.5, None]], {"kp-gain": 3, "deep": {"x": [True]}}
    file = {"maze_map": [[0]], "controller": {"kp": 1, "kd": 2}, "limit": 1}
    with open("small.yaml", "a") as small:
        yaml.dump({"env_options": file}, small)
    made = my_task().MADE
    made.clear()
    flags = ["--env-options.maze-map", json.dumps(maze), "--env-options.controller", json.dumps(controller)]
    assert command(f"{MY_TASK} --env-options.limit null", *flags).status == 0
    # Each environment got the values as they were given, and copies, for it writes into them.
    changed = [["changed", "r"], [0.5, None]]
    assert len(made) > 2 and all(options == (changed, controller, None) for options in made)
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["env_options"] == {"maze_map": maze, "controller": controller, "limit": None}
    assert command("softflow-train --resume run").status == 0
    assert made[-1] == (changed, controller, None)
    assert "env_options cannot be changed" in command("softflow-train --resume run --env-options.limit 3").error()
    assert command("softflow-eval run --episodes 2", "--env-options", "{controller: {}, limit: [3]}").status == 0
    assert made[-1] == (changed, {}, [3])


def test_options_of_a_recording(command: Any) -> None:
    options = "--env-options", "{reward: staged, max_steps: 5}"
    assert "1 episode, 5 steps" in command("softflow-demo --episodes 1 --env-options.reward sparse", *options).out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--env-options.controller.kp", "4"], "whole of 'controller': --env-options.controller '{kp: 4, ...}'"),
        (["--env-options.maze-map", "2001-01-01"], "'env_options.maze_map' holds a date: give numbers, texts"),
        (["--env-options.maze-map", "[.inf]"], "maze_map must be finite, got [inf]"),
        (["--env-options.maze-map", "[[.nan]]"], "must be a number, got nan"),
        (["--env-options.maze-map", "&a [*a]"], "its aliases repeat values without end"),
        (["--env-options", "3"], "'env_options' must be a mapping such as {name: value}, got 3"),
        (["--env-options"], "--env-options needs a value"),
    ],
)
def test_options_that_are_refused(flags: list[str], message: str, command: Any, my_task: Any, snapshot: Any) -> None:
    before = snapshot()
    for name in ("softflow-train", "softflow-demo"):
        assert message in command(f"{name} --env my_task:MyTask-v0", *flags).error()
    assert snapshot() == before


def test_a_run_says_what_it_sees_and_what_never_changes(command: Any, my_task: Any) -> None:
    demonstrate(picture=True)
    flags = "--encoder-options.width 4 --online.steps 0 --env-options.picture true"
    lines = command(f"{MY_TASK} {flags}").out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("observation: "))
    assert lines[start : start + 2] == [
        "observation: robot/joints 3 numbers, robot/gear 2 numbers (one-hot, Discrete(2)), camera image 16x20x4 "
        "(4x16x20 uint8); action: 1 number in [-1, 1]",
        "constant in the demonstrations: observation dimensions robot/joints[1-2], robot/gear[0-1]; they are "
        "centred, not scaled",
    ]


def test_the_unit_of_an_observation_does_not_matter(command: Any, my_task: Any, tmp_path: Path) -> None:
    """To the bit, because a power of two changes no digit of a number."""
    metrics = []
    for unit in (1.0, 2.0**-20):
        demonstrate(unit=unit)
        run = MY_TASK.replace("--run-dir run", f"--run-dir {unit}")
        assert command(f"{run} --env-options.unit {unit}").status == 0
        metrics.append((tmp_path / str(unit) / "metrics.csv").read_bytes())
    assert metrics[0] == metrics[1]


def test_a_replay_that_cannot_hold_an_episode_is_refused(command: Any, my_task: Any, snapshot: Any) -> None:
    demonstrate()
    before = snapshot()
    limited = MY_TASK.replace("MyTask-v0", "MyLimitedTask-v0")
    for line, known in ((limited, "the environment's time limit is"), (MY_TASK, "the longest demonstration has")):
        assert (
            f"replay_capacity 8 is too small for one episode, {known} 8 steps: set --replay-capacity to 9 or more"
            in command(f"{line} --replay-capacity 8").error()
        )
    longer = f"{limited} --env-options.max-episode-steps 50 --replay-capacity 50"
    assert "is 50 steps: set --replay-capacity to 51" in command(longer).error()
    assert time_limit(make_env("tape_cut")) == 200 and time_limit(make_env("tape_cut", max_steps=5)) == 5
    assert time_limit(make_env("two_routes")) == 60 and time_limit(make_env("my_task:MyTask-v0")) is None
    assert snapshot() == before
    assert command(f"{limited} --replay-capacity 9").status == 0
    no_episodes = "--online.steps 0 --replay-capacity 1"
    assert command(f"{MY_TASK} {no_episodes}".replace("--run-dir run", "--run-dir other")).status == 0


def test_an_episode_that_turns_out_longer_than_the_replay(command: Any, my_task: Any) -> None:
    demonstrate()
    result = command(f"{MY_TASK} --env-options.steps 30 --replay-capacity 30")
    assert result.status == 2
    assert result.err.splitlines()[-1] == (
        "error: an episode of 30 steps does not fit into a replay of 30 rows: start a run with --replay-capacity 31 or "
        "more, or limit the episodes"
    )
    assert command("softflow-eval run --episodes 2").status == 0
