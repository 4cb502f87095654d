"""softflow-demo: files of demonstrations, and what it refuses."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from softflow.data import load_demonstrations, read_dataset
from softflow.envs import make_env
from softflow.runs.record_demonstrations import record_demonstrations
from softflow.training.intervals import wilson_interval
from softflow.training.success import NONE_SUCCEEDS


def test_demonstrations_of_tape_cut(command: Any) -> None:
    result = command("softflow-demo --episodes 3 --out new/demos.npz --seed 2 --env-options.reward staged --json")
    assert result.status == 0, result
    episodes = load_demonstrations("new/demos.npz")
    said, successes = json.loads(result.out), sum(episode.is_success for episode in episodes)
    assert (said["file"], said["episodes"], said["steps"]) == ("new/demos.npz", 3, sum(map(len, episodes)))
    assert said["success_rate"] == pytest.approx(successes / 3) and said["outcome"] == {}
    assert said["success_ci95"] == pytest.approx(wilson_interval(successes, 3))
    # Staged: 1/8, 1/8, 1/4, 1/2.
    rewards = np.concatenate([episode.reward for episode in episodes])
    assert set(rewards) > {0.0, 0.125}
    for episode in episodes:
        assert episode.terminated == episode.is_success and episode.mode in range(4)
        assert episode.reward.sum() == 1 or not episode.is_success


def test_demonstrations_of_cube_rotate(command: Any) -> None:
    """What the environment measured is told of all episodes, and of each mode."""
    result = command("softflow-demo --env cube_rotate --episodes 3 --out demos.npz --json")
    said, modes = json.loads(result.out), [episode.mode for episode in load_demonstrations("demos.npz")]
    assert 0 < said["outcome"]["peak_torque"] <= 0.6 and 0 <= said["outcome"]["dropped"] <= 1
    assert {int(mode): of_mode["episodes"] for mode, of_mode in said["modes"].items()} == Counter(modes)
    for name, mean in said["outcome"].items():
        of_modes = sum(of_mode["episodes"] * of_mode["outcome"][name] for of_mode in said["modes"].values())
        assert of_modes == pytest.approx(3 * mean)
    for episode in load_demonstrations("demos.npz"):
        assert episode.observation.shape[1:] == (66,) and episode.action.shape[1:] == (12,)
        assert episode.terminated != episode.truncated and not (episode.terminated and episode.is_success)
        assert len(np.unique(episode.reward)) > 10  # staged, by its preset


def test_the_seed_decides(command: Any) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert command(f"softflow-demo --episodes 1 --out {name}.npz --seed {seed}").status == 0
    a, b, c = (load_demonstrations(f"{name}.npz")[0].observation for name in "abc")
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a[0], c[0])


def test_options_of_the_environment(command: Any) -> None:
    result = command("softflow-demo --episodes 1 --out d.npz --env-options.reward sparse --env-options.max-steps 5")
    success = "success 0.00 [0.00, 0.79]"
    [mode] = [episode.mode for episode in load_demonstrations("d.npz")]
    assert result.out == f"d.npz: 1 episode, 5 steps, {success}\n  mode {mode}: 1 episode, {success}\n"
    assert result.err.splitlines()[-1] == NONE_SUCCEEDS
    [episode] = load_demonstrations("d.npz")
    assert not episode.reward.any() and episode.truncated and not episode.terminated


def test_options_of_the_demonstrator(command: Any) -> None:
    careful = "--demonstrator-options.sloppiness 0 --demonstrator-options.noise 0 --demonstrator-options.mode 2"
    assert command(f"softflow-demo --episodes 2 --out d.npz {careful}").status == 0
    options = dict(sloppiness=0, noise=0, mode=2)
    expected = record_demonstrations(lambda: make_env("tape_cut"), 2, seed=0, options=options).episodes
    for recorded, episode in zip(load_demonstrations("d.npz"), expected, strict=True):
        assert recorded.mode == 2
        np.testing.assert_array_equal(recorded.action, episode.action)


def test_training_records_the_same_by_itself(command: Any, tmp_path: Path) -> None:
    assert command("softflow-demo --episodes 2 --out demos.npz --seed 5").status == 0
    flags = "--warmup.updates 0 --offline.updates 0 --online.steps 0 --imitation.updates 1 --eval-episodes 1"
    train = f"softflow-train --config small.yaml {flags} --num-demos 2 --seed 5"
    assert command(f"{train} --run-dir own").status == 0
    assert command(f"{train} --run-dir given --demos demos.npz").status == 0
    for name in ("metrics.csv", "demonstrations.npz"):
        own, given = ((tmp_path / run / name).read_bytes() for run in ("own", "given"))
        assert own == given or name.endswith("npz")
    for own, given in zip(*(load_demonstrations(f"{run}/demonstrations.npz") for run in ("own", "given")), strict=True):
        np.testing.assert_array_equal(own.observation, given.observation)
        np.testing.assert_array_equal(own.action, given.action)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--env Pendulum-v1", "no demonstrator is known for 'Pendulum-v1'"),
        ("--env tapecut", "unknown environment 'tapecut': did you mean 'tape_cut'?"),
        ("--out used.npz", "used.npz exists; choose another file"),
        ("--episodes 0", "episodes must be at least 1, got 0"),
        ("--epsodes 3", "unknown flag --epsodes: did you mean '--episodes'?"),
        ("--env-options.reward stagd", "did you mean 'staged'?"),
        ("--demonstrator-options.nose 0", "unexpected keyword argument 'nose'"),
        ("--demonstrator-options.mode 4", "mode must be 0, 1, 2 or 3, got 4"),
        ("--demonstrator-options.noise x", "noise must be a finite number, got 'x'"),
        ("--demonstrator-options.seed 3", "unexpected keyword argument 'seed'"),
        ("--env-options.max-steps 1.5", "max_steps must be a whole number, got 1.5"),
        ("--env-options.name x", "unexpected keyword argument 'name'"),
        ("--seed 100", "seed must be in 0 ... 99, got 100: the episodes of higher seeds are kept for evaluations"),
        ("--out used.npz/new.npz", "used.npz is no folder; choose another file"),
    ],
)
def test_bad_input_is_refused(arguments: str, message: str, command: Any, snapshot: Any) -> None:
    Path("used.npz").write_text("mine")
    before = snapshot()
    assert message in command(f"softflow-demo --episodes 1 {arguments}").error()
    assert snapshot() == before


def test_demonstrations_become_a_lerobot_dataset(command: Any) -> None:
    result = command("softflow-demo --env two_routes --episodes 3 --out reach --to lerobot --rate 10 --json")
    written, kept = read_dataset("reach", "lerobot").episodes, load_demonstrations("reach.npz")
    assert json.loads(result.out)["file"] == "reach" and len(written) == len(kept) == 3
    for one, other in zip(written, kept, strict=True):
        np.testing.assert_array_equal(one.action, other.action)
