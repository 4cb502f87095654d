"""Bring your own environment and demonstrations: any gymnasium environment, and one .npz file.

    python examples/custom_environment.py

records scripted demonstrations into detour.npz and trains on them. The same from a shell:

    PYTHONPATH=examples softflow-train --env custom_environment:Detour-v0 --demos detour.npz
"""

from __future__ import annotations

import sys
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from softflow.cli.train import main
from softflow.data import Episode, EpisodeBuilder, save_demonstrations
from softflow.envs import make_env

ENVIRONMENT = "custom_environment:Detour-v0"  # gymnasium's way to name the module that registers it
RADIUS, STEP = 0.3, 0.1


class Detour(gymnasium.Env[np.ndarray, np.ndarray]):
    """A point goes to a goal behind a disc, past it on either side. Touching the disc ends the episode.

    Observation: position and vector to the goal, (4,). Action: a velocity, (2,) in [-1, 1].
    """

    observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.position = np.array([-1.0, self.np_random.uniform(-0.2, 0.2)])
        self.goal = np.array([1.0, self.np_random.uniform(-0.2, 0.2)])
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.position = self.position + STEP * np.asarray(action, np.float64)
        reached = bool(np.linalg.norm(self.goal - self.position) < 1.5 * STEP)
        touched = bool(np.linalg.norm(self.position) < RADIUS)
        return self._observe(), float(reached), reached or touched, False, {"is_success": reached}

    def _observe(self) -> np.ndarray:
        return np.concatenate([self.position, self.goal - self.position]).astype(np.float32)


if "Detour-v0" not in gymnasium.registry:
    gymnasium.register("Detour-v0", entry_point=Detour, max_episode_steps=60)


def demonstrate(env: gymnasium.Env[Any, Any], rng: np.random.Generator, seed: int) -> Episode:
    """One episode of a script that passes the disc above or below, with noise."""
    observation, _ = env.reset(seed=seed)
    side = int(rng.integers(2))
    corner = np.array([0.0, (1 - 2 * side) * (RADIUS + 0.2)])
    builder = EpisodeBuilder()
    while True:
        position, to_goal = observation[:2], observation[2:]
        direction = corner - position if position[0] < -STEP / 2 else to_goal
        action = direction / np.linalg.norm(direction) + rng.normal(0, 0.4, 2)
        action = np.clip(action, -1, 1)
        following, reward, terminated, truncated, info = env.step(action)
        builder.append(observation, action, float(reward))
        observation = following
        if terminated or truncated:
            return builder.finish(observation, terminated, truncated, info["is_success"], mode=side)


if __name__ == "__main__":
    env, rng = make_env(ENVIRONMENT), np.random.default_rng(0)
    save_demonstrations("detour.npz", [demonstrate(env, rng, seed) for seed in range(20)])
    sizes = ["--horizon", "4", "--flow-options.layers", "4", "--flow-options.width", "64", "--threads", "1"]
    budget = ["--imitation.updates", "300", "--online.steps", "5000"]
    sys.exit(main(["--env", ENVIRONMENT, "--demos", "detour.npz", "--num-demos", "20", *sizes, *budget, *sys.argv[1:]]))
