"""softflow-train: a whole run, what it refuses, and resuming."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softflow.algos import SoftFlow
from softflow.data import Episode, load_demonstrations, save_demonstrations
from softflow.settings.typed import load_file
from softflow.training.run_folder import RunFolder
from softflow.training.success import NONE_SUCCEEDS
from tests.cli.training_runs import interrupted

ROOT = Path(__file__).parents[2]
PENDULUM = "softflow-train --env Pendulum-v1 --config small.yaml --run-dir run"
STAGES = ["imitation", "critic_warmup", "offline", "online"]


def test_an_environment_of_gymnasium_with_demonstrations(command: Any, demonstrations: Path, tmp_path: Path) -> None:
    result = command(f"{PENDULUM} --demos {demonstrations} --seed 3")
    assert result.status == 0, result
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"config.yaml", "metrics.csv", "demonstrations.npz", "tb", "checkpoints"} <= names
    settings = load_file("run/config.yaml").values
    assert (settings["env"], settings["seed"], settings["imitation"]["updates"]) == ("Pendulum-v1", 3, 4)
    with open("run/metrics.csv", newline="") as file:
        assert list(dict.fromkeys(row["stage"] for row in csv.DictReader(file))) == STAGES
    summary = result.out[result.out.index("success on held-out episodes") :]
    assert re.findall(r"after (\w+) +0\.00 \[0\.00, 0\.\d\d\]", summary) == STAGES
    assert "run folder: run\n" in summary and "next: softflow-eval run --episodes" in summary
    assert len(load_demonstrations("run/demonstrations.npz")) == 4
    assert result.err.count(NONE_SUCCEEDS) == 1


def test_a_run_is_named_after_what_it_is(command: Any, demonstrations: Path, tmp_path: Path) -> None:
    flags = "--online.steps 0 --offline.updates 0 --warmup.updates 0 --imitation.updates 1"
    result = command(f"softflow-train --env Pendulum-v1 --config small.yaml --demos {demonstrations} {flags}")
    assert result.status == 0, result
    [path] = (tmp_path / "runs" / "Pendulum-v1" / "softflow").iterdir()
    assert path.name.endswith("_s0") and str(path.relative_to(tmp_path)) in result.out


def test_without_demonstrations_the_error_says_how_to_give_them(command: Any, snapshot: Callable[[], dict]) -> None:
    before = snapshot()
    error = command(PENDULUM).error()
    assert "no demonstrator is known for 'Pendulum-v1'" in error and "--demos FILE.npz" in error
    assert snapshot() == before


def test_demonstrations_that_never_earned_anything(command: Any, tmp_path: Path, demonstrations: Path) -> None:
    """Pendulum's own rewards are negative."""
    episodes = [
        Episode(e.observation, e.action, -e.reward, e.terminated, e.truncated, e.is_success)
        for e in load_demonstrations(demonstrations)
    ]
    save_demonstrations(demonstrations, episodes)
    result = command(f"{PENDULUM} --demos {demonstrations}")
    if result.status:
        assert "positive reward" in result.err.splitlines()[-1]
        assert result.status == 2 and result.err.splitlines()[-1].startswith("error: ")


def damaged(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with np.load(path) as file:
            arrays = dict(file)
        change(arrays)
        np.savez(path, **arrays)

    return damage


def put(name: str, value: float) -> Callable[[dict[str, np.ndarray]], None]:
    return lambda arrays: arrays[name].__setitem__(7, value)


def widen(*names: str) -> Callable[[dict[str, np.ndarray]], None]:
    """Two more columns of zeros."""
    return lambda arrays: arrays.update({name: np.pad(arrays[name], ((0, 0), (0, 2))) for name in names})


def keep(share: float) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "no such file"),
    "empty": (keep(0), "empty"),
    "truncated": (keep(0.6), "truncated or corrupt"),
    "text": (lambda path: path.write_text("observation,action\n"), "not an .npz file"),
    "NaN": (damaged(put("observation", np.nan)), r"observation\[7, 0\] = nan"),
    "bounds": (damaged(put("action", 1.5)), r"action\[7, 0\] = 1.5 is outside \[-1, 1\]"),
    "observation": (
        damaged(widen("observation", "final_observation")),
        "observation of demonstration 0 has 5 dimensions, expected 3",
    ),
    "action": (damaged(widen("action")), "action of demonstration 0 has 3 dimensions, expected 1"),
    "shape": (damaged(lambda arrays: arrays.update(reward=arrays["reward"][:-1])), "reward has N = 119"),
    "array": (damaged(lambda arrays: arrays.pop("reward")), "missing reward"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_bad_demonstrations_are_refused(
    damage: str, command: Any, demonstrations: Path, snapshot: Callable[[], dict]
) -> None:
    inflict, message = DAMAGES[damage]
    inflict(demonstrations)
    before = snapshot()
    assert re.search(message, command(f"{PENDULUM} --demos {demonstrations}").error())
    assert snapshot() == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--algo sofflow", "unknown algorithm 'sofflow': did you mean 'softflow'?"),
        ("--env tapecut", "unknown environment 'tapecut': did you mean 'tape_cut'?"),
        (
            "--env cartpole",
            "wrong_mode. The id of another package, or of a module of your own, is written module:Id-v0, such as ",
        ),
        ("--env cartpole", "unknown environment 'cartpole': did you mean 'CartPole-v1'?"),
        ("--env TwoRoutes", "unknown environment 'TwoRoutes': did you mean 'two_routes'?"),
        ("--env Pendulum-v7", "no environment is called 'Pendulum-v7': did you mean 'Pendulum-v1'?"),
        ("--env CartPole-v1", "actions must be a Box of real numbers, 'CartPole-v1' has Discrete"),
        ("--preset quik", "unknown preset 'quik': did you mean 'quick'?"),
        ("--imitaton.updates 4", "unknown flag --imitaton.updates: did you mean '--imitation.updates'?"),
        ("--imitation.updates many", "'many' is not a whole number"),
        ("--config misspelt.yaml", "misspelt.yaml: unknown key 'imitation.udpates': did you mean 'imitation.updates'?"),
        ("--env tape_cut --env-options.rewrd staged", "rewrd"),
        ("--env tape_cut --env-options.reward stagd", "did you mean 'staged'"),
        ("--flow couplin", "unknown flow 'couplin'; did you mean 'coupling'?"),
        ("--flow-options.widht 8", "unknown option 'widht' of flow 'coupling'; did you mean 'width'?"),
        ("--n-action-steps 5", "n_action_steps must be in 1 ... horizon = 4, got 5"),
        ("--num-envs 0", "num_envs must be at least 1, got 0"),
        ("--device abacus", "device 'abacus' cannot be used"),
        ("--device meta", "device 'meta' cannot be used"),
        ("--threads 1025", "threads must be in 1 ... 1024, got 1025"),
        ("--replay-capacity 1e15", "replay_capacity 1000000000000000: "),
        ("--replay-capacity 1e15 --replay-storage disk", "GB of rows, and "),
        ("--critic-width 1e12", "algorithm 'softflow': "),
        ("--num-envs 1e18", "not enough memory, ask for less: "),
        ("--online.learning-rate=-1", "error: online.learning_rate must be above 0, got -1"),
        ("--offline.updates -5", "error: offline.updates must be 0 or more, got -5"),
        ("--online.critic-updates 0", "error: online: critic_updates must be at least 1, got 0"),
        ("--run-dir misspelt.yaml/run", "cannot make the run folder misspelt.yaml/run"),
        ("--run-dir used", "used exists; choose another --run-dir or continue it with --resume used"),
        ("--resume nowhere", "nowhere: no such run folder"),
        ("--resume used", "used is not a run folder"),
        ("--resume", "--resume"),
    ],
)
def test_bad_input_is_refused(
    flags: str, message: str, command: Any, demonstrations: Path, tmp_path: Path, snapshot: Callable[[], dict]
) -> None:
    (tmp_path / "misspelt.yaml").write_text("imitation: {udpates: 3}\n")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    before = snapshot()
    assert message in command(f"{PENDULUM} --demos {demonstrations} {flags}").error()
    assert snapshot() == before


def test_a_used_folder_is_refused_before_demonstrations_are_recorded(command: Any, tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    assert "used exists" in command("softflow-train --env tape_cut --run-dir used").error()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--encoder vonc", "algorithm 'softflow': unknown encoder 'vonc': "),
        ("--algo imitation --encoder vonc", "algorithm 'imitation': unknown encoder 'vonc': "),
        ("--algo imitation --encoder-options.pool x", "algorithm 'imitation': encoder 'conv': unknown pool 'x'"),
        ("--encoder conv --encoder-options.channel 8", "encoder 'conv' has no option 'channel'"),
        ("--encoder-options.channel 8", "encoder 'conv' has no option 'channel'"),
        ("--encoder-options.copies 1", "copies is 1: only a frozen encoder has copies"),
        ("--env-options.observation state --encoder conv", "encoder 'conv' {}: the observation has no images"),
    ],
)
def test_an_encoder_is_refused_before_demonstrations_are_recorded(flags: str, message: str, command: Any) -> None:
    """The error is the only line: a recording would have shown its progress."""
    pixels = "--env two_routes --env-options.observation pixels"
    assert message in command(f"softflow-train {pixels} --run-dir run {flags}").error()


@pytest.mark.parametrize("flag", ["--resume run", "--resume=run"])
def test_a_finished_run_is_resumed_without_harm(
    flag: str, small_run: Path, command: Any, snapshot: Callable[[], dict]
) -> None:
    before = snapshot()
    result = command(f"softflow-train {flag}")
    assert result.status == 0
    assert [stage for stage in STAGES if f"after {stage}" in result.out] == STAGES
    assert snapshot() == before


def test_a_resumed_run_keeps_its_settings(small_run: Path, command: Any, snapshot: Callable[[], dict]) -> None:
    before = snapshot()
    for flags, changed in (
        ("--seed 1", "seed"),
        ("--eval-every 300", "eval_every"),
        ("--algo softflow_gaussian", "algo"),
        ("--flow-options.width 16", "flow_options"),
        ("--imitation.updates 9 --n-action-steps 1", "n_action_steps, imitation.updates"),
    ):
        error = command(f"softflow-train --resume run {flags}").error()
        assert f"a resumed run keeps its settings: {changed} cannot be changed; start a new run" in error
    assert snapshot() == before
    same = command("softflow-train --resume run --seed 0 --online.steps 420")
    assert same.status == 0, same


def test_an_interrupted_run_is_resumed(command: Any, demonstrations: Path) -> None:
    flags = f"--demos {demonstrations} --online.steps 0"
    assert command(f"{PENDULUM} {flags}".replace("run-dir run", "run-dir whole")).status == 0
    with interrupted(SoftFlow, at=6):
        result = command(f"{PENDULUM} {flags}")
    assert result.status == 130
    assert "continue with: softflow-train --resume run" in result.err and result.err.endswith("interrupted\n")
    assert command("softflow-train --resume run").status == 0
    assert Path("run/metrics.csv").read_bytes() == Path("whole/metrics.csv").read_bytes()


@pytest.mark.parametrize("file", ["training.pt", "replay.npz"])
def test_a_damaged_checkpoint_is_not_resumed(file: str, small_run: Path, command: Any) -> None:
    damaged_file = RunFolder.open("run").last_checkpoint() / file
    damaged_file.write_bytes(damaged_file.read_bytes()[:100])
    assert "cannot be resumed" in command("softflow-train --resume run").error()


def test_the_quick_preset_on_the_real_simulator(tmp_path: Path, command: Any) -> None:
    """In a process of its own, as the command's entry point runs it."""
    lengths = "--imitation.updates 3 --warmup.updates 2 --offline.updates 2 --online.steps 450"
    sizes = "--num-demos 3 --num-envs 2 --eval-episodes 2 --threads 1 --batch-size 16"
    code = "import sys; from softflow.cli.train import main; sys.exit(main())"
    line = [sys.executable, "-c", code, *f"--preset quick --run-dir run {lengths} {sizes}".split()]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "3 demonstrations, success" in done.stdout
    assert [stage for stage in STAGES if f"after {stage}" in done.stdout] == STAGES
    assert re.search(r"^online \d+/450 \(\d+ %\)", done.stderr, re.MULTILINE)
    result = json.loads(command("softflow-eval run --episodes 2 --json").out)
    assert {"success_rate", "success_ci95", "outcome"} < result.keys()  # all of them: test_evaluate.py
    assert result["episodes"] == 2 and 0 < result["mean_length"] <= 200
