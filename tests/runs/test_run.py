"""A run from Python is the run of the command: the same settings, checks, numbers and files."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import softflow
from flows.export import load_exported
from softflow import Run, UserError
from softflow.algos import SoftFlow
from softflow.cli import demonstrate, evaluate, guard
from softflow.cli import train as command
from softflow.data import Dataset, Episode, save_demonstrations
from softflow.policies import ChunkGuard
from softflow.runs.run import Metric
from softflow.settings.strict_yaml import write_yaml
from softflow.settings.typed import load_file
from softflow.training.checkpoint import load_policy, save_policy
from softflow.training.run_folder import RunFolder
from tests.cli.training_runs import assert_same, assert_same_run, interrupted

SMALL: dict[str, Any] = {
    "env": "two_routes",
    "num_envs": 2,
    "num_demos": 4,
    "eval_episodes": 2,
    "eval_every": 60,
    "collect_steps": 40,
    "log_every": 2,
    "threads": 1,
    "horizon": 4,
    "n_action_steps": 2,
    "batch_size": 16,
    "critic_width": 8,
    "flow_options": {"layers": 2, "width": 8, "components": 2},
    "imitation": {"updates": 4},
    "warmup": {"updates": 2},
    "offline": {"updates": 2},
    "online": {"steps": 80, "updates_per_step": 0.05},
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return softflow.train(SMALL, run_dir=tmp_path_factory.mktemp("trained") / "run", seed=3).path


@pytest.fixture
def run(trained: Path, folder: Path) -> Run:
    """A copy of it, called `run`."""
    return Run(shutil.copytree(trained, folder / "run"))


def test_it_is_the_run_of_the_command(trained: Path, folder: Path) -> None:
    Path("small.yaml").write_text(write_yaml(SMALL))
    assert command.main(["--config", "small.yaml", "--run-dir", "mine", "--seed", "3"]) == 0
    assert_same_run(trained, "mine")
    ours, theirs = (load_file(path / "config.yaml").values for path in (trained, folder / "mine"))
    assert {key for key in theirs if ours[key] != theirs[key]} == {"config", "run_dir"}


def test_demonstrations_are_a_file_or_episodes() -> None:
    assert demonstrate.main(["--env", "two_routes", "--episodes", "5", "--out", "demos.npz"]) == 0
    episodes = softflow.record_demonstrations("two_routes", 5).episodes
    first = softflow.train(SMALL, demos=Path("demos.npz"), run_dir="first")
    second = softflow.train(SMALL, demos=episodes, run_dir="second")
    assert_same_run(first, second)
    assert_same(
        *([vars(episode) for episode in run.demonstrations().episodes] for run in (first, second)), "demonstrations"
    )
    assert len(second.demonstrations().episodes) == SMALL["num_demos"]


def test_evaluation_is_that_of_the_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert evaluate.main(["run", "--episodes", "3", "--seed", "5", "--json", "--csv", "theirs.csv"]) == 0
    result, episodes = run.evaluate_episodes(3, seed=5, csv="ours.csv")
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(result.as_dict()))
    assert Path("ours.csv").read_bytes() == Path("theirs.csv").read_bytes()
    assert result.mean_return == pytest.approx(sum(float(episode.reward.sum()) for episode in episodes) / 3)
    assert run.evaluate(3, seed=5, success="return>=-1000").success_rate == 1


def test_metrics_are_the_rows_by_name(run: Run) -> None:
    with open("run/metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    metrics = run.metrics()
    assert sum(map(len, metrics.values())) == len(rows)
    assert list(metrics) == list(dict.fromkeys(row["name"] for row in rows))
    expected = [
        Metric(row["stage"], int(row["step"]), float(row["value"])) for row in rows if row["name"] == "flow/nll"
    ]
    assert metrics["flow/nll"] == expected
    assert [stage for stage, *_ in metrics["eval/success_rate"]][:3] == ["imitation", "critic_warmup", "offline"]


@pytest.mark.parametrize("at", [3, 9])
def test_an_interrupted_run_is_resumed_to_the_bit(at: int, trained: Path) -> None:
    with interrupted(SoftFlow, at), pytest.raises(KeyboardInterrupt):
        softflow.train(SMALL, run_dir="parted", seed=3)
    assert Run("parted").resume().path == Path("parted").absolute()
    assert_same_run(trained, "parted")


def test_a_finished_run_goes_on_for_longer(run: Run) -> None:
    run.resume(online={"steps": 120}, log_every=1)
    assert run.config.method.online.steps == 120 and run.config.run.resume is None
    assert run.metrics()["eval/success_rate"][-1].step >= 120


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 4}, "seed cannot be changed"),
        ({"online": {"steps": 10}}, "may only grow: it is 80, got 10"),
        ({"thread": 2}, r"unknown key 'thread': did you mean 'threads'\?"),
    ],
)
def test_a_resumed_run_keeps_its_settings(changes: dict[str, Any], message: str, run: Run) -> None:
    before = contents(run.path)
    with pytest.raises(UserError, match=message):
        run.resume(**changes)
    assert contents(run.path) == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"horizn": 4}, r"^softflow.train: unknown key 'horizn': did you mean 'horizon'\?"),
        ({"imitation": {"update": 4}}, r"'imitation.update': did you mean 'imitation.updates'\?"),
        ({"horizon": "four"}, "'horizon' must be a whole number, got 'four'"),
        ({"preset_or_config": "softflw"}, r"unknown algorithm 'softflw': did you mean 'softflow'\?"),
        ({"env": "two_rotes"}, r"unknown environment 'two_rotes': did you mean 'two_routes'\?"),
        ({"env": 3}, "'env' must be a text, got 3"),
        ({"demos": "nowhere.npz"}, "nowhere.npz"),
        ({"demos": []}, "demos has no episode"),
        ({"demos": [1, 2]}, "demos holds a int"),
        ({"resume": "run"}, "resume is not a setting of a new run"),
        ({"preset_or_config": "softflow", "algo": "rfs"}, "give one of them"),
        ({"replay_capacity": 10}, "too small for one episode"),
    ],
)
def test_what_is_refused_leaves_no_folder(settings: dict[str, Any], message: str, folder: Path) -> None:
    given: Mapping[str, Any] = {**SMALL, "preset_or_config": SMALL, **settings}
    with pytest.raises(UserError, match=message):
        softflow.train(**given)
    assert not list(folder.iterdir())


def test_demonstrations_of_another_environment_are_refused(folder: Path) -> None:
    other = Episode([[0.0] * 3] * 3, [[0.0]] * 2, [0.0, 1.0], terminated=True, truncated=False, is_success=True)
    with pytest.raises(UserError, match="dimensions"):
        softflow.train(SMALL, demos=[other])
    assert not list(folder.iterdir())


def test_demonstrations_are_given_once() -> None:
    save_demonstrations("demos.npz", episodes := softflow.record_demonstrations("two_routes", 2).episodes)
    with pytest.raises(UserError, match=r"as episodes and as the file demos.npz"):
        softflow.train({**SMALL, "demos": "demos.npz"}, demos=episodes)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: run.evaluate(0), "episodes must be at least 1, got 0"),
        (lambda run: run.evaluate(seeds=3), r"evaluate: unknown key 'seeds': did you mean 'seed'\?"),
        (lambda run: run.evaluate(env_options={"gravity": 3}), "gravity"),
        (lambda run: run.evaluate(csv="run/config.yaml"), "exists"),
        (lambda run: run.export("policy.file", "caffe"), "unknown format 'caffe': valid: onnx, torch"),
        (lambda run: run.record_corrections(2), "nothing in 'softflow.TwoRoutes-v0' can take over"),
        (lambda run: run.make_guard(run.demonstrations().episodes), "has learnt from 4 of these demonstrations"),
        (lambda run: Run("nowhere"), "nowhere: no such run folder"),
        (lambda run: softflow.record_demonstrations("two_routes", 0), "episodes must be at least 1"),
        (lambda run: softflow.record_demonstrations("two_routes", 1, sed=0), "did you mean 'seed'"),
    ],
)
def test_what_a_run_refuses(call: Callable[[Run], object], message: str, run: Run) -> None:
    before = contents(Path())
    with pytest.raises(UserError, match=message):
        call(run)
    assert contents(Path()) == before


def test_the_policy_of_a_run_of_a_checkpoint_and_of_its_copy_is_the_same(run: Run) -> None:
    checkpoint = RunFolder.open(run.path).last_checkpoint()
    shutil.copytree(checkpoint, "alone")
    observation = torch.randn(5, run.policy().deployed.policy.observation_dim)
    chunks = []
    for place in (run, run.path, checkpoint, Run(checkpoint), "alone"):
        torch.manual_seed(0)
        chunks.append(softflow.load(place).act(observation))
    assert all(torch.equal(chunk, chunks[0]) for chunk in chunks)
    assert Run(checkpoint).path == run.path
    with pytest.raises(UserError, match="is not a run folder"):
        Run("alone")


def test_an_exported_file_is_the_policy(run: Run) -> None:
    assert run.export("policy.pt", "torchscript") <= 1e-5
    observation = {"observation": torch.randn(4, 2)}
    exported = load_exported("policy.pt", "torchscript", trusted=True)(observation)
    torch.testing.assert_close(exported, run.policy().greedy(observation), rtol=0, atol=1e-5)


def test_a_run_is_a_path(run: Run) -> None:
    small = {"env": "two_routes", "preset": "quick", "num_envs": 2, "num_demos": 4, "eval_episodes": 2, "threads": 1}
    stages = {"base_rollouts": {"steps": 0}, "online": {"steps": 20, "updates_per_step": 0.05}}
    steered = softflow.train("rfs", base=run, demos=run.path / "demonstrations.npz", **small, **stages)
    assert steered.config.method.base == str(run.path)
    assert steered.config.method.horizon == 4  # the base's
    assert steered.path.parent == Path("runs/two_routes/rfs").absolute()


@pytest.mark.filterwarnings("ignore:the guard flags few chunks")
def test_a_guard_is_that_of_the_command(run: Run) -> None:
    save_demonstrations("held_out.npz", held_out := softflow.record_demonstrations("two_routes", 5, seed=8).episodes)
    assert guard.main(["run", "--demos", "held_out.npz", "--out", "guard", "--quantile", "0.1"]) == 0
    theirs = ChunkGuard.load("guard").state_dict()
    assert_same(dict(run.make_guard(held_out, quantile=0.1).state_dict()), dict(theirs), "guard")
    assert set(run.evaluate(2, guard="guard").guard) == {"flagged", "replaced", "unlikely", "limited", "unfamiliar"}


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_an_environment_of_another_task_is_refused_by_name(run: Run) -> None:
    """Its sizes are the same, but a policy may not act, nor a run be resumed, in other units."""
    config = run.path / "config.yaml"
    task = run.demonstrations().task
    assert task is not None and task.name == "softflow/TwoRoutes-v0"
    [part] = task.action
    other = replace(task, action=(replace(part, high=tuple(2.0 for _ in part.high)),))
    save_demonstrations(run.path / "demonstrations.npz", run.demonstrations().episodes, other)
    assert config.is_file()
    with pytest.raises(UserError, match=r"action 'action' has \[0\] in -1 ... 2, expected -1 ... 1"):
        run.resume(online={"steps": 120})
    checkpoint = RunFolder.open(run.path).best_checkpoint()
    deployed = load_policy(checkpoint)
    deployed.task = other
    save_policy(checkpoint, deployed)
    with pytest.raises(UserError, match=r"the environment is another task: action 'action' has \[0\]"):
        run.evaluate(2)
    with pytest.raises(UserError, match="the held-out demonstrations are of another task"):
        run.make_guard(Dataset(softflow.record_demonstrations("two_routes", 5, seed=8).episodes, task))


def test_a_guard_is_calibrated_on_a_file_a_dataset_or_episodes(run: Run) -> None:
    dataset = softflow.record_demonstrations("two_routes", 5, seed=8)
    save_demonstrations("held_out.npz", *dataset)
    guards = [dict(run.make_guard(given).state_dict()) for given in ("held_out.npz", dataset, dataset.episodes)]
    assert_same(guards[0], guards[1], "guard")
    assert_same(guards[0], guards[2], "guard")


def test_two_trainings_in_one_process_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would draw from the same random states."""
    monkeypatch.setattr(SoftFlow, "explore", lambda *_: softflow.train(SMALL, run_dir="second"))
    with pytest.raises(UserError, match="another run trains in this process"):
        softflow.train(SMALL, run_dir="first")
    assert not Path("second").exists()


def test_the_last_line_of_the_metrics_may_be_unfinished(run: Run) -> None:
    path = run.path / "metrics.csv"
    expected, whole = run.metrics(), path.read_text()
    for length in (1, 5, 12, 28, 29):
        path.write_text(whole + "online,90,train/actor_loss,0.5"[:length])
        assert run.metrics() == expected
    path.write_text(f"{whole}online,90,train/actor_loss\n{whole}")
    with pytest.raises(UserError, match=r"metrics\.csv is damaged: each line must have a stage, a step"):
        run.metrics()


def test_paths_are_expanded_and_a_runs_configuration_is_a_preset(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(run.path.parent))
    again = softflow.train(run.path / "config.yaml", run_dir="~/again", online={"steps": np.int64(80)})
    assert again.path == run.path.parent / "again"
    assert again.config.run.env == "two_routes"
    assert_same_run(run, again)
    assert softflow.load("~/again").n_action_steps == 2
