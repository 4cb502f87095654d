"""The noise of imitation, which decays over the stage."""

from __future__ import annotations

import pytest
import torch

from softflow.algos.policy_learner import PolicyLearner
from softflow.algos.settings import ImitationConfig, PolicyConfig

SCALE = torch.tensor([0.5, 0.01])


def make_learner(flow: str = "gaussian", normalize: bool | None = True, initial_noise: float = 2.0) -> PolicyLearner:
    torch.manual_seed(0)
    policy = PolicyConfig(flow=flow, normalize_actions=normalize).make_policy(3, 2)
    if policy.normalizes_actions:
        policy.flow.fit(torch.zeros(2), SCALE, torch.zeros(2))
    return PolicyLearner(policy, ImitationConfig(initial_noise=initial_noise), ema_rate=0.1)


@pytest.mark.parametrize(("progress", "size"), [(0.0, 2.0), (0.5, 0.125), (0.75, 2 / 256)])
def test_the_noise_is_a_multiple_of_the_scale_that_decays(progress, size):
    chunk = torch.full((4000, 8, 2), 0.3)
    noise = make_learner().blurred(chunk, progress) - chunk
    assert (noise.mean((0, 1)).abs() < 0.05 * size * SCALE).all()
    torch.testing.assert_close(noise.std((0, 1)), size * SCALE, rtol=0.02, atol=0)


def test_the_noise_has_decayed_in_the_end():
    chunk = torch.randn(5, 8, 2)
    torch.testing.assert_close(make_learner().blurred(chunk, 1 - 1e-9), chunk)


@pytest.mark.parametrize(
    ("flow", "normalize", "initial_noise"),
    [("gaussian", True, 0.0), ("gaussian", False, 2.0), ("tanh_gaussian", None, 2.0), ("flow_matching", True, 2.0)],
)
def test_only_a_likelihood_of_normalised_actions_gets_noise(flow, normalize, initial_noise):
    chunk = torch.randn(5, 8, 2)
    assert make_learner(flow, normalize, initial_noise).blurred(chunk, 0.0) is chunk


@pytest.mark.parametrize("wrong", [-0.1, float("inf"), float("nan")])
def test_impossible_noise_is_refused(wrong):
    with pytest.raises(ValueError, match="initial_noise: expected a finite number >= 0"):
        ImitationConfig(initial_noise=wrong)
