"""softflow-demo --corrections, and the presets that learn from its file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from softflow.algos import Correction
from softflow.data import Corrections, load_dataset, load_demonstrations, save_corrections
from softflow.envs import TapeCutSupervisor, make_env, tasks
from softflow.errors import UserError
from softflow.policies import BestOfN, FlowPolicy, SteeredPolicy
from softflow.runs.record_corrections import record_corrections
from softflow.training.checkpoint import load_policy
from softflow.training.run_folder import RunFolder
from tests.cli.training_runs import interrupted, stages_of

CORRECT = "softflow-train --env Pendulum-v1 --config correct.yaml --base run --corrections c.npz --run-dir corrected"
SMALL = """\
num_envs: 2
num_demos: 4
eval_episodes: 2
threads: 1
n_action_steps: 2
batch_size: 16
critic_width: 8
warmup: {updates: 2}
correction: {updates: 4, q_weight: 0.1}
"""


class PendulumSupervisor:
    """Takes over after a few steps, whatever happens, and pushes with ``torque`` from then on."""

    mode = 0

    def __init__(self, env: gymnasium.Env, rng: np.random.Generator, torque: float = 0.5) -> None:
        self.waited, self.patience, self.torque = 0, int(rng.integers(3, 20)), torque

    def watch(self) -> bool:
        self.waited += 1
        return self.waited == self.patience

    def take_over(self) -> None:
        assert self.waited == self.patience

    def act(self) -> np.ndarray:
        assert self.waited == self.patience
        return np.array([self.torque], np.float32)


@pytest.fixture(autouse=True)
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tasks._tasks, "Pendulum-v1", tasks.Task("Pendulum-v1", supervisor=PendulumSupervisor))
    (tmp_path / "correct.yaml").write_text(SMALL)


def last_policy(run: str) -> SteeredPolicy:
    policy = load_policy(RunFolder.open(run).last_checkpoint()).policy
    assert isinstance(policy, SteeredPolicy)
    return policy


# ------------------------------------------------------------------------------------------------------- recording


def test_corrections_of_a_run(small_run: Path, command: Any) -> None:
    result = command("softflow-demo --corrections run --episodes 3 --seed 2 --json")
    assert result.status == 0, result
    episodes, task = load_dataset("corrections.npz")
    human = [int(episode.human.sum()) for episode in episodes]
    told = json.loads(result.out)
    expected = {"file": "corrections.npz", "episodes": 3, "taken_over": 3, "steps": 600, "human_steps": sum(human)}
    assert {name: told[name] for name in expected} == expected and told["success_rate"] == 0.0
    assert task == load_policy(RunFolder.open("run").last_checkpoint()).task
    assert len(set(human)) > 1 and all(180 < steps < 200 for steps in human)  # the takeover comes after 3 to 19 steps
    for number, episode in enumerate(episodes):
        assert not (np.diff(episode.human.astype(int)) < 0).any()  # the policy gets no second turn
        assert (episode.action[episode.human] == 0.5).all() and episode.action[~episode.human].std() > 0
        assert episode.seed == 5_020_000 + number
    again = command("softflow-demo --corrections run --episodes 3 --seed 2 --out again.npz")
    assert again.status == 0 and Path("again.npz").read_bytes() == Path("corrections.npz").read_bytes()


def test_what_the_policy_proposed_is_recorded(small_run: Path, command: Any) -> None:
    """Two actions of each chunk are executed; a chunk that the takeover cut short is not the policy's own."""
    assert command("softflow-demo --corrections run --episodes 6").status == 0
    cut = []
    for episode in load_demonstrations("corrections.npz"):
        proposals, by_policy = episode.proposals, int((~episode.human).sum())
        assert proposals.step.tolist() == list(range(0, by_policy, 2)) and proposals.chunk.shape[1:] == (4, 1)
        whole = by_policy // 2
        assert proposals.own.tolist() == [True] * whole + [False] * (by_policy % 2)
        executed = episode.action[: 2 * whole].reshape(whole, 2, 1)
        np.testing.assert_array_equal(proposals.chunk[:whole, :2].clip(-1, 1), executed)
        cut.append(by_policy % 2)
    assert set(cut) == {0, 1}


def test_options_of_the_supervisor(small_run: Path, command: Any) -> None:
    result = command("softflow-demo --corrections run --episodes 1 --demonstrator-options.torque -0.25")
    assert result.status == 0, result
    [episode] = load_demonstrations("corrections.npz")
    assert (episode.action[episode.human] == -0.25).all()


def test_tape_cut_is_taken_over_from_an_ignorant_policy() -> None:
    torch.manual_seed(0)
    environment = make_env("tape_cut")
    policy = FlowPolicy(environment.observation_space.shape[0], 15, 4, flow="gaussian")
    policy.normalizer.fit(torch.zeros(policy.observation_dim), torch.ones(policy.observation_dim))
    read = record_corrections(lambda: environment, BestOfN(policy, None, 4, 1, 1.0), 2, seed=0, options={"patience": 5})
    assert any(episode.is_success for episode in read.episodes)
    assert [int((~episode.human).sum()) for episode in read.episodes] == [5, 5]


def test_a_policy_that_never_fails_is_not_watched_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softflow.runs.record_corrections.SEEDS_PER_RUN", 3)
    monkeypatch.setattr(TapeCutSupervisor, "watch", lambda self: False)
    policy = FlowPolicy(make_env("tape_cut").observation_space.shape[0], 15, 4, flow="gaussian")
    policy.normalizer.fit(torch.zeros(policy.observation_dim), torch.ones(policy.observation_dim))
    with pytest.raises(UserError, match="failed in only 0 of 3 episodes: ask for fewer"):
        make = lambda: make_env("tape_cut", max_steps=10)  # noqa: E731
        record_corrections(make, BestOfN(policy, None, 4, 1, 1.0), 1, seed=0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--corrections nowhere", "nowhere: no such run folder"),
        ("--corrections run --env tape_cut", "corrections run: its environment is 'Pendulum-v1': give no --env"),
        ("--corrections run --out used.npz", "used.npz exists; choose another file"),
        ("--corrections run --teleop keyboard", "a person takes over in softflow-robot run run --robot ENVIRONMENT"),
        ("--corrections run --episodes 0", "episodes must be at least 1, got 0"),
        ("--corrections run --demonstrator-options.tork 1", "unexpected keyword argument 'tork'"),
    ],
)
def test_what_cannot_be_recorded(flags: str, message: str, small_run: Path, command: Any, snapshot: Callable) -> None:
    Path("used.npz").write_text("mine")
    before = snapshot()
    assert message in command(f"softflow-demo {flags}").error()
    assert snapshot() == before


def test_an_environment_without_supervisor(small_run: Path, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(tasks._tasks, "Pendulum-v1")
    assert "nothing in 'Pendulum-v1' can take over" in command("softflow-demo --corrections run").error()


# -------------------------------------------------------------------------------------------------------- learning


@pytest.mark.parametrize(("algo", "latent"), [("correction", False), ("latent_correction", True)])
def test_each_preset_learns(algo: str, latent: bool, corrections: Path, command: Any, demonstrations: Path) -> None:
    result = command(f"{CORRECT} --algo {algo} --demos {demonstrations}")
    assert result.status == 0, result
    assert stages_of("corrected") == ["critic_warmup", "correction"]
    policy = last_policy("corrected")
    assert (policy.options["latent"], policy.options["residual"]) == (latent, not latent)
    assert policy.head[-1].weight.abs().max() > 0
    assert Path("corrected/corrections.npz").read_bytes() == corrections.read_bytes()
    assert command("softflow-eval corrected --episodes 2").status == 0


def test_an_interrupted_correction_is_resumed_to_the_bit_without_base_and_file(
    corrections: Path, command: Any, demonstrations: Path
) -> None:
    line = f"{CORRECT} --algo latent_correction --demos {demonstrations}"
    assert command(line.replace("run-dir corrected", "run-dir whole")).status == 0
    with interrupted(Correction, at=5):
        assert command(line).status == 130
    shutil.rmtree("run")
    corrections.unlink()
    assert command("softflow-train --resume corrected").status == 0
    assert Path("corrected/metrics.csv").read_bytes() == Path("whole/metrics.csv").read_bytes()
    whole = last_policy("whole").state_dict()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in last_policy("corrected").state_dict().items())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--corrections none.npz", "none.npz: no such file"),
        ("--corrections pendulum.npz", "corrections pendulum.npz: nobody took over in its 4 episodes"),
        ("--corrections c.npz pendulum.npz", "corrections c.npz: it holds decisions of one policy: give it alone"),
        ("--corrections other.npz", "corrections other.npz: they have (O, H, A) = (3, 5, 1), the base has (3, 4, 1)"),
        ("--corrections failed.npz", "corrections failed.npz: none of them ended in success"),
        ("--base nowhere", "nowhere: no such run folder"),
        ("--steering.latent", "corrections label the latent or the residual"),
        ("--warmup.updates 0", "correction.q_weight needs a critic: give it warmup.updates to learn in"),
    ],
)
def test_bad_input_is_refused(
    flags: str, message: str, corrections: Path, command: Any, demonstrations: Path, snapshot: Callable
) -> None:
    rows, failed = np.zeros(2, int), np.array([False])
    save_corrections("other.npz", Corrections(np.zeros((2, 3)), *np.zeros((2, 2, 5, 1)), rows, ~failed))
    save_corrections("failed.npz", Corrections(np.zeros((2, 3)), *np.zeros((2, 2, 4, 1)), rows, failed))
    before = snapshot()
    line = f"{CORRECT} --algo correction --demos {demonstrations} {flags}"
    assert message in command(line).error()
    assert snapshot() == before


@pytest.mark.parametrize(("missing", "left"), [("--base", "--corrections c.npz"), ("--corrections", "--base run")])
def test_base_and_corrections_are_required(
    missing: str, left: str, corrections: Path, command: Any, demonstrations: Path
) -> None:
    line = f"softflow-train --env Pendulum-v1 --algo correction --demos {demonstrations} {left}"
    assert missing in command(line).error()


def test_help_needs_neither(command: Any) -> None:
    result = command("softflow-train --algo correction --help")
    assert result.status == 0 and "--corrections" in result.out
