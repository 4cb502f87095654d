"""softflow-guard, and softflow-eval behind what it writes."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from softflow.data import Dataset, Episode, load_demonstrations, save_demonstrations, whole_chunks
from softflow.policies import ChunkGuard
from softflow.runs.calibrate_guard import make_guard
from softflow.task import ActionPart, ObservationPart, TaskMismatch, TaskSpec
from softflow.training.checkpoint import load_policy, save_policy
from softflow.training.run_folder import RunFolder
from tests.cli.conftest import SAYS_BEST
from tests.formats.hdf5_datasets import write_robomimic
from tests.policies.guards import calibrated

MEANT = "a guard is meant to know demonstrations alone, as the imitated policy does: run/checkpoints/imitation_4\n"
pytestmark = pytest.mark.filterwarnings("ignore:the guard flags few chunks")  # all actions are random
SHARES = ["flagged", "replaced", "unlikely", "limited", "unfamiliar"]


@pytest.fixture
def held_out(small_run: Path) -> None:
    """`held_out.npz`, like what `run` has learnt from but others; and `tiny.npz`."""
    rng = np.random.default_rng(1)
    for name, steps, observations in (("held_out", 30, 3), ("tiny", 5, 3), ("foreign", 30, 4)):
        seen = rng.normal(size=(steps + 1, observations))
        actions, rewards = rng.uniform(-1, 1, (steps, 1)), np.ones(steps)
        save_demonstrations(f"{name}.npz", [Episode(seen, actions, rewards, False, True, False)])


def test_a_guard_counts_in_evaluations(held_out: None, command: Any, measured: Any) -> None:
    with pytest.warns(UserWarning, match=r"the guard flags few chunks .* imitate more demonstrations"):
        result = command("softflow-guard run --demos held_out.npz --out guard --quantile 0.2 --rate-factor 0.001")
    assert result.status == 0 and result.err == f"{SAYS_BEST}{MEANT}"
    guard = ChunkGuard.load("guard")
    observation, chunk = map(torch.as_tensor, whole_chunks(load_demonstrations("held_out.npz"), 4))
    other = [(i + 13) % 27 for i in range(27)]  # half the chunks further
    scores = [guard.log_prob(observation[j : j + 1], chunk[i : i + 1]).item() for i, j in enumerate(other)]
    flagged = sum(score < guard.threshold.item() for score in scores)
    nats = guard.threshold.item()
    normalized = nats / 4 + math.log(guard.density.flow.scale.item())
    assert result.out == (
        f"guard: flags chunks whose log-density is below {nats:.1f} nats (native units; in normalised units "
        f"{normalized:.2f} nats per dimension), the 0.2 quantile of 27 held-out chunks\n"
        f"of these chunks, it flags {flagged / 27:.2f} if they are proposed for the observation of another one\n"
        f"in one step, an action changes by at most action {2 * guard.limits.rate.item():.3g}, in native units\n"
    )
    changes = [np.abs(np.diff(one.action, axis=0)).max() for one in load_demonstrations("run/demonstrations.npz")]
    assert guard.limits.rate.item() == pytest.approx(0.001 * max(changes))

    evaluation = "softflow-eval run --guard guard --episodes 2 --json"
    shares = json.loads(command(f"{evaluation} --csv episodes.csv").out)["guard"]
    assert list(shares) == SHARES
    assert measured(shares["limited"]) > 0.8  # hardly a change is allowed
    with open("episodes.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert np.mean([float(row["guard/flagged"]) for row in rows]) == pytest.approx(shares["flagged"])
    assert json.loads(command(evaluation).out)["guard"] == shares
    watching = json.loads(command(evaluation + " --guard-attempts 0").out)["guard"]
    assert watching["replaced"] == 0 and watching["unlikely"] == watching["flagged"]


@pytest.mark.parametrize("reward", ["sparse", "steps"])
def test_held_out_demonstrations_are_read_as_the_run_learns_from_them(reward: str, command: Any) -> None:
    """Recordings of a robot may say neither rewards nor successes, and the run's settings say both."""
    task = TaskSpec((ObservationPart("joint", (2,)),), (ActionPart("arm", (-1.0,), (1.0,)),), rate=10.0)
    rng = np.random.default_rng(0)
    for name in ("learnt", "held_out"):
        episodes = [
            Episode(rng.normal(size=(31, 2)), rng.uniform(-1, 1, (30, 1)), np.zeros(30), False, True, False)
            for _ in range(2)
        ]
        save_demonstrations(f"{name}.npz", episodes, task)
    train = (
        "softflow-train --algo imitation --env none --demos learnt.npz --demos-success all --run-dir run --threads 1"
    )
    train += f" --reward {reward} --horizon 4 --n-action-steps 2 --batch-size 16 --imitation.updates 4"
    assert command(train).status == 0
    with pytest.warns(UserWarning, match="the guard flags few chunks"):
        result = command("softflow-guard run --demos held_out.npz --out guard")
    assert result.status == 0 and " quantile of 54 held-out chunks\n" in result.out, result


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run --demos run/demonstrations.npz --out guard", "run has learnt from 4 of these demonstrations"),
        ("run --demos tiny.npz --out guard", "a quantile of 0.05 needs at least 19 held-out chunks, got 2"),
        ("run --demos foreign.npz --out guard", "has 4 dimensions, expected 3"),
        ("run --demos held_out.npz --out guard --quantile 1", "quantile: expected a number in (0, 1), got 1"),
        ("run --demos held_out.npz --out guard --rate-factor 0", "--rate-factor must be above 0, got 0"),
        ("run --demos held_out.npz --out run", "run exists; choose another --out"),
        ("run --demos held_out.npz --out run/config.yaml/guard", "run/config.yaml is no folder; choose another --out"),
        ("nowhere --demos held_out.npz --out guard", "nowhere: no such run folder"),
    ],
)
def test_bad_input_is_refused(
    arguments: str, message: str, held_out: None, command: Any, snapshot: Callable[[], dict]
) -> None:
    before = snapshot()
    assert message in command(f"softflow-guard {arguments}").error()
    assert snapshot() == before


def test_guards_that_cannot_watch_are_refused(held_out: None, command: Any) -> None:
    assert "guard.json: no such file" in command("softflow-eval run --guard nowhere").error()
    command("softflow-guard run --demos held_out.npz --out guard")
    assert "give one of video and guard" in command("softflow-eval run --guard guard --video film.mp4").error()
    assert (
        "attempts: expected an integer >= 0" in command("softflow-eval run --guard guard --guard-attempts -1").error()
    )
    calibrated().save("other")
    assert "are of (2, 2, 1) numbers, the policy's of (3, 4, 1)" in command("softflow-eval run --guard other").error()
    config = Path("guard/guard.json")
    config.write_text(config.read_text().replace('"horizon": 4', '"horizon": 2'))
    assert "cannot be loaded" in command("softflow-eval run --guard guard").error()


def test_tasks_are_compared_by_name(held_out: None, command: Any) -> None:
    task = TaskSpec((ObservationPart("angle", (3,)),), (ActionPart("torque", (-2.0,), (2.0,)),))
    checkpoint = RunFolder.open("run").best_checkpoint()
    deployed = load_policy(checkpoint)
    deployed.task = task
    save_policy(checkpoint, deployed)
    assert command("softflow-guard run --demos held_out.npz --out guard --quantile 0.2").status == 0
    guard = ChunkGuard.load("guard")
    assert guard.task == task
    guard.task = dataclasses.replace(task, action=(ActionPart("torque", (-2.0,), (3.0,)),))
    guard.save("stronger")
    error = command("softflow-eval run --guard stronger").error()
    assert (
        "guard stronger is of another task than the policy: action 'torque' has [0] in -2 ... 3, expected -2" in error
    )
    episodes = load_demonstrations("held_out.npz")
    assert make_guard("run", Dataset(episodes, task), 0.2).chunks == 27
    write_robomimic(Path("held_out.hdf5"), episodes)
    with h5py.File("held_out.hdf5", "r+") as file:
        for demonstration in file["data"].values():
            demonstration["actions"][...] *= 2  # in the units of the task
            demonstration["obs/angle"] = demonstration["obs/observation"][:]
            demonstration["next_obs/angle"] = demonstration["next_obs/observation"][:]
    assert make_guard("run", "held_out.hdf5", 0.2).chunks == 27  # the task does not observe all that was recorded
    with pytest.raises(TaskMismatch, match=r"the held-out demonstrations are of another task .*'torque'.* -2 \.\.\. 3"):
        make_guard("run", Dataset(episodes, guard.task), 0.2)
