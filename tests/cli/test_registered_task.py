"""A task of one's own: its module brings the environment, its short name, preset and demonstrator, flow and reader."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import pytest

from flows.registry import FLOWS
from softflow.data import load_dataset
from softflow.data.readers import readers
from softflow.envs import tasks
from softflow.settings.typed import load_file
from tests.cli.conftest import Command

MODULE = """\
import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

from flows import GaussianFlow, register_flow
from softflow.data import Dataset, load_dataset
from softflow.data.readers import DatasetReader, register_reader
from softflow.envs import register_task


class Arm(gymnasium.Env):
    observation_space = Dict([("q", Box(-9, 9, (2,))), ("gripper", Box(0, 1, (1,)))])
    action_space = Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32))

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return self.see(), {}

    def see(self):
        return {"q": np.full(2, self.steps, np.float32), "gripper": np.full(1, 0.5, np.float32)}

    def step(self, action):
        assert self.action_space.contains(action)
        self.steps += 1
        return self.see(), float(self.steps == 8), self.steps == 8, False, {"is_success": self.steps == 8}


class Still:
    mode = 0

    def __init__(self, env, rng):
        self.rng = rng

    def act(self):
        return self.rng.uniform(-0.5, 0.5, 2)


@register_flow("arm_flow")
class ArmFlow(GaussianFlow):
    pass


@register_reader("arm_logs")
class Logs(DatasetReader):
    def recognizes(self, path):
        return path.suffix == ".log"

    def read(self, path):
        return load_dataset(path.with_suffix(".npz"))


gymnasium.register("Arm-v0", entry_point=Arm)
register_task("Arm-v0", short_name="arm", demonstrator=Still, preset={
    "horizon": 3, "n_action_steps": 2, "num_demos": 3, "success": "any",
})
"""
TRAIN = "softflow-train --config tiny.yaml --run-dir run"
TINY = """\
{num_envs: 2, eval_episodes: 2, collect_steps: 16, threads: 1, batch_size: 16, critic_width: 8, imitation: {updates: 2},
 warmup: {updates: 2}, offline: {updates: 2}, online: {steps: 32, updates_per_step: 0.1}}
"""


@pytest.fixture
def arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "arm_task.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(FLOWS, "_things", FLOWS._things.copy())
    monkeypatch.setattr(readers(), "_things", readers()._things.copy())
    monkeypatch.setattr(tasks, "_tasks", tasks._tasks.copy())
    yield
    gymnasium.registry.pop("Arm-v0", None)
    sys.modules.pop("arm_task", None)


def test_its_preset_is_for_training_and_does_not_disturb_recording(arm: None, command: Command) -> None:
    import arm_task  # type: ignore[import-not-found]  # noqa: F401

    assert command("softflow-demo --env arm --episodes 3 --out d.npz").status == 0
    task = load_dataset("d.npz").task
    assert task is not None and task.success == "any" and [part.name for part in task.observation] == ["q", "gripper"]
    result = command(f"{TRAIN} --env arm --demos d.npz --flow-options.width 8")
    assert result.status == 0, result
    settings = load_file("run/config.yaml").values
    assert (settings["horizon"], settings["success"]) == (3, "any")


def test_its_short_name_needs_an_entry_point(arm: None, command: Command) -> None:
    for name, message in (
        ("arm", "of a module of your own, is written module:Id-v0"),
        ("arm_task:arm", "'arm_task' registers no 'arm': "),
    ):
        assert message in command(f"{TRAIN} --env {name}").error()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_demonstrator_in_native_units_is_told_so_at_its_first_step(
    arm: None, command: Command, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    import arm_task

    monkeypatch.setattr(arm_task.Still, "act", lambda self: self.rng.uniform([0, 2], [0, 10]))
    result = command(f"softflow-demo --env arm --episodes 3 --out d.npz --num-envs {processes}")
    *_, refused = result.err.splitlines()
    assert result.status == 2 and refused.startswith("error: step 0 of the demonstration with seed 0: the demonstrator")
    assert "act must return actions in [-1, 1]" in refused
    assert not Path("d.npz").exists()


def test_its_module_may_bring_a_flow_and_a_reader(arm: None, command: Command) -> None:
    assert command("softflow-demo --env arm_task:Arm-v0 --episodes 4 --out d.npz").status == 0
    shutil.copy("d.npz", "d.log")
    sys.modules.pop("arm_task")
    for registry in (FLOWS, readers()):
        registry._things.pop("arm_flow", None)
        registry._things.pop("arm_logs", None)
    gymnasium.registry.pop("Arm-v0")
    tasks._tasks.pop("Arm-v0")
    line = f"{TRAIN} --env arm_task:Arm-v0 --demos d.log --flow arm_flow --flow-options.width 8"
    result = command(line)
    assert result.status == 0, result
    assert load_file("run/config.yaml").values["flow"] == "arm_flow"


def test_a_flow_that_there_is_not_is_found_before_anything_is_recorded(arm: None, command: Command) -> None:
    for flow, message in (
        ("arm_flaw", "unknown flow 'arm_flaw'; did you mean 'arm_flow'?"),
        ("gaussian", "unknown option"),
    ):
        result = command(f"{TRAIN} --env arm_task:Arm-v0 --flow {flow} --flow-options.wdith 8")
        assert message in result.error() and "demonstrations" not in result.out
