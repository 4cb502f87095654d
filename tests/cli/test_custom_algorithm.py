"""A new algorithm is one file and one preset: those of the example, in a folder of their own."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import softflow
from flows.registry import FLOWS
from softflow.settings.presets import Selection, preset_layers
from softflow.settings.typed import load_file
from tests.cli.training_runs import interrupted, stages_of

EXAMPLES = Path(__file__).parents[2] / "examples"
STAGES = ["imitation", "practice"]
SIZES = "--config sizes.yaml --practice-steps 400 --practice-updates-per-step 0.02"
TRAIN = f"softflow-train --algo mine/preset.yaml --env Pendulum-v1 --demos pendulum.npz {SIZES}"


@pytest.fixture
def mine(tmp_path: Path, demonstrations: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The two files, and settings for a short run; the module can be imported, as PYTHONPATH would have it."""
    folder = tmp_path / "mine"
    folder.mkdir()
    shutil.copy(EXAMPLES / "custom_algorithm.py", folder / "my_algorithm.py")
    preset = (EXAMPLES / "custom_algorithm.yaml").read_text()
    (folder / "preset.yaml").write_text(preset.replace("custom_algorithm:", "my_algorithm:"))
    (tmp_path / "sizes.yaml").write_text(
        "{num_envs: 2, num_demos: 4, eval_episodes: 2, eval_every: 200, collect_steps: 100, threads: 1, batch_size: 16,"
        " flow_options: {layers: 2, width: 8, components: 2}, imitation: {updates: 4}}"
    )
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    forget()


def forget() -> None:
    """As in a new process."""
    sys.modules.pop("my_algorithm", None)


def test_it_trains_and_deploys(mine: Path, command: Any, tmp_path: Path) -> None:
    result = command(TRAIN)
    assert result.status == 0, result
    [run] = (tmp_path / "runs" / "Pendulum-v1" / "preset").iterdir()  # named after the preset
    assert stages_of(str(run)) == STAGES
    settings = load_file(run / "config.yaml").values
    assert (settings["algorithm"], settings["practice_steps"]) == ("my_algorithm:SelfImitation", 400)
    forget()
    assert command(f"softflow-eval {run} --episodes 2").status == 0


def test_it_needs_no_preset(mine: Path, command: Any, tmp_path: Path) -> None:
    result = command(TRAIN.replace("--algo mine/preset.yaml", "--algorithm my_algorithm:SelfImitation"))
    assert result.status == 0, result
    [run] = (tmp_path / "runs" / "Pendulum-v1" / "SelfImitation").iterdir()
    assert stages_of(str(run)) == STAGES
    forget()
    run = softflow.train(
        {"config": "sizes.yaml", "practice_steps": 400, "practice_updates_per_step": 0.02},
        algorithm="my_algorithm:SelfImitation", env="Pendulum-v1", demos="pendulum.npz", run_dir="again",
    )  # fmt: skip
    assert stages_of("again") == STAGES and run.config.algorithm == "my_algorithm:SelfImitation"


def test_it_must_deploy_something(mine: Path, command: Any) -> None:
    text = (mine / "my_algorithm.py").read_text()
    (mine / "my_algorithm.py").write_text(text.replace("self.deployed =", "self.other ="))
    assert "its constructor must set self.deployed to a BestOfN" in command(TRAIN).error()


def test_the_interface_of_earlier_versions_is_refused(mine: Path, command: Any) -> None:
    text = (mine / "my_algorithm.py").read_text()
    (mine / "my_algorithm.py").write_text(
        text.replace("    def parts", "    def update(self, stage, data, progress): ...\n\n    def parts")
    )
    assert "has a method 'update', which nothing calls: give it to the stage" in command(TRAIN).error()
    forget()
    (mine / "my_algorithm.py").write_text(text.replace(", update=self.imitate)", ")"))
    assert "stage 'imitation' makes updates: say what they are" in command(TRAIN).error()
    forget()
    (mine / "my_algorithm.py").write_text(
        text.replace("    def parts", "    def explore(self, observation): ...\n\n    def parts")
    )
    assert (
        "explore must take the observations and the arms of their episodes, explore(self, ob" in command(TRAIN).error()
    )


def test_it_may_bring_the_flow_of_its_policy(mine: Path, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that finds the trained policy has imported nothing yet."""
    monkeypatch.setattr(FLOWS, "_things", FLOWS._things.copy())
    (mine / "my_algorithm.py").write_text(
        "from flows import GaussianFlow, register_flow\nfrom softflow.algos import FilteredImitation\n\n"
        "@register_flow('mine')\nclass MyFlow(GaussianFlow):\n    pass\n\nclass Mine(FilteredImitation):\n    pass\n"
    )
    (mine / "preset.yaml").write_text("algorithm: my_algorithm:Mine\nflow: mine\ncollection: {rounds: 0}\n")
    sizes = "--num-demos 4 --eval-episodes 2 --imitation.updates 4 --threads 1"
    result = command(f"{TRAIN.split(' --config')[0]} {sizes} --run-dir run")
    assert result.status == 0, result
    for reader in ("softflow-eval run --episodes 2", "softflow-export run --format torchscript --out policy.pt"):
        forget()
        FLOWS._things.pop("mine")
        assert command(reader).status == 0, reader


def test_its_settings_are_flags(mine: Path, command: Any) -> None:
    assert "--practice-steps INT" in command("softflow-train --algo mine/preset.yaml --help").out
    assert "did you mean '--practice-steps'?" in command(f"{TRAIN} --practise-steps 3").error()


@pytest.mark.parametrize("at", [2, 7])
def test_it_is_resumed_by_its_run_folder_alone(at: int, mine: Path, command: Any) -> None:
    """Interrupted in the first stage, and in the second; the preset's file is gone by then."""
    from my_algorithm import SelfImitation  # type: ignore[import-not-found]

    with interrupted(SelfImitation, at=at):
        assert command(f"{TRAIN} --run-dir run").status == 130
    (mine / "preset.yaml").unlink()
    forget()
    resumed = command("softflow-train --resume run")
    assert resumed.status == 0, resumed
    assert stages_of("run") == STAGES and [stage for stage in STAGES if f"after {stage}" in resumed.out] == STAGES
    error = command("softflow-train --resume run --practice-steps 500").error()
    assert "practice_steps cannot be changed" in error


NO_CONFIG = """\
from softflow.algos import FilteredImitation

class Unannotated(FilteredImitation):
    def __init__(self, config, observation_dim, action_dim, device="cpu"):
        super().__init__(config, observation_dim, action_dim, device)
"""


@pytest.mark.parametrize(
    ("preset", "module", "message"),
    [
        ("algorithm: no_such_module:Mine", "", "cannot import 'no_such_module' (ModuleNotFoundError(\"No module named"),
        ("algorithm: no_such_module:Mine", "", "is it installed, or its folder in PYTHONPATH?"),
        ("algorithm: my_algorithm:Mine", "\n1 / 0", "(ZeroDivisionError('division by zero') at my_algorithm.py:2)"),
        (
            "algorithm: my_algorithm:Mine",
            "class Other: ...",
            "'my_algorithm' has no subclass of softflow.algos.Algorithm called 'Mine': valid: none",
        ),
        (
            "algorithm: my_algorithm:Mine",
            "class Mine: ...",
            "algorithm 'my_algorithm:Mine': the class 'Mine' does not derive from softflow.algos.Algorithm: write "
            "`from softflow.algos import Algorithm` and `class Mine(Algorithm)`",
        ),
        ("algorithm: my_algorithm:SelfImitatoin", None, "called 'SelfImitatoin': did you mean 'SelfImitation'?"),
        ("algorithm: my_algorithm:Algorithm", None, "called 'Algorithm': valid: SelfImitation"),
        ("algorithm: my_algorithm:Unannotated", NO_CONFIG, "Unannotated.__init__ must annotate `config` with the data"),
        ("algorithm: softflw", "", "unknown algorithm 'softflw': did you mean 'softflow'? Those of other modules are"),
        ("algorithm: my_algorithm:SelfImitation\npractise_steps: 3", None, "did you mean 'practice_steps'?"),
        (None, None, "mine/preset.yaml: no such file"),
    ],
)
def test_what_is_wrong_is_said(
    preset: str | None,
    module: str | None,
    message: str,
    mine: Path,
    command: Any,
    snapshot: Callable[[], dict],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    if module is not None:
        (mine / "my_algorithm.py").write_text(module)
    if preset is None:
        (mine / "preset.yaml").unlink()
    else:
        (mine / "preset.yaml").write_text(preset)
    before = snapshot()
    assert message in command(TRAIN).error()
    assert snapshot() == before


def test_a_variant_inherits_the_settings(mine: Path, command: Any) -> None:
    """A method of ours with another update needs no constructor."""
    (mine / "my_algorithm.py").write_text(
        "from softflow.algos import FilteredImitation\n\nclass Once(FilteredImitation):\n"
        "    def stages(self):\n        return super().stages()[:2]\n"
    )
    (mine / "preset.yaml").write_text("algorithm: my_algorithm:Once\ncollection: {steps: 400}\n")
    result = command(f"{TRAIN.split(' --practice')[0]} --run-dir run")
    assert result.status == 0, result
    assert stages_of("run") == ["imitation", "collect_1"]


VARIATION = """\
from critics import ChunkCritic
from softflow.algos import SoftFlow, SoftFlowConfig

class Other(ChunkCritic):
    def forward(self, context, chunk):
        return super().forward(context, chunk).sigmoid()

class Variation(SoftFlow):
    def __init__(self, config: SoftFlowConfig, observation_dim, action_dim, device="cpu"):
        super().__init__(config, observation_dim, action_dim, device)

class OtherCritic(Variation):
    def __init__(self, config: SoftFlowConfig, observation_dim, action_dim, device="cpu"):
        super().__init__(config, observation_dim, action_dim, device)
        self.deployed.critic = Other(**self.critic.describe())
"""


def test_a_variation_gets_the_presets_of_its_origin(mine: Path) -> None:
    """A comparison of the two then differs in nothing but the method."""
    (mine / "my_algorithm.py").write_text(VARIATION)
    for selection in ({"preset": "diagnostic"}, {"env": "peg_insertion"}):
        ours = preset_layers(Selection(algorithm="softflow", **selection))
        theirs = preset_layers(Selection(algorithm="my_algorithm:Variation", **selection))
        assert [layer.values for layer in theirs[1:]] == [layer.values for layer in ours[1:]]
        assert len(ours) == 3  # that of the algorithm, of every algorithm, and of this one


def test_a_method_that_derives_from_none_has_its_own_settings(mine: Path) -> None:
    layers = preset_layers(Selection(algorithm="my_algorithm:SelfImitation", preset="diagnostic"))
    assert len(layers) == 2
    layers = preset_layers(Selection(algorithm="takeover_rl", env="peg_insertion"))  # ours, though it derives from one
    assert len(layers) == 2


def test_a_critic_that_no_checkpoint_restores_is_refused(mine: Path, command: Any) -> None:
    (mine / "my_algorithm.py").write_text(VARIATION)
    (mine / "preset.yaml").write_text("algorithm: my_algorithm:OtherCritic\n")
    error = command(f"{TRAIN.split(' --config')[0]} --num-demos 4 --run-dir run").error()
    assert "the critic of self.deployed is of the class Other, but checkpoints only restore a critics" in error
