"""softflow-train --base for the methods that train a policy, and what is inherited from the base."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import pytest
import torch

import softflow
from softflow.algos import SoftFlow
from softflow.data import load_demonstrations, save_demonstrations
from softflow.runs import video
from softflow.settings.typed import load_file
from softflow.training.checkpoint import load_policy
from softflow.training.run_folder import RunFolder
from tests.cli.conftest import SAYS_BEST
from tests.cli.training_runs import assert_same_run, interrupted, stages_of

SMALL = (
    "--num-envs 2 --eval-episodes 2 --eval-every 200 --collect-steps 60 --threads 1 --batch-size 16 --n-action-steps 2"
)
SHORT = "--critic-width 8 --warmup.updates 2 --offline.updates 2 --online.steps 60 --online.updates-per-step 0.05"
ROUNDS = "--imitation.updates 2 --collection.rounds 1 --collection.steps 60"


def policy_of(path: Path) -> dict[str, torch.Tensor]:
    return load_policy(path).policy.state_dict()


@pytest.mark.parametrize("algo", ["softflow", "q_chunking"])
def test_the_policy_of_the_base_is_the_imitated_one(algo: str, small_run: Path, command: Any) -> None:
    result = command(f"softflow-train --algo {algo} --base run {SMALL} {SHORT} --run-dir new")
    assert result.status == 0, result
    assert "base run: its policy takes the place of imitation, which is skipped" in result.out
    assert SAYS_BEST in result.err
    assert stages_of("new") == ["critic_warmup", "offline", "online"]
    settings = load_file("new/config.yaml").values
    assert (settings["flow"], settings["horizon"], settings["env"]) == ("coupling", 4, "Pendulum-v1")
    assert settings["flow_options"] == {"layers": 2, "width": 8, "components": 2}
    assert [e.action.tobytes() for e in load_demonstrations("new/demonstrations.npz")] == [
        e.action.tobytes() for e in load_demonstrations("run/demonstrations.npz")
    ]
    base = policy_of(RunFolder.open("run").best_checkpoint())
    start = policy_of(Path("new/checkpoints/critic_warmup_2"))
    assert base.keys() == start.keys() and all(torch.equal(start[name], base[name]) for name in base)
    saved = torch.load(RunFolder.open("new").last_checkpoint() / "training.pt", weights_only=True)["state"]["algorithm"]
    assert all(torch.equal(saved["imitation_policy"][name], base[name]) for name in base)
    learner = saved["policy_learner"]["policy"]
    assert any(not torch.equal(learner[name], base[name]) for name in base)


def test_a_run_with_a_base_is_resumed_without_it(small_run: Path, command: Any) -> None:
    line = f"softflow-train --base run {SMALL} {SHORT}"
    assert command(f"{line} --run-dir whole").status == 0
    with interrupted(SoftFlow, at=3):
        assert command(f"{line} --run-dir parted").status == 130
    small_run.rename("elsewhere")
    assert command("softflow-train --resume parted").status == 0
    assert_same_run("whole", "parted")


def test_the_policy_of_the_base_is_evaluated_and_filmed_by_its_name(
    small_run: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "GIF_RATE", 1)  # few pictures are written faster
    assert command(f"softflow-train --base run {SMALL} {SHORT} --run-dir new").status == 0
    numbers = "--episodes 2 --json"
    of_base, same, changed = (
        command(f"softflow-eval {which} {numbers}") for which in ("run", "new --stage base", "new --stage offline")
    )
    assert same.out == of_base.out != changed.out and same.err == "the policy of run from which new started\n"
    filmed = command("softflow-eval new --episodes 1 --video film.gif --video-beside base")
    assert filmed.status == 0 and "film.gif; base, seed 2000000: " in filmed.err and "; best, " not in filmed.err
    small_run.rename("elsewhere")  # it may also be trained further
    assert command(f"softflow-eval new --stage base {numbers}").out == same.out
    rmtree("new/checkpoints/base")  # as in runs of earlier versions
    assert "run: no such run folder" in command("softflow-eval new --stage base").error()
    Path("elsewhere").rename("run")
    assert command(f"softflow-eval new --stage base {numbers}").out == same.out
    refused = command("softflow-eval new --stage imitation").error()
    assert refused.endswith(
        "new has no stage 'imitation' that has ended: valid: critic_warmup, offline, online; "
        "'base' is the policy from which it started, run\n"
    )
    assert "run has no stage 'base' that has ended" in command("softflow-eval run --stage base").error()


def test_filtered_imitation_collects_with_the_base(small_run: Path, command: Any) -> None:
    result = command(f"softflow-train --algo filtered_imitation --base run {SMALL} {ROUNDS} --run-dir new")
    assert result.status == 0, result
    assert stages_of("new") == ["collect_1", "retrain_1"]
    base = policy_of(RunFolder.open("run").best_checkpoint())
    start = policy_of(Path("new/checkpoints/collect_1_60"))
    assert all(torch.equal(start[name], base[name]) for name in base)


def test_flow_q_learning_goes_on_from_a_run_of_its_own(command: Any) -> None:
    sizes = "--horizon 4 --flow-options.width 8 --one-step.width 8 --one-step.depth 1 --num-demos 4"
    line = f"softflow-train --algo flow_q_learning {SMALL} {SHORT}"
    assert command(f"{line} {sizes} --env two_routes --imitation.updates 2 --run-dir base").status == 0
    result = command(f"{line} --base base --run-dir new --one-step.distillation-weight 10")
    assert result.status == 0, result
    settings = load_file("new/config.yaml").values
    assert settings["one_step"] == {"width": 8, "depth": 1, "distillation_weight": 10}
    assert (settings["env"], settings["num_demos"], stages_of("new")[0]) == ("two_routes", 4, "critic_warmup")
    base = policy_of(RunFolder.open("base").best_checkpoint())
    assert all(torch.equal(policy_of(Path("new/checkpoints/critic_warmup_2"))[name], base[name]) for name in base)
    refused = command(f"softflow-train --base base {SMALL} --run-dir other").error()
    assert "base base: softflow starts from a policy of kind 'flow', not 'one_step': give a run of" in refused


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            "--algo flow_q_learning",
            "starts from a policy of kind 'one_step', not 'flow': give a run of flow_q_learning",
        ),
        ("--flow gaussian", "base run: its flow is 'coupling', not 'gaussian': give no flow"),
        ("--horizon 8", "base run: the base's horizon is 4, expected 8"),
        ("--env two_routes", "base run: the base's observation_dim is 3, expected 2"),
    ],
)
def test_a_base_that_does_not_fit_is_refused(flags: str, message: str, small_run: Path, command: Any) -> None:
    result = command(f"softflow-train --base run {SMALL} --run-dir new --num-demos 4 {flags}")
    assert result.status == 2 and message in result.err.splitlines()[-1]
    assert not Path("new").exists()


def test_what_is_given_is_not_inherited(command: Any) -> None:
    sizes = "--horizon 4 --flow-options.width 8 --num-demos 4 --env two_routes"
    line = f"softflow-train --algo imitation {SMALL} --imitation.updates 2"
    options = "--env-options.max-episode-steps 30 --success any"
    assert command(f"{line} {sizes} {options} --run-dir base").status == 0
    start = {"base": "base", "num_envs": 2, "eval_episodes": 2, "imitation": {"updates": 2}, "batch_size": 16}
    inherited = softflow.train("imitation", run_dir="inherited", **start)
    run = inherited.config.run
    assert (run.env, run.env_options, run.success, run.num_demos) == ("two_routes", {"max_episode_steps": 30}, "any", 4)
    assert run.demos == str(Path("base/demonstrations.npz").absolute())
    other = softflow.record_demonstrations("two_routes", 3, seed=5, env_options={"max_episode_steps": 40}).episodes
    given = softflow.train(
        "imitation", demos=other, env_options={"max_episode_steps": 40}, success="last", run_dir="given", **start
    )
    run = given.config.run
    assert (run.env, run.env_options, run.success, run.demos) == ("two_routes", {"max_episode_steps": 40}, "last", None)
    assert len(given.demonstrations().episodes) == 3


def test_an_environment_is_the_same_by_any_of_its_names(command: Any) -> None:
    sizes = "--horizon 4 --flow-options.width 8 --num-demos 4 --env two_routes"
    line = f"softflow-train --algo imitation {SMALL} --imitation.updates 2"
    rules = "--reward steps --success any --imitate all"
    assert command(f"{line} {sizes} {rules} --run-dir base").status == 0
    result = command(f"{line} --base base --env softflow/TwoRoutes-v0 --run-dir new")
    assert result.status == 0, result
    settings = load_file("new/config.yaml").values
    kept = ("env", "reward", "success", "imitate", "num_demos", "demos")
    expected = ["softflow/TwoRoutes-v0", "steps", "any", "all", 4, str(Path("base/demonstrations.npz").absolute())]
    assert [settings[name] for name in kept] == expected


def test_nothing_is_inherited_from_an_environment_that_is_not_installed(command: Any) -> None:
    sizes = "--horizon 4 --flow-options.width 8 --num-demos 4"
    line = f"softflow-train --algo imitation {SMALL} --imitation.updates 2"
    assert command(f"{line} {sizes} --env two_routes --success any --run-dir base").status == 0
    path = Path("base/config.yaml")
    path.write_text(path.read_text().replace("env: two_routes", "env: gone:Gone-v0"))
    result = command(f"{line} --base base --env two_routes --num-demos 3 --run-dir new")
    assert result.status == 0, result
    settings = load_file("new/config.yaml").values
    assert (settings["success"], settings["demos"], settings["num_demos"]) == ("last", None, 3)
    assert "cannot import 'gone'" in command(f"{line} --base base --run-dir other").error()


# ------------------------------------------------------------------------------ more demonstrations for a resumed run


@pytest.fixture
def more(command: Any) -> str:
    """A run on two_routes, interrupted in its online stage, and `more.npz` with five other demonstrations."""
    line = f"softflow-train --env two_routes {SMALL} {SHORT} --online.steps 120 --horizon 4 --num-demos 4"
    with interrupted(SoftFlow, at=7):
        assert command(f"{line} --imitation.updates 2 --flow-options.width 8 --run-dir run").status == 130
    episodes = softflow.record_demonstrations("two_routes", 5, seed=7).episodes
    save_demonstrations("more.npz", [*load_demonstrations("run/demonstrations.npz")[:1], *episodes])
    return "softflow-train --resume run --demos more.npz"


def test_demonstrations_are_added_once_and_the_statistics_stay(more: str, command: Any) -> None:
    statistics = policy_of(RunFolder.open("run").last_checkpoint())["normalizer.mean"]
    config = Path("run/config.yaml").read_text()
    result = command(more)
    assert result.status == 0 and "more.npz: 5 demonstrations are added, 1 were there already" in result.out, result
    assert len(load_demonstrations("run/demonstrations.npz")) == 9
    assert torch.equal(policy_of(RunFolder.open("run").last_checkpoint())["normalizer.mean"], statistics)
    assert Path("run/config.yaml").read_text() == config
    again = command(f"{more} --online.steps 180")
    assert "more.npz: 0 demonstrations are added, 6 were there already" in again.out
    assert len(softflow.Run("run").demonstrations().episodes) == 9


def test_a_run_with_more_demonstrations_is_resumed_exactly(more: str, command: Any, tmp_path: Path) -> None:
    copytree("run", "whole")
    assert command(more.replace("run", "whole")).status == 0
    with interrupted(SoftFlow, at=2):
        assert command(more).status == 130
    assert command("softflow-train --resume run").status == 0
    assert_same_run("whole", "run")


def test_demonstrations_that_cannot_be_added_change_nothing(
    more: str, command: Any, demonstrations: Path, snapshot: Any
) -> None:
    before = snapshot()
    error = command(f"softflow-train --resume run --demos {demonstrations}").error()
    assert "observation of demonstration 0 has 3 dimensions, expected 2" in error
    assert "nowhere.npz" in command("softflow-train --resume run --demos nowhere.npz").error()
    assert snapshot() == before
    assert command("softflow-train --resume run").status == 0
    before = snapshot()
    assert "run has finished: give online.steps as well" in command(more).error()
    assert snapshot() == before


def test_python_adds_episodes(more: str) -> None:
    softflow.Run("run").resume(demos=load_demonstrations("more.npz"), threads=1)
    assert len(load_demonstrations("run/demonstrations.npz")) == 9
