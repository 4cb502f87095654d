"""Other people's environments by the command: their presets, what is missing, and short runs where it is not."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium
import numpy as np
import pytest

from softflow.cli.command_line import Selection, parse_command_line
from softflow.cli.config import available_presets
from softflow.cli.runs import config_class
from softflow.data import Episode, save_demonstrations
from softflow.envs import available_envs
from softflow.envs.registry import EXTRAS, SHORT_NAMES
from tests.test_packaging import SETUP

TRAIN = "softflow-train --config small.yaml --run-dir run"


def test_every_short_name_has_its_preset() -> None:
    assert available_presets("envs") == available_envs()


@pytest.mark.parametrize("env", sorted(SHORT_NAMES))
@pytest.mark.parametrize("algo", ["softflow", "imitation", "sac_prior_data"])
def test_the_presets_fit_the_algorithms(env: str, algo: str) -> None:
    config = config_class(Selection(algo=algo, env=env))
    assert parse_command_line(config, ["--algo", algo, "--env", env], prog="train", description="").env == env


@pytest.mark.parametrize("module", EXTRAS)
def test_a_missing_package_is_named(module: str, command: Any, snapshot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    assert EXTRAS[module] in SETUP["options.extras_require"]
    before = snapshot()
    for name, env_id in SHORT_NAMES.items():
        if env_id.startswith(f"{module}:"):
            for line in (f"softflow-train --env {name}", f"softflow-demo --env {name}"):
                assert f"cannot import '{module}'" in (error := command(line).error())
                assert f"pip install 'softflow[{EXTRAS[module]}]'" in error
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
