"""The mirror image of an episode is an episode: the physics agrees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from softflow.data import Episode, Proposals
from softflow.envs import make_env
from softflow.envs.tape_cut import env as tape_cut
from softflow.envs.tape_cut.observation import OBSERVATION_SLICES
from softflow.envs.tape_cut.symmetry import mirror_actions, mirror_observations, mirror_trajectory
from softflow.runs.assembly import make_mirror
from softflow.training.config import RunConfig
from tests.envs.episodes import demonstrate

MIRRORED_DRAWS = ("case_y", "case_yaw", "fixture_y", "fixture_yaw", "scissors_y", "scissors_yaw", "wrist_y")
YAW = OBSERVATION_SLICES["wrist_position"].start + 3


def test_mirroring_twice_gives_the_original() -> None:
    rng = np.random.default_rng(0)
    observation = rng.normal(size=(5, make_env("tape_cut").observation_space.shape[0])).astype(np.float32)
    action = rng.normal(size=(5, 15)).astype(np.float32)
    twice = mirror_observations(mirror_observations(observation, 1), 1)
    np.testing.assert_allclose(twice, observation, atol=1e-6)
    np.testing.assert_array_equal(mirror_actions(mirror_actions(action)), action)


@pytest.mark.parametrize("mode", range(4))
def test_the_image_of_a_demonstration_cuts_in_the_image_of_its_scene(
    mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    env, seed = make_env("tape_cut"), 3
    shown = demonstrate(env, seed, mode=mode, sloppiness=0, noise=0)
    assert shown.info["is_success"]
    image, image_actions = mirror_trajectory(shown.observations, shown.actions.astype(np.float32))

    rng = np.random.default_rng(seed)
    draws = {name: rng.uniform(*bounds) for name, bounds in tape_cut.RESET_RANGES.items()}
    draws |= {name: -draws[name] for name in MIRRORED_DRAWS}
    draws["wrist_yaw"] = np.sign(image[0, YAW]) * (np.pi if abs(image[0, YAW]) > 1 else 0) - draws["wrist_yaw"]
    monkeypatch.setattr(tape_cut, "RESET_RANGES", {name: (value, value) for name, value in draws.items()})
    mirrored = make_env("tape_cut")
    observation, _ = mirrored.reset(seed=0)
    np.testing.assert_allclose(observation, image[0], atol=0.02)

    for action in image_actions:
        _, _, terminated, _, info = mirrored.step(action)
        if terminated:
            break
    assert info["is_success"]


def test_proposed_chunks_are_mirrored_with_their_episode() -> None:
    """In or out of the box; the executed actions that a proposal starts with stay its start."""
    rng = np.random.default_rng(0)
    observation = rng.normal(size=(7, make_env("tape_cut").observation_space.shape[0]))
    chunk, step = 2 * rng.normal(size=(3, 4, 15)), np.array([0, 2, 4])
    action = chunk[:, :2].reshape(6, 15).clip(-1, 1)
    own = np.array([True, False, True])
    episode = Episode(observation, action, np.ones(6), True, False, True, proposals=Proposals(step, chunk, own), arm=1)
    mirror = make_mirror(RunConfig(env="tape_cut"))
    assert mirror is not None
    image = mirror(episode)
    assert image.proposals is not None and episode.proposals is not None and image.arm == 1
    np.testing.assert_array_equal(image.proposals.chunk, mirror_actions(episode.proposals.chunk))
    np.testing.assert_array_equal(image.action, image.proposals.chunk[:, :2].reshape(6, 15).clip(-1, 1))
    np.testing.assert_array_equal(image.proposals.step, step)
    np.testing.assert_array_equal(image.proposals.own, own)
    plain = mirror(replace(episode, proposals=None))
    np.testing.assert_array_equal(plain.action, image.action)
    np.testing.assert_array_equal(plain.observation, image.observation)


def test_an_episode_of_another_environment_has_no_image() -> None:
    with pytest.raises(ValueError, match=r"of \(3, 1\) numbers, those of tape_cut have \(153, 15\)"):
        mirror_trajectory(np.zeros((5, 3), np.float32), np.zeros((4, 1), np.float32))
