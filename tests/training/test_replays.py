"""What the replays of a run hold of pictures: features, and what the encoder returns once it is fixed."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from softflow.algos import (
    Data,
    FlowQLearning,
    FlowQLearningConfig,
    RfsPpo,
    RfsPpoConfig,
    SoftFlow,
    SoftFlowConfig,
    Stage,
    Steering,
    SteeringConfig,
)
from softflow.algos.base import Algorithm
from softflow.algos.trial import TrialConfig
from softflow.data import Replay, observation_statistics
from softflow.policies.pixel_encoder import ENCODERS
from softflow.training.config import RunConfig
from softflow.training.frames import encoded_frames
from softflow.training.replays import Replays, read_from, rows_of_own
from softflow.training.run_folder import RunFolder
from tests.algos.softflow_toys import GAUSSIAN, enter
from tests.pictures import LAYOUT, lamp_episodes

EPISODES, HELD_OUT = lamp_episodes(12), lamp_episodes(2, first_seed=12)
SMALL = dict(horizon=2, n_action_steps=2, batch_size=8)
FEATURES, READ = 2 * 2 * 3 + 4, 16 + 2
"""Sizes of rows: three colours of 2 x 2 cells as int16, or 16 features as int32, and two numbers of four bytes."""


@pytest.fixture(autouse=True)
def quarters(monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder that learns nothing: the colours of the quarters of a picture."""
    monkeypatch.setattr(ENCODERS, "_things", dict(ENCODERS._things))

    class Quarters(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return nn.functional.adaptive_avg_pool2d(image, 2).permute(0, 2, 3, 1)

    ENCODERS.register("quarters", lambda image: Quarters())


def make(method: Any, config: Any, encoder: str = "quarters", copies: int = 0, **settings: Any) -> Any:
    torch.manual_seed(0)
    options = {"features": 16} | ({"copies": copies} if copies else {})
    made = method(config(**SMALL, **GAUSSIAN, encoder=encoder, encoder_options=options, **settings), LAYOUT, 1)
    made.fit_normalizer(*map(torch.as_tensor, observation_statistics(EPISODES)))
    made.fit_actions(EPISODES)
    return made


def replays_of(algorithm: Algorithm, folder: Path) -> tuple[Replays, Data]:
    frames = encoded_frames(algorithm.deployed.policy, "cpu", folder / "features")
    replays = Replays(algorithm, EPISODES, RunConfig(env="none", replay_capacity=100), frames)
    return replays, replays.data(HELD_OUT, RunFolder(folder))


def uninterrupted() -> None:
    pass


def test_rows_are_of_features_until_the_encoder_is_fixed(tmp_path: Path) -> None:
    algorithm = make(SoftFlow, SoftFlowConfig)
    replays, data = replays_of(algorithm, tmp_path)
    rows = []
    for name in ("imitation", "critic_warmup", "offline", "online"):
        stage = enter(algorithm, name)
        before, data = data.offline, replays.with_demonstrations(data, stage, uninterrupted)
        rows.append((data.offline.observation_dtype, data.offline is before))
        assert data.offline.steps == sum(map(len, EPISODES))
        stage.update(data, 0.5)
        stage.diagnose(data)
    assert rows == [(np.int16, False), (np.int32, False), (np.int32, True), (np.int32, True)]
    assert data.offline.used_rows()["observation"].shape == (60, READ)
    assert data.held_out is not None and data.held_out.used_rows()["observation"].shape == (10, FEATURES)
    data.online.add_episode(EPISODES[0])
    own, demonstrated = (replay.used_rows()["observation"] for replay in (data.online, data.offline))
    np.testing.assert_array_equal(own, demonstrated[: len(own)])
    stage.update(data, 0.5)  # on both


def test_a_row_is_what_the_encoder_computes_by_hand(tmp_path: Path) -> None:
    algorithm = make(SoftFlow, SoftFlowConfig)
    replays, data = replays_of(algorithm, tmp_path)
    imitation = enter(algorithm, "imitation")
    imitation.update(replays.with_demonstrations(data, imitation, uninterrupted), 0)
    data = replays.with_demonstrations(data, enter(algorithm, "critic_warmup"), uninterrupted)
    row = data.offline.used_rows()["observation"][7].view(np.float32)  # the second episode's third
    picture, joint = (LAYOUT.unpack(EPISODES[1].observation[2])[name] for name in ("camera", "joint"))
    np.testing.assert_array_equal(row[16:], joint)

    weight = {name: tensor.numpy() for name, tensor in algorithm.policy.encoder.heads[0].state_dict().items()}
    cells = (picture / 255).reshape(2, 8, 2, 8, 3).mean((1, 3)).reshape(4, 3).astype(np.float16).astype(np.float64)
    maps = np.exp(cells @ weight["0.logits.weight"].T + weight["0.logits.bias"])
    maps /= maps.sum(0)  # of the four cells, in each map
    places = np.array([(-1, -1), (-1, 1), (1, -1), (1, 1)])
    pooled = np.concatenate([maps.T @ cells, maps.T @ places], 1).ravel()
    out = weight["1.weight"] @ pooled + weight["1.bias"]
    out = (out - out.mean()) / np.sqrt(out.var() + 1e-5) * weight["2.weight"] + weight["2.bias"]
    np.testing.assert_allclose(row[:16], np.tanh(out), atol=1e-5)


@pytest.mark.parametrize("name", ["critic_warmup", "offline", "online"])
def test_updates_from_both_kinds_of_rows_are_the_same(name: str, tmp_path: Path) -> None:
    """But for rounding. The batches and the draws are the same, because rows draw nothing."""
    algorithm = make(SoftFlow, SoftFlowConfig)
    algorithm.config.online.q_weight = algorithm.config.online.kl_weight = 0.3  # all three terms
    twin = copy.deepcopy(algorithm)
    scalars, weights = [], []
    for one, kind in ((algorithm, "read"), (twin, "features")):
        frames = encoded_frames(one.policy, "cpu", tmp_path)
        assert frames is not None
        rows = getattr(frames, kind)
        replays = [Replay(100, rows.size, 1, rows.dtype, observation_rows=rows.of_own) for _ in range(2)]
        for replay in replays:
            for episode in EPISODES:
                replay.add_episode(episode)
        data = Data(*replays, np.random.default_rng(0))
        torch.manual_seed(1)
        stage = enter(one, name)
        scalars.append([stage.update(data, 0.5) for _ in range(3)])
        weights.append(dict(one.named_weights()))
    for read, features in zip(*scalars, strict=True):
        assert read.keys() == features.keys()
        assert any(name.endswith("_loss") for name in read)
        for key, value in read.items():
            torch.testing.assert_close(value, features[key], rtol=1e-4, atol=1e-5, msg=key)
    for key, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][key], rtol=1e-3, atol=1e-4, msg=key)


OFF = TrialConfig(enabled=False)


@pytest.mark.parametrize(
    ("method", "config", "settings", "stage", "own"),
    [
        (SoftFlow, SoftFlowConfig, {}, "critic_warmup", READ),
        (SoftFlow, SoftFlowConfig, {"trials": OFF}, None, FEATURES),  # its heads learn
        (SoftFlow, SoftFlowConfig, {"copies": 1}, None, FEATURES + 2 * 2 * 3),  # one of which each batch draws
        (SoftFlow, SoftFlowConfig, {"encoder": "conv"}, None, LAYOUT.size),  # which shifts each picture
        (FlowQLearning, FlowQLearningConfig, {}, None, FEATURES),
        (Steering, SteeringConfig, {}, "base_rollouts", READ),
        (Steering, SteeringConfig, {"trials": OFF, "copies": 1}, "base_rollouts", READ),  # the base draws no copy
        (RfsPpo, RfsPpoConfig, {}, "online", READ),
    ],
)
def test_which_methods_read_once(
    method: Any, config: Any, settings: Any, stage: str | None, own: int, tmp_path: Path
) -> None:
    algorithm = make(method, config, **settings)
    frames = encoded_frames(algorithm.deployed.policy, "cpu", tmp_path)
    assert rows_of_own(algorithm, EPISODES[0], frames).size == own
    if frames is not None:
        assert read_from(algorithm) == stage


def test_batches_never_mix_kinds_of_rows(tmp_path: Path) -> None:
    """A method whose encoder is fixed after its first own episodes: these are of features, and so is all else."""
    algorithm = make(SoftFlow, SoftFlowConfig)
    acting, later = Stage("acting", environment_steps=1), Stage("later", updates=1, update=algorithm.improve)
    algorithm.stages = lambda: [acting, replace(later, encoder_is_fixed=True)]
    replays, data = replays_of(algorithm, tmp_path)
    data = replays.with_demonstrations(data, algorithm.stages()[1], uninterrupted)
    assert data.offline.observation_dtype == data.online.observation_dtype == np.int16
    assert read_from(algorithm) is None


def test_an_interruption_leaves_the_replay_for_the_next_attempt(tmp_path: Path) -> None:
    algorithm = make(SoftFlow, SoftFlowConfig)
    replays, data = replays_of(algorithm, tmp_path)
    calls = iter([None, None, KeyboardInterrupt])

    def interrupt() -> None:
        if (error := next(calls)) is not None:
            raise error

    with pytest.raises(KeyboardInterrupt):
        replays.with_demonstrations(data, enter(algorithm, "imitation"), interrupt)
    assert data.offline.steps == 0
    data = replays.with_demonstrations(data, enter(algorithm, "imitation"), uninterrupted)
    assert data.offline.steps == sum(map(len, EPISODES))


def test_ppo_learns_from_what_it_decided_on() -> None:
    """Its decisions are kept as what the frozen base read then, so their densities have not changed."""
    algorithm = make(RfsPpo, RfsPpoConfig)
    policy = algorithm.deployed.policy
    starts = torch.as_tensor(np.stack([episode.observation[0] for episode in EPISODES]))
    decision = algorithm.explore(policy.encoded(starts), torch.zeros(len(starts)))
    algorithm.receive(
        [
            replace(episode, decision=np.concatenate([record[None]] * (len(episode) // 2)))
            for episode, record in zip(EPISODES, decision.record.numpy(), strict=True)
        ]
    )
    decided = algorithm.latest._decided
    first = torch.arange(0, len(decided.log_prob), 2)
    assert decided.observation.dtype == torch.int32
    kept, read = decided.observation[first], policy.read(policy.encoded(starts))
    torch.testing.assert_close(kept.view(torch.float32), read.view(torch.float32))  # read in batches of other sizes
    again = algorithm.log_prob(*(part[first] for part in (decided.observation, decided.latent, decided.residual)))
    torch.testing.assert_close(again, decided.log_prob[first])
