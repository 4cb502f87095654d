"""softflow-train --base with a policy of another project that sees images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import gymnasium
import pytest
import torch
from gymnasium import spaces

from softflow.data import save_demonstrations
from softflow.policies import ForeignPolicy, SteeredPolicy
from softflow.training.checkpoint import load_policy
from softflow.training.run_folder import RunFolder
from tests.pictures import LAYOUT, Lamp, lamp_episodes

MODULE = "tests.cli.seeing_policies"
TRAIN = (
    "softflow-train --env tests/Lamp-v0 --demos lamp.npz --num-demos 24 --horizon 4 --config steer.yaml --run-dir run"
)
STEER = "{num_envs: 2, eval_episodes: 2, batch_size: 8, critic_width: 8, threads: 1, base_rollouts: {steps: 8}}"
SHORT = "--online.steps 16 --replay-capacity 100"


@pytest.fixture(autouse=True)
def lamp(command: Any) -> Iterator[None]:
    gymnasium.register("tests/Lamp-v0", entry_point=Lamp)
    save_demonstrations("lamp.npz", lamp_episodes(24))
    with open("steer.yaml", "w") as file:
        file.write(STEER)
    yield
    gymnasium.registry.pop("tests/Lamp-v0")


def steered() -> tuple[SteeredPolicy, ForeignPolicy]:
    policy = load_policy(RunFolder.open("run").last_checkpoint()).policy
    assert isinstance(policy, SteeredPolicy) and isinstance(policy.base, ForeignPolicy)
    return policy, policy.base


@pytest.mark.parametrize("algo", ["rfs", "latent_steering", "residual"])
def test_a_base_that_sees_is_steered(algo: str, command: Any) -> None:
    result = command(f"{TRAIN} --algo {algo} --base {MODULE}:Seeing {SHORT} --trials.no-enabled")
    assert result.status == 0, result
    policy, base = steered()
    assert policy.head[-1].weight.abs().max() > 0 and base.encoder is None
    evaluated = command("softflow-eval run --episodes 4 --json")
    assert json.loads(evaluated.out)["success_rate"] == 1  # it is the base that knows the side


def test_head_and_critic_read_its_features_and_the_numbers(command: Any) -> None:
    assert command(f"{TRAIN} --algo residual --base {MODULE}:Seeing {SHORT}").status == 0
    policy, base = steered()
    episode = lamp_episodes(1)[0]
    observation = torch.tensor(episode.observation)
    camera = torch.tensor(LAYOUT.unpack(episode.observation)["camera"])
    features = base.features(observation)
    assert policy.context_dim == features.shape[1] == 4
    shown = base.model.features({"camera": camera.numpy()}, "cpu")
    assert torch.equal(features[:, 2:], shown) and not features.requires_grad
    numbers = torch.tensor(LAYOUT.unpack(episode.observation)["joint"])
    assert torch.equal(features[:, :2], base.normalizer(numbers))
    chunk = base.greedy(observation)
    assert chunk.dtype == torch.float32
    assert torch.allclose(chunk, (0.4 * (shown[:, 1] - shown[:, 0]).sign())[:, None, None].expand(-1, 4, 1))


def test_a_base_without_features_is_steered_by_the_numbers(command: Any) -> None:
    result = command(f"{TRAIN} --algo residual --base {MODULE}:Blind {SHORT}")
    assert result.status == 0, result
    policy, _ = steered()
    assert policy.context_dim == 2


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("HalfStated", "has a method features(observation) and a positive integer feature_count, got <bound method"),
        ("WrongCount", "returned features (2, 2), expected (2, 3)"),
    ],
)
def test_features_that_are_not_as_stated_are_refused(base: str, message: str, command: Any) -> None:
    assert message in command(f"{TRAIN} --algo residual --base {MODULE}:{base} {SHORT}").error()


def test_images_alone_need_features(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without numbers, nothing would tell the head where it is."""
    only = spaces.Dict(camera=Lamp.observation_space["camera"])
    monkeypatch.setattr(Lamp, "observation_space", only)
    layout = type(LAYOUT)(LAYOUT.images)
    with pytest.raises(ValueError, match="the task observes images alone, of which head and critic need features"):
        ForeignPolicy(layout, 1, 4, f"{MODULE}:Blind")
    assert ForeignPolicy(layout, 1, 4, f"{MODULE}:Seeing").context_dim == 2
