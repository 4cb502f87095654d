"""The judge: thresholds by hand, how often it cries wolf, and that its files hold all of it."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from softflow.errors import UserError
from softflow.policies import ChunkGuard, FlowPolicy, OneStepPolicy
from tests.damage import sign
from tests.policies.guards import OBSERVATION_DIM, at_quantiles, calibrated, standard_normal


@pytest.mark.parametrize("quantile", [0.01, 0.05, 0.5])
def test_the_threshold_is_the_quantile(quantile: float) -> None:
    # Chi-square of 2 degrees of freedom: a share q of chunks is less likely than exp(-log(2 pi)) q.
    expected = -math.log(2 * math.pi) + math.log(quantile)
    assert calibrated(quantile).threshold.item() == pytest.approx(expected, abs=1e-5)


def test_the_rank_is_rounded_down() -> None:
    # floor(0.05 * 41) = 2, of quantiles at 1/41, 2/41 ...
    expected = -math.log(2 * math.pi) + math.log(2 / 41)
    assert calibrated(0.05, n=40).threshold.item() == pytest.approx(expected, abs=1e-5)


def test_fresh_chunks_are_flagged_as_often_as_said(measured: Any) -> None:
    torch.manual_seed(0)
    policy = FlowPolicy(OBSERVATION_DIM, 2, 3, "coupling", dict(layers=2, width=8, components=3))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.normal_(std=0.3)
    policy.normalizer.fit(torch.zeros(OBSERVATION_DIM), torch.ones(OBSERVATION_DIM))
    observation = torch.randn(8000, OBSERVATION_DIM)
    with torch.no_grad():
        chunk = policy.propose_with_log_prob(observation)[0][:, 0]
    guard, (ours, fresh) = ChunkGuard(policy), observation.split(4000)
    guard.calibrate(torch.randn(4000, OBSERVATION_DIM), ours, chunk[:4000], 0.1)
    flagged = (guard.log_prob(fresh, chunk[4000:]) < guard.threshold).float().mean()
    unfamiliar = (guard.distance(fresh) > guard.distance_threshold).float().mean()
    spread = math.sqrt(0.1 * 0.9 * (1 / 4000 + 1 / 4000))  # binomial, and that of the threshold
    for share in (flagged, unfamiliar):
        assert measured((share - 0.1).abs()) < 6 * spread


def test_distance_by_hand() -> None:
    guard = ChunkGuard(standard_normal())
    learned = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])  # what is seen varies along the diagonal alone
    guard.calibrate(learned, torch.zeros(99, 2), at_quantiles(99))
    # Second moment [[1, 1], [1, 1]] + 0.05 I: 2.05 along the diagonal, 0.05 across it; both points have |o|^2 / 2 = 1.
    distance = guard.distance(torch.tensor([[1.0, 1.0], [1.0, -1.0], [1e3, -1e3]]))
    torch.testing.assert_close(distance, torch.tensor([2.05**-0.5, 20**0.5, 1e3 * 20**0.5]))


def test_the_density_is_a_frozen_copy() -> None:
    policy = standard_normal().train()
    guard = ChunkGuard(policy)
    with torch.no_grad():
        next(policy.parameters()).fill_(7.0)
    assert all((parameter == 0).all() for parameter in guard.density.parameters())
    assert not guard.density.training and not any(p.requires_grad for p in guard.parameters())


def test_an_inexact_density_is_refused() -> None:
    with pytest.raises(ValueError, match="flow 'flow_matching' has no exact density"):
        ChunkGuard(FlowPolicy(2, 1, 2, "flow_matching", dict(width=4, depth=1)))
    with pytest.raises(ValueError, match="needs the density of a FlowPolicy, got OneStepPolicy"):
        ChunkGuard(OneStepPolicy(standard_normal(), width=4, depth=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(quantile=0.0), r"quantile: expected a number in \(0, 1\), got 0.0"),
        (dict(quantile=0.009), "0.009 needs at least 111 held-out chunks, got 99"),
        (dict(chunk=torch.full((99, 2, 1), torch.nan)), "chunk: expected finite numbers"),
        (dict(chunk=torch.full((99, 2, 1), 1e30)), "no density at all"),
        (dict(chunk=torch.zeros(98, 2, 1)), r"expected finite numbers \(99, 2, 1\), got \(98, 2, 1\)"),
        (dict(observation=torch.zeros(99, 3)), r"observation: expected \(B, 2\), got \(99, 3\)"),
        (dict(learned=torch.tensor([[0.0, torch.inf]])), r"learned: expected finite numbers \(M, 2\)"),
        (dict(learned=torch.zeros(0, 2)), "learned: expected at least one row"),
    ],
)
def test_what_cannot_calibrate_is_refused(change: dict, message: str) -> None:
    arguments = dict(learned=torch.ones(4, 2), observation=torch.zeros(99, 2), chunk=at_quantiles(99), quantile=0.05)
    guard = ChunkGuard(standard_normal())
    with pytest.raises(ValueError, match=message):
        guard.calibrate(**{**arguments, **change})
    with pytest.raises(RuntimeError, match="no thresholds"):
        guard.require_calibrated()


def test_a_loaded_guard_judges_the_same(tmp_path: Path) -> None:
    guard = calibrated(rate=0.3, low=-0.7)
    guard.save(tmp_path / "guard")
    loaded = ChunkGuard.load(tmp_path / "guard")
    assert loaded.quantile == 0.05
    state = guard.state_dict()
    assert state.keys() == loaded.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in loaded.state_dict().items())
    observation, chunk = torch.randn(50, 2), torch.randn(50, 2, 1)
    assert torch.equal(loaded.log_prob(observation, chunk), guard.log_prob(observation, chunk))
    assert torch.equal(loaded.distance(observation), guard.distance(observation))
    assert torch.equal(loaded.limits(chunk), guard.limits(chunk))


def test_an_uncalibrated_guard_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="calibrate it"):
        ChunkGuard(standard_normal()).save(tmp_path / "guard")
    assert not (tmp_path / "guard").exists()


def damage(folder: Path, how: str) -> None:
    weights, description = folder / "guard.safetensors", folder / "guard.json"
    if how == "missing":
        weights.unlink()
    elif how == "truncated":
        weights.write_bytes(weights.read_bytes()[:100])
    elif how == "pickle":
        weights.write_bytes(pickle.dumps(print))
    elif how == "not json":
        description.write_text("{")
    elif how == "no density":
        description.write_text(json.dumps({"quantile": 0.05}))
    else:
        name, value = how.split("=")
        state = load_file(weights)
        state[name] = torch.full_like(state[name], float(value))
        save_file(state, weights)
        sign(folder, "guard")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "no such file"),
        ("truncated", "cannot be loaded"),
        ("pickle", "cannot be loaded"),
        ("not json", "cannot be loaded"),
        ("no density", "cannot be loaded: KeyError 'density'"),
        ("threshold=nan", "no thresholds"),
        ("distance_threshold=inf", "no thresholds"),
        ("limits.rate=nan", "expected positive numbers"),
        ("limits.high=9", "low < high"),
        ("density.normalizer.std=0", "no observation statistics"),
    ],
)
def test_damaged_guards_are_refused_in_one_line(how: str, message: str, tmp_path: Path) -> None:
    calibrated().save(tmp_path)
    damage(tmp_path, how)
    with pytest.raises(UserError, match=message) as caught:
        ChunkGuard.load(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
