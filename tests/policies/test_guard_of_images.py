"""A guard of a policy that sees: it knows what its cameras show, and notices when they show something else."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from softflow.data import observation_statistics, whole_chunks
from softflow.errors import UserError
from softflow.policies import ChunkGuard, FlowPolicy, GuardedPolicy
from softflow.policies.pixel_encoder import PixelEncoder
from tests.damage import sign
from tests.pictures import LAYOUT, SIZE, lamp_episodes

HORIZON, EPISODES = 2, 150
CAMERA = LAYOUT.slices["camera"]


def seeing() -> FlowPolicy:
    torch.manual_seed(0)
    options = dict(width=8, features=16)
    policy = FlowPolicy(LAYOUT, 1, HORIZON, "gaussian", dict(width=8), encoder="conv", encoder_options=options)
    policy.normalizer.fit(*(torch.tensor(one).float() for one in observation_statistics(lamp_episodes(20))))
    return policy


def rows(first_seed: int, horizon: int = HORIZON) -> tuple[Tensor, Tensor]:
    observation, chunk = whole_chunks(lamp_episodes(EPISODES, first_seed), horizon)
    return torch.tensor(observation), torch.tensor(chunk)


def calibrated() -> ChunkGuard:
    guard = ChunkGuard(seeing())
    guard.calibrate(guard.summary(rows(0, horizon=1)[0]), *rows(EPISODES))
    return guard


def with_camera(observation: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the observations with other pictures, (B, SIZE, SIZE, 3)."""
    changed = observation.clone()
    pictures = observation[:, CAMERA].unflatten(1, (SIZE, SIZE, 3))
    changed[:, CAMERA] = change(pictures).flatten(1)
    return changed


def test_broken_cameras_are_unfamiliar_and_new_episodes_are_not(measured: Any) -> None:
    guard, fresh = calibrated(), rows(2 * EPISODES)[0]

    def unfamiliar(change: Callable[[Tensor], Tensor]) -> Tensor:
        return (guard.distance(with_camera(fresh, change)) > guard.distance_threshold).float().mean()

    spread = math.sqrt(0.05 * 0.95 * 2 / EPISODES)  # of the share and of the threshold, by whole episodes
    assert measured(unfamiliar(lambda pictures: pictures)) < 0.05 + 6 * spread
    noise = torch.randint(0, 256, (SIZE, SIZE, 3), dtype=torch.uint8)
    assert unfamiliar(torch.zeros_like) == 1
    assert unfamiliar(noise.expand_as) == 1
    assert unfamiliar(lambda pictures: pictures.roll(4, 2)) == 1


def test_numbers_beside_images_are_judged_too() -> None:
    guard, observation = calibrated(), rows(0)[0][:3].clone()
    joint = LAYOUT.slices["joint"]
    observation[:, joint] = torch.tensor([0.5, 1e3]).view(torch.uint8)
    assert (guard.distance(observation) > 10 * guard.distance_threshold).all()
    observation[:, joint] = torch.tensor([math.nan, 1.0]).view(torch.uint8)
    with pytest.raises(ValueError, match=r"observation: dimensions \[0\] are not finite numbers: no action"):
        guard.distance(observation)
    with pytest.raises(ValueError, match=r"observation: expected packed observations, uint8, got torch.float32"):
        guard.distance(observation.float())


def test_a_decision_encodes_each_image_once(monkeypatch: pytest.MonkeyPatch) -> None:
    guard, observation = calibrated(), rows(0)[0][:2]
    encoded: list[int] = []
    seen = PixelEncoder._seen
    monkeypatch.setattr(PixelEncoder, "_seen", lambda *given: encoded.append(len(given[1])) or seen(*given))
    guarded = GuardedPolicy(lambda given: torch.ones(len(given), HORIZON, 1), guard, n_action_steps=1)
    guard.threshold.fill_(1e3)  # nothing passes, so all attempts are made
    _, report = guarded.act(observation)
    assert report.flagged.all() and not report.unfamiliar.any()
    assert encoded == [2]


def test_files_keep_what_a_guard_knows_of_images(tmp_path: Path) -> None:
    guard, observation = calibrated(), rows(0)[0][:5]
    guard.save(tmp_path)
    loaded = ChunkGuard.load(tmp_path)
    assert torch.equal(loaded.distance(observation), guard.distance(observation))
    state = load_file(tmp_path / "guard.safetensors")
    save_file({**state, "colours.std": torch.zeros(48)}, tmp_path / "guard.safetensors")
    sign(tmp_path, "guard")
    with pytest.raises(UserError, match="no observation statistics"):
        ChunkGuard.load(tmp_path)
