"""Training normalises actions by the demonstrations, says how, and goes on with runs that did not."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from flows import NormalizedFlow
from softflow.data import Episode, action_statistics, load_demonstrations, save_demonstrations
from softflow.runs.assembly import load_run
from softflow.settings.typed import load_file
from softflow.training.run_folder import RunFolder
from tests.cli.conftest import Command

TRAIN = "softflow-train --env two_routes --config small.yaml --num-demos 6 --demos demos.npz --threads 1"


@pytest.fixture
def demos(tmp_path: Path) -> None:
    """`demos.npz`: small moves to the right beside a second action that takes two values."""
    rng, episodes = np.random.default_rng(0), []
    for _ in range(6):
        action = np.stack([0.02 * rng.normal(size=20), rng.choice([-1.0, 1.0], 20)], 1)
        episodes.append(Episode(rng.normal(size=(21, 2)), action, np.ones(20), True, False, True))
    save_demonstrations(tmp_path / "demos.npz", episodes)


def normalized_flow(run: str) -> NormalizedFlow:
    flow = load_run(run)[0].policy.policy.flow
    assert isinstance(flow, NormalizedFlow)
    return flow


def test_a_training_says_what_it_normalises(command: Command, demos: None) -> None:
    result = command(f"{TRAIN} --run-dir run")
    assert result.status == 0, result
    learnt_from = load_demonstrations("run/demonstrations.npz")
    statistics = action_statistics(learnt_from)
    low, high = statistics.scale
    largest = max(episode.reward[::-1].cumsum().max() for episode in learnt_from)
    assert (
        f"actions are normalised by scales of {low:.2g} to {high:.2g}; dimensions with few values: action[1]\n"
        in result.out
    )
    assert (
        f"\nthe critic divides rewards by {largest:.3g}, the largest absolute return of a demonstration\n" in result.out
    )
    flow = normalized_flow("run")
    for name in ("center", "scale", "noise"):
        np.testing.assert_allclose(getattr(flow, name), getattr(statistics, name), rtol=1e-6)
    assert command("softflow-eval run --episodes 2").status == 0
    assert command("softflow-export run --format torchscript --out policy.pt").status == 0


def test_constant_actions_are_named(command: Command, demos: None) -> None:
    episodes = load_demonstrations("demos.npz")
    for episode in episodes:
        assert not episode.action.flags.writeable
    still = [
        Episode(e.observation, e.action * [1, 0], e.reward, e.terminated, e.truncated, e.is_success) for e in episodes
    ]
    save_demonstrations("demos.npz", still)
    result = command(f"{TRAIN} --run-dir run --flow-options.noise 0.2 --flow-options.bounds atanh")
    assert result.status == 0 and "; constant dimensions: action[1]\n" in result.out, result
    flow = normalized_flow("run")
    torch.testing.assert_close(flow.noise, 0.2 * flow.scale)
    moves = np.arctanh(0.9 * np.concatenate([e.action for e in episodes])[:, :1].astype(np.float64))
    expected = moves.clip(*np.quantile(moves, (0.01, 0.99)))
    assert flow.scale[0].item() == pytest.approx(expected.std(), rel=1e-5)


def test_without(command: Command, demos: None) -> None:
    result = command(f"{TRAIN} --run-dir run --normalize-actions False")
    assert result.status == 0 and "normalised" not in result.out, result
    assert not isinstance(load_run("run")[0].policy.policy.flow, NormalizedFlow)


def test_steering_takes_the_statistics_of_its_base(command: Command, demos: None) -> None:
    base = f"{TRAIN.replace(' --config small.yaml', '')} --algo imitation --imitation.updates 2 --collection.steps 0"
    assert command(f"{base} --run-dir base --flow-options.width 8 --num-envs 2 --eval-episodes 2").status == 0
    save_demonstrations("other.npz", [
        Episode(e.observation, 0.5 * e.action, e.reward, e.terminated, e.truncated, e.is_success)
        for e in load_demonstrations("demos.npz")
    ])  # fmt: skip
    steer = TRAIN.replace("demos.npz", "other.npz").replace(" --config small.yaml", "")
    small = "--num-envs 2 --eval-episodes 2 --critic-width 8 --base-rollouts.steps 60 --online.steps 60 --batch-size 16"
    result = command(f"{steer} --algo residual --base base --run-dir run --collect-steps 20 --n-action-steps 2 {small}")
    assert result.status == 0 and "normalised" not in result.out, result
    assert torch.equal(normalized_flow("run").scale, normalized_flow("base").scale)
    assert load_file("run/config.yaml").values["normalize_actions"] is True


def test_a_flow_within_the_bounds_alone_is_not_normalised(command: Command, demos: None) -> None:
    inside = [
        Episode(e.observation, 0.5 * e.action, e.reward, e.terminated, e.truncated, e.is_success)
        for e in load_demonstrations("demos.npz")
    ]
    save_demonstrations("demos.npz", inside)
    train = f"{TRAIN.replace(' --config small.yaml', '')} --algo imitation --flow tanh_gaussian --imitation.updates 2"
    train += " --num-envs 2 --eval-episodes 2 --collection.steps 0"
    result = command(f"{train} --run-dir run")
    assert result.status == 0 and "normalised" not in result.out, result
    error = command(f"{train} --run-dir other --normalize-actions True").error()
    assert "flow 'tanh_gaussian' has a density only within (-1, 1), so its actions cannot be normalised" in error


def test_a_run_of_an_earlier_version_goes_on_as_it_was(command: Command, demos: None) -> None:
    """Its configuration mentions neither normalisation nor trials."""
    line = f"{TRAIN} --normalize-actions False --trials.no-enabled --online.critic-updates 1"
    assert command(f"{line} --run-dir whole").status == 0
    assert command(f"{line} --run-dir old --online.steps 200").status == 0
    settings = Path("old/config.yaml").read_text()
    newer = r"^(normalize_actions: .*|  initial_noise: .*|  critic_updates: .*|trials:(\n  .*)+)\n"
    older, removed = re.subn(newer, "", settings, flags=re.MULTILINE)
    assert removed == 5  # critic_updates offline and online
    Path("old/config.yaml").write_text(older)
    method = load_run("old")[1].method
    assert method.normalize_actions is False and method.trials.enabled is False and method.online.critic_updates == 1
    assert method.imitation.initial_noise == 0
    result = command("softflow-train --resume old --online.steps 420")
    assert result.status == 0, result
    assert not isinstance(load_run("old")[0].policy.policy.flow, NormalizedFlow)
    assert RunFolder.open("old").last_checkpoint().name == RunFolder.open("whole").last_checkpoint().name
