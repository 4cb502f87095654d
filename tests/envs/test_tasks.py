"""Tasks of our own and of others: one call, or a package's entry point."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from softflow.envs import available_envs, make_demonstrator, make_env, make_supervisor, register_task, tasks
from softflow.envs.registry import find_mirror
from softflow.errors import UserError
from softflow.settings.presets import Selection, load_preset, preset_layers
from softflow.settings.typed import ConfigError
from tests.packages import install

PACKAGE = """
import gymnasium
import numpy as np
from gymnasium.envs.classic_control import PendulumEnv
from softflow.envs import register_task

class Push:
    mode = 0
    def __init__(self, env, rng, force=0.5):
        self.force = force
    def act(self):
        return np.array([self.force], np.float32)

def flip(observation, action):
    return -observation, -action

def find_flip(g=10.0):
    return None if g else flip

def register():
    gymnasium.register("theirs/Swing-v0", entry_point=PendulumEnv, max_episode_steps=20)
    register_task("theirs/Swing-v0", short_name="swing", demonstrator="their_tasks:Push", mirror=find_flip,
                  preset={"horizon": 4, "algorithms": {"sac": {"n_action_steps": 2}}})
"""


@pytest.fixture(autouse=True)
def no_other_tasks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is registered in a test is forgotten after it."""
    monkeypatch.setattr(tasks, "_tasks", dict(tasks._tasks))
    tasks._packages.cache_clear()
    yield
    sys.modules.pop("their_tasks", None)
    gymnasium.registry.pop("theirs/Swing-v0", None)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages, on Python's path."""
    (folder := tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def bring(site: Path, entry_points: str) -> None:
    install(site, entry_points, "their_tasks", PACKAGE, "softflow.tasks")


def test_a_package_brings_a_task(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    bring(site, "swing = their_tasks:register")
    assert "swing" in available_envs() and "their_tasks" not in sys.modules
    env = make_env("swing")
    assert env.spec.id == "theirs/Swing-v0"
    assert caplog.messages == ["environment 'swing' comes from their_tasks:register of the package 'their-tasks'"]
    make_env("swing")
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    assert make_demonstrator(env, rng, force=0.25).act() == 0.25
    with pytest.raises(UserError, match="nothing in 'theirs/Swing-v0' can take over"):
        make_supervisor(env, rng)
    assert find_mirror("swing") is None
    flipped = find_mirror("theirs/Swing-v0", g=0.0)
    assert flipped is not None and flipped(1, 2) == (-1, -2)


def test_its_preset_is_found_like_ours(site: Path) -> None:
    bring(site, "swing = their_tasks:register")
    layers = preset_layers(Selection(algo="sac_prior_data", env="swing"))
    assert [dict(layer.values) for layer in layers[1:]] == [{"horizon": 4}, {"n_action_steps": 2}]
    assert layers[1].source == "the preset of 'theirs/Swing-v0'"
    with pytest.raises(ConfigError, match=r"unknown environment 'swign': did you mean 'swing'.* swing, tape_cut"):
        load_preset("envs", "swign")


def test_a_preset_may_be_a_file_or_be_missing(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("horizon: 5\n")
    register_task("Pendulum-v1", short_name="pendulum", preset=tmp_path / "mine.yaml")
    register_task("Acrobot-v1", short_name="acrobot")
    assert load_preset("envs", "pendulum").values == {"horizon": 5}
    assert load_preset("envs", "acrobot").values == {}
    (tmp_path / "mine.yaml").unlink()
    with pytest.raises(ConfigError, match=r"mine\.yaml: no such file"):
        load_preset("envs", "pendulum")
    for name in ("pendulun", "Pendulum-v1"):
        with pytest.raises(ConfigError, match=f"unknown environment '{name}'"):
            load_preset("envs", name)


@pytest.mark.parametrize(
    ("entry_points", "message"),
    [
        ("swing = no_such_module", r"environment 'swing' cannot be imported from no_such_module of the package"),
        ("swing = their_tasks", r"loading it calls no register_task\(\.\.\., short_name='swing'\)"),
        ("swang = their_tasks:register", r"loading it calls no register_task\(\.\.\., short_name='swang'\)"),
    ],
)
def test_a_package_that_brings_no_such_task_is_named(entry_points: str, message: str, site: Path) -> None:
    bring(site, entry_points)
    with pytest.raises(UserError, match=message):
        make_env(entry_points.partition(" ")[0])
    make_env("two_routes")  # the others are not affected


def test_a_task_is_registered_once() -> None:
    with pytest.raises(ValueError, match=r"'softflow/TapeCut-v0' is already registered: call register_task once"):
        register_task("some_module:softflow/TapeCut-v0")
    with pytest.raises(ValueError, match=r"short name 'tape_cut' is already that of 'softflow/TapeCut-v0'"):
        register_task("Pendulum-v1", short_name="tape_cut")


def test_a_part_that_cannot_be_imported_is_named() -> None:
    register_task("Pendulum-v1", demonstrator="no_such_module:Push")
    with pytest.raises(UserError, match=r"the demonstrator of 'Pendulum-v1': cannot import 'no_such_module:Push'"):
        make_demonstrator(make_env("Pendulum-v1"), np.random.default_rng(0))


@pytest.mark.parametrize("name", [task.env_id for task in tasks.known_tasks() if not task.module])
def test_the_parts_of_our_own_tasks_exist(name: str) -> None:
    task: Any = tasks.find_task(name)
    assert callable(task.load("demonstrator")) == (name != "softflow/Absent-v0")
    assert (task.load("supervisor") is None) == (task.load("mirror") is None) == (name != "softflow/TapeCut-v0")


MAKE = """
import sys, warnings
warnings.simplefilter("error")
import gymnasium
env = gymnasium.make("softflow:softflow/TwoRoutes-v0")
assert "torch" not in sys.modules
import softflow.envs
print(env.spec.id, type(env.unwrapped) is softflow.envs.diagnostics.tasks.TwoRoutesEnv, "torch" in sys.modules)
"""


def test_gymnasium_makes_our_environments_after_import_softflow_alone() -> None:
    result = subprocess.run([sys.executable, "-c", MAKE], capture_output=True, text=True)
    assert result.stdout.split() == ["softflow/TwoRoutes-v0", "True", "False"], result.stderr
