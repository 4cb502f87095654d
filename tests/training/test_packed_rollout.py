"""Packed observations in environments side by side: bytes, and the layout with every episode."""

from __future__ import annotations

import numpy as np
import pytest

from softflow.envs.packing import ObservationRows
from softflow.task import TaskSpec
from softflow.training.rollout import Rollout
from softflow.training.vector import VectorizationMode, closing, vectorize
from tests.pictures import LAYOUT, Lamp


def make() -> ObservationRows:
    lamp = Lamp()
    spec = TaskSpec.from_env(lamp)
    env = ObservationRows(lamp, spec)
    env.metadata = {**env.metadata, "task_spec": spec}
    return env


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_episodes_are_bytes_with_their_layout(mode: VectorizationMode) -> None:
    seen = []

    def act(observation: np.ndarray, arms: np.ndarray) -> np.ndarray:
        seen.append(observation)
        return np.full((len(observation), 3, 1), 0.5, np.float32)

    with closing(vectorize([make] * 2, n_action_steps=3, mode=mode)) as environments:
        episodes, _ = Rollout(environments, iter(range(2))).collect(act, 8)
    assert len(episodes) == 2 and all(observation.dtype == np.uint8 for observation in seen)
    for episode in episodes:
        assert episode.layout == LAYOUT and episode.observation.dtype == np.uint8
        parts = LAYOUT.unpack(episode.observation)
        np.testing.assert_array_equal(parts["joint"][:, 1], np.arange(5))
    first = [episode.observation[0].tolist() for episode in episodes]
    assert sorted(first) == sorted(LAYOUT.pack(Lamp().reset(seed=seed)[0]).tolist() for seed in range(2))
