"""A task that only its camera tells about, and what it is made of: for tests of whatever deals with pictures."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from softflow.data import Episode, EpisodeBuilder
from softflow.task.layout import ObservationLayout, Part

SIZE = 16
LAYOUT = ObservationLayout((Part("camera", (SIZE, SIZE, 3), "uint8"), Part("joint", (2,), "float32")))


class Lamp(gymnasium.Env[dict[str, np.ndarray], np.ndarray]):
    """A spot is lit on the left or on the right; after four steps towards its side the episode is a success.

    Beside the picture, a joint that stands still and the time.
    """

    observation_space = spaces.Dict(
        camera=spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8), joint=spaces.Box(-np.inf, np.inf, (2,), np.float64)
    )
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.side = int(self.np_random.choice([-1, 1]))
        self.row = int(self.np_random.integers(SIZE - 4))
        self.steps, self.position = 0, 0.0
        return self.observation(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.position += float(action[0])
        ended = self.steps == 4
        success = ended and self.side * self.position > 1
        return self.observation(), float(success), ended, False, {"is_success": success}

    def observation(self) -> dict[str, np.ndarray]:
        camera = np.full((SIZE, SIZE, 3), 30, np.uint8)
        column = 3 if self.side < 0 else SIZE - 7
        camera[self.row : self.row + 4, column : column + 4] = 255, 200, 0
        return {"camera": camera, "joint": np.array([0.5, self.steps])}


def lamp_episodes(number: int, first_seed: int = 0) -> list[Episode]:
    """Demonstrations of `Lamp`, packed."""
    return [_demonstration(seed) for seed in range(first_seed, first_seed + number)]


def _demonstration(seed: int) -> Episode:
    env, builder = Lamp(), EpisodeBuilder(LAYOUT)
    observation, _ = env.reset(seed=seed)
    noise = np.random.default_rng(seed)
    while True:
        action = np.array([0.6 * env.side + noise.normal(0, 0.05)])
        following, reward, terminated, _, info = env.step(action)
        builder.append(LAYOUT.pack(observation), action, reward)
        observation = following
        if terminated:
            return builder.finish(LAYOUT.pack(observation), True, False, info["is_success"])
